"""What a submission has, and what is missing in it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis.terminal import say, show_whole
from analysis.wording import count
from sweeps.plans.submit import PREDICTIONS, ZERO_SHOT, SubmissionPlan
from sweeps.plans.tracks import beyond_rules


def show_acquisition(figure: float, words: int, console: Console) -> None:
    """Print how well the order in which words are learned agrees with children's."""
    say(
        console,
        f"Age of acquisition: a correlation of {figure:.3f} with children's, over "
        f"{count(words, 'word')} that both learn.",
    )
    if not figure:
        say(
            console,
            "A correlation of fewer than three words counts as 0, and so does, in 2026, one whose "
            "p-value is above 0.1.",
        )


def show_submission(plan: SubmissionPlan, failed: Collection[str], console: Console) -> bool:
    """Print a row for each model that the track wants and the training came to, and what to do.

    Returns:
        Whether all of that is there.
    """
    title = f"Challenge of {plan.args.protocol}, track {plan.args.track}"
    table = Table(header_style="bold", title=title, title_justify="left")
    for name in ("model", "predictions", "missing"):
        table.add_column(name, overflow="fold")
    unkept, is_whole = 0, not failed
    for revision, is_reached in plan.revisions.items():
        if not is_reached:
            continue
        wanted, missing = plan.wanted(revision), plan.missing(revision)
        names = ", ".join(map(_shown, missing))
        if revision not in plan.models:
            unkept, missing, names = unkept + 1, wanted, "the model"
        elif revision in failed:
            names = f"its evaluation failed, see above; {names}".removesuffix("; ")
        is_whole &= not missing
        table.add_row(revision, f"{len(wanted) - len(missing)} of {len(wanted)}", escape(names))
    console.print(table)
    for sentence in _sentences(plan, unkept):
        say(console, f"[yellow]{escape(sentence)}[/]")
    show_whole(console, "Written to", str(plan.place))
    return is_whole


def _shown(file: Path) -> str:
    """What a file is of, for all predictions are called alike."""
    whole = file.parent if file.name == PREDICTIONS else file
    return str(whole.relative_to(ZERO_SHOT) if ZERO_SHOT in whole.parents else whole)


def _sentences(plan: SubmissionPlan, unkept: int) -> list[str]:
    found = []
    if unkept:
        found.append(
            f"Not kept on the way: {count(unkept, 'model')}. Train with --milestones babylm, in a "
            "--study of its own, to have all."
        )
    if absent := plan.absent:
        found.append(
            f"Not in {plan.full.parent}: "
            f"{', '.join(str(path.relative_to(plan.full.parent)) for path in absent)}. The README "
            f"of the challenge's pipeline of {plan.args.protocol} says how to download the data."
        )
    if plan.words_file is None:
        found.append(
            f"No age of acquisition: {plan.full} has no folder with cdi_childes.json in it."
        )
    elif plan.human_file is None:
        found.append(
            f"No score of the age of acquisition: {plan.full} has no folder with cdi_human.csv in "
            "it."
        )
    if later := sum(not is_reached for is_reached in plan.revisions.values()):
        found.append(
            f"The training saw {count(plan.seen, 'word')}: {count(later, 'model')} that the track "
            f"asks for come later. The challenge's collate_preds {plan.challenge.incomplete}, "
            "unless its lists of revisions are cut, as its README says."
        )
    found += beyond_rules(plan.args.track, plan.corpus_words, plan.epochs)
    found.append("The files hold the benchmarks' texts, EWoK's too: keep them off the public web.")
    return found
