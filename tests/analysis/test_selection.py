"""Choosing a learning rate and an epoch by each rule."""

from __future__ import annotations

import pandas as pd
import pytest

from analysis.selection import choose

# By (lr, seed), after epochs 1 to 3: macro on the selection split, on all items, and the loss.
CURVES = {
    (1e-3, 0): ([50, 60, 58], [50, 55, 70], [3.0, 2.0, 2.1]),
    (1e-3, 1): ([50, 62, 58], [50, 55, 70], [3.0, 2.2, 2.1]),
    (1e-2, 0): ([50, 52, 55], [50, 52, 60], [3.0, 2.5, 1.9]),
    (1e-2, 1): ([50, 52, 55], [50, 52, 60], [3.0, 2.5, 1.9]),
}


def frames(
    outcomes: dict[tuple[float, int], str] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Trials and epochs of the curves, all finished unless said otherwise."""
    trials, epochs = [], []
    for (lr, seed), (selection, macro, bits) in CURVES.items():
        row = {"run_id": f"{lr}-{seed}", "arch": "mamba", "lr": lr, "seed": seed}
        row["outcome"] = (outcomes or {}).get((lr, seed), "finished")
        best = bits.index(min(bits)) + 1
        trials.append({**row, "bits_per_byte": min(bits), "best_epoch": best, "macro": 50.0})
        for epoch, (chosen, full, loss) in enumerate(zip(selection, macro, bits, strict=True), 1):
            figures = {"selection_macro": chosen, "macro": full, "bits_per_byte": loss}
            epochs.append({**row, "epoch": epoch, **figures})
    return pd.DataFrame(trials), pd.DataFrame(epochs)


def test_loss_chooses_the_rate_by_its_mean_and_each_seed_its_own_epoch() -> None:
    """The rate of least mean loss; every trial is read where its own loss is least."""
    choice = choose(*frames(), "val_loss")["mamba"]
    assert choice.lr == 1e-2
    assert list(choice.trials["epoch"]) == [3, 3]
    slow = choose(*[f[f["lr"] == 1e-3] for f in frames()], "val_loss")["mamba"]
    assert dict(zip(slow.trials["seed"], slow.trials["epoch"], strict=True)) == {0: 2, 1: 3}


def test_the_selection_split_chooses_rate_and_epoch_for_all_seeds() -> None:
    """The greatest mean on the split decides, whatever the figure on all items is there."""
    choice = choose(*frames(), "selection-split")["mamba"]
    assert (choice.lr, list(choice.trials["epoch"])) == (1e-3, [2, 2])
    assert choice.mean("macro") == 55
    assert choice.mean("selection_macro") == 61


def test_the_macro_chooses_by_what_it_reports() -> None:
    """The literature's way takes the greatest mean of the reported figure itself."""
    choice = choose(*frames(), "macro")["mamba"]
    assert (choice.lr, list(choice.trials["epoch"]), choice.mean("macro")) == (1e-3, [3, 3], 70)


@pytest.mark.parametrize("rule", ["val_loss", "selection-split", "macro"])
def test_a_rate_with_a_diverged_seed_is_not_chosen(rule: str) -> None:
    """What the other seed did at that rate does not count."""
    for lr, other in ((1e-3, 1e-2), (1e-2, 1e-3)):
        assert choose(*frames({(lr, 1): "diverged"}), rule)["mamba"].lr == other


def test_without_scores_a_rule_that_wants_them_says_what_to_do() -> None:
    """The message names the rule, and the two ways out."""
    trials, epochs = frames()
    with pytest.raises(ValueError, match=r"--select macro.*--select val_loss, or .* --benchmarks"):
        choose(trials, epochs.drop(columns=["macro"]), "macro")
    assert choose(trials, epochs.drop(columns=["macro"]), "val_loss")["mamba"].lr == 1e-2


def test_nothing_finished_means_nothing_chosen() -> None:
    """A sweep whose trials all go on, or all diverged, has no choice, and no error."""
    going_on = frames(dict.fromkeys(CURVES, None))  # type: ignore[arg-type]
    assert choose(*going_on, "val_loss") == {}
    assert choose(*frames(dict.fromkeys(CURVES, "diverged")), "val_loss") == {}


def test_further_seeds_of_one_rate_do_not_change_the_choice() -> None:
    """A lucky third seed of the worse rate is no reason to choose it; at the chosen rate all seeds
    are read."""
    trials, epochs = frames()
    for lr in (1e-3, 1e-2):
        run_id = f"{lr}-2"
        lucky = {"run_id": run_id, "lr": lr, "seed": 2}
        more = trials[trials["lr"] == lr].iloc[:1].assign(**lucky, bits_per_byte=0.5)
        rows = epochs[epochs["run_id"] == f"{lr}-0"].assign(**lucky, selection_macro=99.0)
        frame = pd.concat([trials, more]), pd.concat([epochs, rows])
        assert choose(*frame, "val_loss")["mamba"].lr == 1e-2
        assert choose(*frame, "selection-split")["mamba"].lr == 1e-3
    assert list(choose(*frame, "val_loss")["mamba"].trials["seed"]) == [0, 1, 2]


def test_a_rate_with_a_stopped_seed_is_a_choice_only_if_all_have_one() -> None:
    """A scheduler stops the seeds that are behind: the one that it let finish was lucky."""
    stopped = frames({(1e-3, 1): "stopped"})
    assert choose(*stopped, "macro")["mamba"].lr == 1e-2
    everywhere = choose(*frames({(1e-3, 1): "stopped", (1e-2, 1): "stopped"}), "macro")["mamba"]
    assert (everywhere.lr, list(everywhere.trials["seed"])) == (1e-3, [0])
