"""Points over several axes: which is best, curves and planes through it, and what is uneven."""

from __future__ import annotations

from itertools import product
from typing import Any

import pandas as pd
import pytest

from analysis.learning_rates import compare_best, edge_of_grid, open_edge, optimum
from analysis.plots import axis_figure, plane_figure
from analysis.points import along, at, best_points, completed, point_table, uneven, varied
from analysis.schema.axes import AXES, LR, in_words

DECAY = AXES["weight_decay"]
LOSS = {
    **{(1e-3, 0.1): 2.0, (1e-3, 0.4): 1.8, (1e-3, 1.6): 1.9},
    **{(1e-2, 0.1): 1.5, (1e-2, 0.4): 1.2, (1e-2, 1.6): 1.4},
    **{(1e-1, 0.1): 1.7, (1e-1, 0.4): 1.6, (1e-1, 1.6): 1.3},
}
"""By learning rate and weight decay; the best of each rate is another decay."""


def surface(arch: str = "mamba", seeds: int = 2, **columns: Any) -> pd.DataFrame:
    """Trials at every point."""
    rows = [
        {
            **{"arch": arch, "lr": lr, "weight_decay": decay, "seed": seed},
            **{"outcome": "finished", "bits_per_byte": loss + 0.01 * seed, "macro": 50.0},
            **columns,
        }
        for ((lr, decay), loss), seed in product(LOSS.items(), range(seeds))
    ]
    return pd.DataFrame(rows)


def test_points_are_ranked_over_all_axes() -> None:
    """The best is the best combination, not the best of either axis by itself."""
    table = point_table(surface())
    assert list(table.columns[:3]) == ["arch", "lr", "weight_decay"]
    assert len(table) == len(LOSS)
    assert tuple(table.iloc[0][["lr", "weight_decay"]]) == (1e-2, 0.4)
    assert tuple(table.iloc[1][["lr", "weight_decay"]]) == (1e-1, 1.6)
    assert best_points(surface()) == {"mamba": {"lr": 1e-2, "weight_decay": 0.4}}


def test_a_constant_column_is_no_axis() -> None:
    """Nor is one in which only architectures differ."""
    trials = pd.concat([surface(dropout=0.0), surface("lstm", dropout=0.1)])
    assert varied(trials) == (LR, DECAY)
    assert varied(trials[trials["weight_decay"] == 0.1]) == (LR,)


def test_curves_and_planes_go_through_the_best_point() -> None:
    """Along one axis the others stay at the best point; along two all points are in the plane."""
    trials = surface()
    assert set(along(trials, LR)["weight_decay"]) == {0.4}
    assert set(along(trials, DECAY)["lr"]) == {1e-2}
    assert len(along(trials, LR, DECAY)) == len(trials)


def test_a_value_without_an_ended_trial_is_no_point_yet() -> None:
    """Its trials failed, or go on: tables, curves and planes are of the others."""
    trials = at(surface(), {"weight_decay": 0.1})
    failed = trials.assign(weight_decay=0.4, outcome=None, bits_per_byte=None)
    both = pd.concat([trials, failed])
    assert len(point_table(both)) == 3
    assert set(along(both, LR)["weight_decay"]) == {0.1}
    assert set(along(both, LR, DECAY)["weight_decay"]) == {0.1}


def test_seeds_of_the_chosen_point_do_not_change_the_choice() -> None:
    """A third seed at one point only is left out of the ranking."""
    lucky = surface(seeds=1).assign(seed=2, bits_per_byte=0.1)
    trials = pd.concat([surface(), at(lucky, {"lr": 1e-3, "weight_decay": 0.1})])
    assert best_points(trials)["mamba"] == {"lr": 1e-2, "weight_decay": 0.4}


def test_two_trials_of_a_point_and_seed_are_refused() -> None:
    """They differ in something that is no axis."""
    with pytest.raises(
        ValueError, match="of mamba with learning rate 1e-3 at weight decay 0.1 and seed 0"
    ):
        completed(pd.concat([surface(), surface()]))


def test_each_axis_is_compared_at_the_best_of_the_others() -> None:
    """In the words of the axis."""
    trials = surface()
    assert "mamba: 1e-2 is ahead of 1e-1 by 0.4000" in compare_best(trials, "mamba").sentence
    found = compare_best(trials, "mamba", DECAY)
    assert (found.best, found.runner_up) == (0.4, 1.6)
    assert found.sentence.startswith("mamba: weight decay 0.4 is ahead of 1.6 by 0.2000")
    assert optimum(trials, "mamba").fitted == (1e-3, 1e-1)


def test_an_open_edge_is_named_with_its_flag() -> None:
    """But a bound of the axis is none, and what has no order has no edge."""
    trials = surface()
    assert open_edge(trials, "mamba") == open_edge(trials, "mamba", DECAY) == ""
    few = trials[trials["weight_decay"] > 0.1]
    assert "the best weight decay, 0.4, is the lowest tried" in open_edge(few, "mamba", DECAY)
    assert "Add --weight-decays beyond it." in open_edge(few, "mamba", DECAY)
    assert edge_of_grid([0.0, 0.1], 0.0, DECAY) is None
    assert edge_of_grid([0.0, 0.1], 0.1, DECAY) == "high"
    assert edge_of_grid(["adamw", "muon"], "adamw", AXES["optimizer"]) is None


