"""What it does to a figure to be chosen by itself."""

from __future__ import annotations

import math

from analysis.reporting.page import Cell, Section, Table
from analysis.reporting.sections.common import ReportContext, ReportPart, number
from analysis.schema.axes import in_words
from analysis.selection import RULES, Selection, choose

_MEANINGS = {
    "val_loss": "validation loss",
    "selection-split": "macro on the selection split",
    "macro": "macro on all items",
}


def optimism(context: ReportContext) -> ReportPart | None:
    """Held-out and full figures under every rule of choice; None without benchmark scores."""
    try:
        choices = {rule: choose(context.sweep, context.study.epochs, rule) for rule in RULES}
    except ValueError:  # a rule wants benchmark scores
        return None
    rows = []
    gaps = []
    for arch in choices["macro"]:
        usual = choices["macro"][arch].mean("macro")
        for rule in RULES:
            choice = choices[rule].get(arch)
            if choice is None:
                continue
            held_out = choice.mean("held_out_macro")
            optimistic = usual - held_out
            if rule == context.select and not math.isnan(optimistic):
                gaps.append(optimistic)
            rows.append(_row(context, arch, rule, choice, optimistic))
    if not gaps:
        return None
    gap = sum(gaps) / len(gaps)
    text = (
        "The usual figure, the macro on all items at the learning rate and epoch where that macro "
        f"is greatest, is on average {abs(gap):.2f} points {'above' if gap >= 0 else 'below'} the "
        f"held-out figure of the rule in use ({_MEANINGS[context.select]})."
    )
    table = Table(
        "optimism",
        "Macro under each rule of choice",
        ("architecture", "chosen by", "at", "held out", "all items", "usual minus held out"),
        tuple(rows),
        "The held-out items are those outside of the selection split, a fixed fifth of each task. "
        "They are other items than all items: part of a difference is which items are hard.",
    )
    return ReportPart(Section("optimism", "Choosing and reporting", (text,), (table,)))


def _row(
    context: ReportContext, arch: str, rule: str, choice: Selection, optimistic: float
) -> tuple[Cell, ...]:
    link = context.link(list(choice.trials["run_id"]))
    epochs = sorted(set(choice.trials["epoch"].astype(int)))
    at = f"{in_words(choice.point)}, epoch {'/'.join(map(str, epochs))}"
    return (
        Cell(arch),
        Cell(_MEANINGS[rule], mark="in use" if rule == context.select else ""),
        Cell(at, choice.lr),
        number(choice.mean("held_out_macro"), 2, link=link),
        number(choice.mean("macro"), 2, link=link),
        Cell("-") if math.isnan(optimistic) else Cell(f"{optimistic:+.2f}", optimistic),
    )
