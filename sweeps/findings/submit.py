"""What a submission has, and what is missing in it."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis.terminal import say, show_whole
from analysis.wording import count
from sweeps.plans.submit import SubmissionPlan


def show_acquisition(figure: float, words: int, console: Console) -> None:
    """Print how well the order in which words are learned agrees with children's."""
    say(
        console,
        f"Age of acquisition: a correlation of {figure:.3f} with children's, over "
        f"{count(words, 'word')} that both learn.",
    )


def show_submission(plan: SubmissionPlan, console: Console) -> bool:
    """Print a row for each model that the track wants, and what to do; returns whether all is
    there."""
    table = Table(header_style="bold", title=f"Track {plan.args.track}", title_justify="left")
    for name in ("model", "predictions", "missing"):
        table.add_column(name, overflow="fold")
    untrained, is_whole = [], True
    for revision in plan.revisions:
        wanted, missing = plan.wanted(revision), plan.missing(revision)
        is_whole &= not missing
        if revision not in plan.models:
            untrained.append(revision)
            table.add_row(revision, "0", "the model")
            continue
        names = ", ".join(str(file.parent) for file in missing)
        table.add_row(revision, f"{len(wanted) - len(missing)} of {len(wanted)}", escape(names))
    console.print(table)
    if untrained:
        say(
            console,
            f"[yellow]Not kept on the way: {count(len(untrained), 'model')}. Train with "
            "--milestones babylm, in a --study of its own, to have all.[/]",
        )
    say(
        console,
        "[yellow]The files hold the benchmarks' texts, EWoK's too: keep them off the web.[/]",
    )
    show_whole(console, "Written to", str(plan.place))
    return is_whole