def test_what_has_begun_beyond_the_edge_is_named() -> None:
    """At the best values of the other axes; elsewhere it says nothing of this edge."""
    few = surface()[lambda trials: trials["weight_decay"] > 0.1]
    begun = few.iloc[:1].assign(outcome=None, weight_decay=0.1)
    found = open_edge(pd.concat([few, begun.assign(lr=1e-2)]), "mamba", DECAY)
    assert "0.4, is the lowest that has ended; 0.1, begun and not ended yet, may be" in found
    assert "Add --weight-decays" not in found
    for elsewhere in (begun.assign(lr=1e-3), begun.assign(lr=1e-2, weight_decay=3.2)):
        assert "lowest tried" in open_edge(pd.concat([few, elsewhere]), "mamba", DECAY)


def test_architectures_with_more_chances_are_named() -> None:
    """By what differed: values of an axis, seeds; nothing is said of what was the same."""
    many = [surface("hgrn2", 3).assign(weight_decay=decay) for decay in range(8)]
    few = [surface("mamba", 1).assign(weight_decay=decay) for decay in (0, 1)]
    hgrn2, mamba = (
        pd.concat(parts).drop_duplicates(["lr", "weight_decay", "seed"]) for parts in (many, few)
    )
    (sentence,) = uneven(pd.concat([hgrn2, mamba, mamba.assign(arch="lstm")]))
    assert (
        "unequal numbers of tries (8 weight decays, 3 seeds for hgrn2; "
        "2 weight decays, 1 seed for mamba, lstm): the best of more tries is better by chance"
    ) in sentence
    rates = at(mamba.assign(arch="lstm"), {"lr": 1e-2})
    (sentence,) = uneven(pd.concat([mamba, rates]))
    assert "(3 learning rates for mamba; 1 learning rate for lstm)" in sentence


def test_equal_chances_are_not_spoken_of() -> None:
    """Nor are seeds that one point alone has, on which nothing is ranked, and unended trials."""
    both = pd.concat([surface(), surface("lstm")])
    assert uneven(both) == uneven(both.assign(outcome=None)) == []
    further = at(surface(seeds=5), {"lr": 1e-2, "weight_decay": 0.4})
    unended = surface().assign(weight_decay=3.2, outcome=None)
    assert uneven(pd.concat([both, at(further, {"seed": 4}), unended])) == []


def test_a_point_in_words() -> None:
    """The learning rate alone as ever, others with their names."""
    assert in_words({"lr": 1e-2}) == "1e-2"
    assert (
        in_words({"lr": 3e-3, "batch_size": 64, "optimizer": "muon"})
        == "3e-3 at batch size 64, optimizer muon"
    )


def texts(figure: Any) -> list[str]:
    """What is written into the first panel."""
    return [text.get_text() for text in figure.axes[0].texts]


def test_the_plane_shows_every_point_and_frames_the_best() -> None:
    """Diverged points say so, and what was not tried stays empty."""
    trials = surface(seeds=1)
    worst = (trials["lr"] == 1e-1) & (trials["weight_decay"] == 0.1)
    trials.loc[worst, "outcome"] = "diverged"
    untried = (trials["lr"] == 1e-3) & (trials["weight_decay"] == 1.6)
    figure = plane_figure(trials[~untried], LR, DECAY)
    panel = figure.axes[0]
    shown = texts(figure)
    assert len(shown) == 8
    assert shown.count("diverged") == 1
    assert "1.2000" in shown
    framed = [patch for patch in panel.patches if patch.get_linewidth() > 2]
    assert [(patch.get_x() + 0.45, patch.get_y() + 0.42) for patch in framed] == [(1.0, 1.0)]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["0.1", "0.4", "1.6"]


def test_a_plane_without_a_finite_loss_is_refused() -> None:
    """There is nothing to draw."""
    with pytest.raises(ValueError, match="no point of the plane has a finite loss"):
        plane_figure(surface().assign(outcome="diverged"), LR, DECAY)


@pytest.mark.parametrize(
    ("name", "values", "scale"),
    [
        ("weight_decay", (0.1, 0.4, 1.6), "log"),
        ("weight_decay", (0.0, 0.1, 0.4), "linear"),
        ("dropout", (0.0, 0.1, 0.2), "linear"),
        ("optimizer", ("adamw", "muon", "adamw"), "linear"),
    ],
)
def test_curves_of_every_axis(name: str, values: tuple[Any, ...], scale: str) -> None:
    """On the axis's own scale, with its label and values."""
    rows = [
        {"arch": "lstm", "lr": 1e-2, name: v, "seed": 0, "outcome": "finished", "bits_per_byte": i}
        for i, v in enumerate(dict.fromkeys(values))
    ]
    panel = axis_figure(pd.DataFrame(rows), AXES[name]).axes[0]
    assert panel.get_xscale() == scale
    assert panel.get_xlabel() == AXES[name].label
