"""The learning-rate picture: what is drawn, in every situation a sweep can end in."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from matplotlib import pyplot

from analysis.plots import STYLES, lr_curve


def trials(archs: list[str], seeds: int = 1, macro: bool = True) -> pd.DataFrame:
    rows = [
        {
            "arch": arch,
            "lr": lr,
            "seed": seed,
            "outcome": "finished",
            "bits_per_byte": 2 + 0.1 * seed,
            "macro": 55.0 + seed if macro else float("nan"),
        }
        for arch in archs
        for lr in (1e-4, 3e-4, 1e-3)
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows)


def svg(frame: pd.DataFrame, folder: Path) -> str:
    """The picture's source; each text stands in it as a comment."""
    return lr_curve(frame, folder / "curve.svg", title="a title").read_text()


def test_formats_follow_the_path(tmp_path: Path) -> None:
    """A .png is a PNG, a .svg an SVG, and pyplot, which keeps figures alive, knows of neither."""
    frame = trials(["mamba"])
    assert lr_curve(frame, tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in lr_curve(frame, str(tmp_path / "curve.svg")).read_text()
    assert pyplot.get_fignums() == []


def test_all_architectures_are_named_in_their_own_style(tmp_path: Path) -> None:
    """Each architecture has its own colour and marker and stands in the legend; so do others."""
    assert len({color for color, _ in STYLES.values()}) == len(STYLES)
    assert len({marker for _, marker in STYLES.values()}) == len(STYLES)
    picture = svg(trials([*STYLES, "gru"], seeds=3), tmp_path)
    for text in (*STYLES, "gru", "min to max of seeds", "chance", "a title", "3e-4"):
        assert f"<!-- {text} -->" in picture
    for color, _ in STYLES.values():
        assert color.lower() in picture
    assert "diverged" not in picture


def test_without_macro_there_is_one_panel(tmp_path: Path) -> None:
    """A study without benchmarks has no empty second panel and no chance line."""
    picture = svg(trials(["lstm"], macro=False), tmp_path)
    assert "validation bits per byte" in picture
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
    """Nothing but crosses is still a picture."""
    picture = svg(trials(["xlstm"], macro=False).assign(outcome="diverged"), tmp_path)
    assert "<!-- diverged (n of seeds) -->" in picture


def test_nothing_to_draw_is_an_error(tmp_path: Path) -> None:
    """A study without any outcome is not an empty picture."""
    with pytest.raises(ValueError, match="no trial has an outcome yet"):
        lr_curve(trials(["mamba"]).assign(outcome=None), tmp_path / "curve.png")
