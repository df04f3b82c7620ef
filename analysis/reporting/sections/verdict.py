"""The first answer of a report: which architecture is best, as far as that can be said."""

from __future__ import annotations

from analysis.inference import ScoreComparison
from analysis.reporting.sections.common import ReportContext, listed
from analysis.reporting.sections.contenders import Contender, no_macro_above_chance
from analysis.reporting.sections.differences import LossDifference, is_shown
from analysis.selection import choose
from analysis.wording import between, count


def answer(
    context: ReportContext, contenders: list[Contender], pairs: list[ScoreComparison]
) -> str:
    """Who is best, by score where one is above chance, and by loss; `contenders` best first."""
    first = contenders[0]
    name = first.choice.arch
    if len(contenders) == 1:
        return f"Only {name} has finished trials in the setting that is compared."
    loss = _by_loss(context)
    if no_macro_above_chance(contenders):
        return f"{_none_above_chance(contenders)} {loss}"
    if not pairs:
        return f"{loss} There are no benchmark scores to compare."
    macro = first.held_out["macro"]
    lead = (
        f"{name} scores best: macro {macro.mean:.1f} on held-out items "
        f"(95 % interval {macro.low:.1f} to {macro.high:.1f})"
    )
    of_first = {_other(pair, name): pair for pair in pairs if name in (pair.first, pair.second)}
    beaten = [other for other, pair in of_first.items() if is_shown(pair.adjusted_p)]
    rest = of_first.keys() - set(beaten)
    others = [c.choice.arch for c in contenders[1:] if c.choice.arch in rest]
    if not beaten:
        verdict = f"this study is too small to separate it from {listed(others)}"
    elif not others:
        verdict = f"it beats {listed(beaten)}"
    else:
        verdict = (
            f"it beats {listed(beaten)}, but this study is too small to separate it from "
            f"{listed(others)}"
        )
    single = [c.choice.arch for c in contenders if len(c.choice.trials) == 1]
    limit = ""
    if single:
        limit = f" (one seed of {listed(single)}: this holds for these models, not for other seeds)"
    return f"{lead}; {verdict}{limit}. {loss}"


def _other(pair: ScoreComparison, name: str) -> str:
    return pair.second if pair.first == name else pair.first


def _none_above_chance(contenders: list[Contender]) -> str:
    """That guessing may reach every macro, and whether any task's score is above it."""
    scored = [c for c in contenders if "macro" in c.held_out]
    means = sorted(c.held_out["macro"].mean for c in scored)
    guessing = scored[0].chance["macro"]
    above = sorted({name for c in scored for name in c.held_out if c.is_above_chance(name)})
    what = "No macro is" if above else "No score is"
    range_of = f"{means[0]:.1f}" if len(means) == 1 else f"{means[0]:.1f} to {means[-1]:.1f}"
    text = (
        f"{what} above chance (macro {range_of} on held-out items; {guessing.in_words}), so the "
        "macro names no best architecture."
    )
    return f"{text} Above chance in single tasks: {listed(above)}." if above else text


def _by_loss(context: ReportContext) -> str:
    """Which architecture has the least validation loss, at the rate and epoch where it has it, and
    how far it is from the next."""
    choices = choose(context.sweep, context.study.epochs, "val_loss").values()
    best, *others = sorted(choices, key=lambda choice: choice.mean("bits_per_byte"))
    text = (
        f"By validation loss, {best.arch} is best ({best.mean('bits_per_byte'):.4f} bits/byte, "
        f"{count(len(best.trials), 'seed')})"
    )
    if not others:
        return f"{text}."
    second = others[0]
    behind = LossDifference.of(second, best, context.shared("bits_per_byte"))
    if behind is None:
        gap = second.mean("bits_per_byte") - best.mean("bits_per_byte")
        lead = f"{gap:.4f} bits/byte ahead of {second.arch}"
        return f"{text}, {lead}; the spread over seeds is not known."
    verdict = "" if behind.low > 0 else ", so either may be the better"
    return (
        f"{text}, {behind.mean:.4f} bits/byte ahead of {second.arch} (95 % interval "
        f"{behind.low:.4f} to {behind.high:.4f}{verdict})."
    )


def how(context: ReportContext, contenders: list[Contender]) -> str:
    """How the architectures' figures were chosen, and what their intervals are over."""
    rules = {
        "val_loss": "Learning rate and epoch were chosen by validation loss",
        "selection-split": (
            "Learning rate and epoch were chosen by the macro on the selection split, a fixed "
            "fifth of each task's items"
        ),
        "macro": (
            "Learning rate and epoch were chosen by the macro on all items, the reported ones "
            "among them, which flatters it"
        ),
    }
    seeds = [len(c.choice.trials) for c in contenders]
    return (
        f"{rules[context.select]}; figures are of the held-out items unless a column says "
        f"otherwise. {between(min(seeds), max(seeds), 'seed')} for each architecture. Intervals "
        f"are over other "
        f"seeds and other items of the same subtasks; with one seed, over items only."
        f"{_learnt(context, contenders)}"
    )


def _learnt(context: ReportContext, contenders: list[Contender]) -> str:
    """That the spread over seeds is learnt from all points, where it is; else nothing."""
    scored = any("macro" in contender.held_out for contender in contenders)
    groups = context.shared("held_out_macro" if scored else "bits_per_byte").groups
    if groups == 1:
        return ""
    return (
        f" How much seeds vary is learnt from all {groups} points (an architecture at a learning "
        "rate) that two seeds or more finished, because a few seeds of one point say little about "
        "it (a moderated variance, after Smyth 2004). Such intervals are right on average over "
        "architectures: too wide for one whose seeds vary less than the others', too narrow for "
        "one whose seeds vary more."
    )
