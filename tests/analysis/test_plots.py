"""The pictures of a study: what is drawn, in every situation a sweep can end in."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from plot_frames import NAN, board, costs, fit, gains, horizons, phenomena, trials

from analysis.learning_rates import Optimum
from analysis.plots import (
    STYLES,
    axis_curve,
    axis_figure,
    cost_curves,
    epoch_figure,
    gain_figure,
    heat_map,
    leaderboard,
)
from analysis.plots.style import line_styles


def svg(frame: pd.DataFrame, folder: Path) -> str:
    """The picture's source; each text stands in it as a comment."""
    return axis_curve(frame, folder / "curve.svg", title="a title").read_text()


def texts(part: Axes) -> list[str]:
    return [text.get_text() for text in part.texts]


def segments(axes: Axes) -> list[list[list[float]]]:
    """Ends of the intervals, as (x, y)."""
    lines = [each for each in axes.collections if isinstance(each, LineCollection)]
    return [np.asarray(segment).tolist() for each in lines for segment in each.get_segments()]


def luminance(color: object) -> float:
    """Relative luminance as WCAG 2.1 has it: 0 is black, 1 is white."""
    channels = np.asarray(to_rgb(color))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def test_formats_follow_the_path(tmp_path: Path) -> None:
    """A .png is a PNG, a .svg an SVG, and pyplot, which keeps figures alive, knows of neither."""
    frame = trials(["mamba"])
    assert axis_curve(frame, tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in axis_curve(frame, str(tmp_path / "curve.svg")).read_text()
    assert pyplot.get_fignums() == []


def test_all_architectures_are_named_in_their_own_style(tmp_path: Path) -> None:
    """Each architecture has its own colour and marker and stands in the legend; so do others."""
    assert len({color for color, _ in STYLES.values()}) == len(STYLES)
    assert len({marker for _, marker in STYLES.values()}) == len(STYLES)
    frame = trials([*STYLES, "gru"], seeds=3)
    picture = axis_curve(frame, tmp_path / "a.svg", title="a title", chance=50.0).read_text()
    for text in (*STYLES, "gru", "min to max of seeds", "chance", "a title", "3e-4"):
        assert f"<!-- {text} -->" in picture
    for color, _ in STYLES.values():
        assert color.lower() in picture
    assert "diverged" not in picture


@pytest.mark.parametrize(
    ("draw", "frame"), [(axis_figure, trials(["lstm"])), (epoch_figure, horizons())]
)
def test_chance_is_where_the_macro_has_it(draw: Callable[..., Figure], frame: pd.DataFrame) -> None:
    """And no line where nobody knows it."""
    panel = draw(frame, chance=36.8).axes[1]
    assert [line.get_ydata() for line in panel.lines if line.get_linestyle() == ":"] == [[36.8] * 2]
    assert panel.get_ylim()[0] < 36.8
    assert "chance" not in texts(draw(frame).axes[1])


def test_without_macro_there_is_one_panel(tmp_path: Path) -> None:
    """A study without benchmarks has no empty second panel and no chance line."""
    picture = svg(trials(["lstm"], macro=False), tmp_path)
    assert "validation bits/byte" in picture
    assert "zero-shot macro" not in picture
    assert "chance" not in picture


def test_diverged_and_stopped_trials_are_seen(tmp_path: Path) -> None:
    """Diverged seeds are counted at their rate, early stops have their own sign."""
    frame = trials(["xlstm"], seeds=3)
    frame.loc[(frame["lr"] == 1e-3) & (frame["seed"] > 0), "outcome"] = "diverged"
    frame.loc[frame["lr"] == 1e-4, "outcome"] = "stopped"
    picture = svg(frame, tmp_path)
    for text in ("2/3", "diverged (n of seeds)", "stopped early"):
        assert f"<!-- {text} -->" in picture


def test_a_study_in_which_all_diverged_is_drawn(tmp_path: Path) -> None:
    """Nothing but crosses is still a picture, which says so."""
    picture = svg(trials(["xlstm"], macro=False).assign(outcome="diverged"), tmp_path)
    assert "<!-- diverged (n of seeds) -->" in picture
    assert "<!-- all trials diverged -->" in picture


def test_nothing_to_draw_is_an_error(tmp_path: Path) -> None:
    """A study without any outcome is not an empty picture."""
    with pytest.raises(ValueError, match="no trial has an outcome yet"):
        axis_curve(trials(["mamba"]).assign(outcome=None), tmp_path / "curve.png")


def test_one_seed_has_no_band() -> None:
    """A single seed is drawn as a line without a band, several with one."""
    assert not axis_figure(trials(["lstm"])).axes[0].collections
    assert axis_figure(trials(["lstm"], seeds=2)).axes[0].collections


def test_other_names_look_alike_in_every_picture() -> None:
    """An architecture of someone else's keeps its look whatever stands beside it, and no two of
    the usual handful look the same."""
    alone = line_styles(["gru"])["gru"]
    assert line_styles(["gru", "lstm", "rwkv", "zamba"])["gru"] == alone
    five = line_styles(["gru", "rwkv", "zamba", "retnet", "s5"])
    assert len({(style.color, style.marker) for style in five.values()}) == 5


def test_fits_are_drawn_with_the_interval_of_the_optimum() -> None:
    """The bar at the foot ends where the interval does, or at the panel's edge with an arrow, and
    the fitted curve is least at the optimum."""
    fits = {
        "lstm": fit("lstm", 4e-4, (2e-4, 8e-4)),
        "mamba": fit("mamba", 3e-4, (1e-6, 1.0)),
        "xlstm": Optimum("xlstm", None, None, None, None, None, 0, "no parabola"),
    }
    axes = axis_figure(trials(["lstm", "mamba", "xlstm"]), fits=fits).axes[0]
    bars = [list(line.get_xdata()) for line in axes.lines if line.get_linewidth() == 3]
    assert bars == [pytest.approx(axes.get_xlim()), [2e-4, 8e-4]]  # lstm above mamba
    arrows = {line.get_marker() for line in axes.lines} & {"<", ">"}
    assert arrows == {"<", ">"}
    curve = next(line for line in axes.lines if len(line.get_xdata()) > 50)
    least = np.argmin(curve.get_ydata())
    assert np.asarray(curve.get_xdata())[least] == pytest.approx(4e-4, rel=0.02)
    assert np.min(curve.get_ydata()) == pytest.approx(1.9, abs=1e-4)


def test_diverged_seeds_of_an_epoch_study_are_counted() -> None:
    """A horizon at which one of two seeds diverged has a cross that says so."""
    axes = epoch_figure(horizons()).axes[0]
    assert "1/2" in texts(axes)
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    assert [float(line.get_xdata()[0]) for line in crosses] == [2]


def test_leaderboard_ranks_by_macro_and_draws_intervals() -> None:
    """The best macro stands on top, each interval reaches from low to high, and what is missing
    is named."""
    macro, ewok, bear = leaderboard(board()).axes
    assert [tick.get_text() for tick in macro.get_yticklabels()] == [
        "mamba, 1 seed",
        "lstm, 3 seeds",
    ]
    assert segments(macro) == [[[69.0, 1.0], [71.0, 1.0]]]  # mamba has no interval
    assert segments(ewok) == [[[68.0, 1.0], [72.0, 1.0]]]
    assert texts(macro) == ["75.0", "70.0"]
    assert texts(ewok) == ["no data", "70.0"]
    assert texts(bear) == ["no data"]
    band = next(patch for patch in ewok.patches if isinstance(patch, Rectangle))
    assert (band.get_x(), band.get_x() + band.get_width()) == (49.0, 51.0)
    assert any(list(line.get_xdata()) == [50.0, 50.0] for line in ewok.lines)


def test_heat_map_writes_every_number_readably() -> None:
    """Every cell has its score in an ink of 4.5:1 at least, a missing one a dash."""
    axes = heat_map(phenomena()).axes[0]
    assert texts(axes) == ["99.0", "40.0", "50.0", "61.5", "75.0", "-"]
    cells = [patch for patch in axes.patches if patch.get_linewidth() == 0]
    for cell, text in zip(cells, axes.texts, strict=False):
        one, other = luminance(cell.get_facecolor()), luminance(text.get_color())
        assert (max(one, other) + 0.05) / (min(one, other) + 0.05) >= 4.5


def test_heat_map_reads_in_grey() -> None:
    """The lighter a cell the higher above chance, and what is not above it has a dashed frame."""
    axes = heat_map(phenomena()).axes[0]
    cells = [patch for patch in axes.patches if patch.get_linewidth() == 0]
    light = [luminance(cell.get_facecolor()) for cell in cells]
    assert np.argsort(light).tolist() == [1, 2, 3, 4, 0]  # 40, 50, 61.5, 75, 99
    frames = [patch for patch in axes.patches if patch.get_linewidth() > 0]
    assert len(frames) == 2  # 40 and 50


def test_costs_that_are_not_known_are_named() -> None:
    """A panel without its cost says so, whether for all architectures or for one."""
    frame = costs()
    assert texts(cost_curves(frame.drop(columns="flops")).axes[1]) == ["no data"]
    frame.loc[frame["arch"] == "mamba", "flops"] = NAN
    assert cost_curves(frame).axes[1].get_title() == "no data: mamba"


def test_costs_are_means_of_the_epochs_that_all_seeds_reached() -> None:
    """A seed that is behind does not bend the mean; an axis over more than 10x is logarithmic."""
    tokens, _, seconds = cost_curves(costs()).axes
    assert tokens.get_xscale() == "log"
    lstm = seconds.lines[0]
    assert np.asarray(lstm.get_xdata()) == pytest.approx([60.5 / 60, 120.5 / 60])
    assert len(tokens.lines) == 2 + 2  # two means, and the two seeds of lstm
    short_run = cost_curves(costs().query("arch == 'lstm'")).axes[0]
    assert short_run.get_xscale() == "linear"


def test_gains_show_whether_they_exclude_zero() -> None:
    """A filled marker is a gain whose interval excludes zero; each panel has its zero line."""
    macro, loss = gain_figure(gains()).axes
    assert segments(macro) == [[[0.5, 0.0], [2.5, 0.0]], [[-0.5, 1.0], [1.5, 1.0]]]
    faces = [line.get_markerfacecolor() for line in macro.lines if line.get_marker() != "None"]
    assert faces == [STYLES["lstm"][0], "none"]
    for axes in (macro, loss):
        assert list(axes.lines[0].get_xdata()) == [0, 0]
    assert not segments(loss)
    assert texts(loss) == ["−0.0100"]


@pytest.mark.parametrize(
    ("draw", "frame"),
    [
        (leaderboard, board()),
        (heat_map, phenomena()),
        (cost_curves, costs()),
        (gain_figure, gains()),
    ],
)
def test_missing_data_is_an_error(
    draw: Callable[[pd.DataFrame], Figure], frame: pd.DataFrame
) -> None:
    """A frame without a row, or without a column that is needed, is named, not drawn empty."""
    with pytest.raises(ValueError, match="nothing to draw"):
        draw(frame.iloc[:0])
    with pytest.raises(ValueError, match=f"lacks {frame.columns[0]}"):
        draw(frame.drop(columns=frame.columns[0]))


@pytest.mark.parametrize(("draw", "frame"), [(leaderboard, board()), (heat_map, phenomena())])
def test_two_values_for_one_cell_are_an_error(
    draw: Callable[[pd.DataFrame], Figure], frame: pd.DataFrame
) -> None:
    """Of two scores for the same cell none is drawn as if it were the only one."""
    with pytest.raises(ValueError, match="lstm has several for"):
        draw(pd.concat([frame, frame.iloc[:1]]))


@pytest.mark.parametrize(
    ("draw", "frame"),
    [
        (heat_map, phenomena().assign(score=NAN)),
        (cost_curves, costs().assign(bits_per_byte=math.inf)),
        (gain_figure, gains().assign(gain=NAN)),
    ],
)
def test_no_value_at_all_is_an_error(
    draw: Callable[[pd.DataFrame], Figure], frame: pd.DataFrame
) -> None:
    """A frame in which nothing was measured is not an empty picture."""
    with pytest.raises(ValueError, match="nothing to draw|no gain is known"):
        draw(frame)
