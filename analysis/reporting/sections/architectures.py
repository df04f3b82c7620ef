"""Which architecture is best, and how sure is that."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from analysis import plots
from analysis.benchmarks.suite import Scores
from analysis.inference import Estimate, Pair, compare_all, estimate, holm
from analysis.points import uneven
from analysis.reporting.page import Cell, Picture, Section, Table
from analysis.reporting.sections.common import (
    ReportContext,
    ReportPart,
    count,
    interval,
    listed,
    number,
    probability,
    records,
    with_spread,
)
from analysis.samples import Chance, benchmarks_of, chance, sample
from analysis.schema.axes import in_words
from analysis.selection import Selection, choose
from analysis.study import not_compared


@dataclass(frozen=True)
class Contender:
    """An architecture at its choice: scores of its seeds, and what they estimate, by benchmark."""

    choice: Selection
    scores: list[Scores]
    held_out: dict[str, Estimate]
    full: dict[str, Estimate]
    chance: dict[str, Chance]

    @classmethod
    def of(cls, context: ReportContext, choice: Selection) -> Contender:
        """Estimate all benchmarks, on the held-out items and on all."""
        scores = context.scores_of(choice)
        names = benchmarks_of(scores[0]) if scores else ()
        return cls(
            choice,
            scores,
            {name: estimate(sample(scores, name, "held_out")) for name in names},
            {name: estimate(sample(scores, name, "all")) for name in names},
            {name: chance(scores[0], name, "held_out") for name in names},
        )

    @property
    def run_ids(self) -> list[str]:
        """MLflow runs of its seeds."""
        return list(self.choice.trials["run_id"])

    @property
    def order(self) -> tuple[float, float]:
        """Key that sorts the best first: by macro on held-out items, then by loss."""
        macro = self.held_out["macro"].mean if "macro" in self.held_out else -math.inf
        return -macro, self.choice.mean("bits_per_byte")


def architectures(context: ReportContext) -> ReportPart:
    """The leaderboard, all pairs of architectures, and what that comes to."""
    found = [Contender.of(context, choice) for choice in context.choices.values()]
    contenders = sorted(found, key=lambda contender: contender.order)
    if not contenders:
        text = "No trial has finished yet, so there is nothing to compare."
        return ReportPart(Section("architectures", "Which architecture", (text,)), warnings=(text,))
    pairs = _pairs(contenders)
    links = {contender.choice.arch: context.link(contender.run_ids) for contender in contenders}
    answer = _answer(context, contenders, pairs)
    tables = [_leaderboard(context, contenders)]
    if any(contender.held_out for contender in contenders):
        tables.append(_benchmarks(context, contenders))
    details = [_by_seed(context, contenders)]
    paragraphs = [answer, _how(context, contenders)]
    if pairs:
        tables.append(_pair_table(pairs, links))
        first = contenders[0].choice.arch
        paragraphs += [pair.sentence for pair in pairs if first in _names(pair)]
        words = tuple(
            (Cell(f"{pair.first} - {pair.second}"), Cell(pair.sentence)) for pair in pairs
        )
        details.append(Table("pairs_in_words", "Every pair in words", ("pair", "in words"), words))
    if losses := _loss_pairs(contenders):
        details.append(losses)
    section = Section(
        "architectures",
        "Which architecture",
        tuple(paragraphs),
        tuple(tables),
        tuple(_pictures(context, contenders)),
        tuple(details),
    )
    return ReportPart(section, (answer,), tuple(_warnings(context, contenders)))


def _pairs(contenders: list[Contender]) -> list[Pair]:
    """All pairs on the macro of the held-out items, the largest differences first."""
    suites = {c.scores[0]["suite_hash"] for c in contenders if c.scores}
    scored = [c for c in contenders if "macro" in c.held_out]
    if len(scored) < 2 or len(suites) > 1:
        return []
    pairs = compare_all({c.choice.arch: sample(c.scores, "macro", "held_out") for c in scored})
    return sorted(pairs, key=lambda pair: -abs(pair.difference.mean))


def _answer(context: ReportContext, contenders: list[Contender], pairs: list[Pair]) -> str:
    first = contenders[0]
    name = first.choice.arch
    if len(contenders) == 1:
        return f"Only {name} has finished trials in the setting that is compared."
    loss = _by_loss(context)
    if not pairs:
        return f"{loss} There are no benchmark scores to compare."
    macro = first.held_out["macro"]
    lead = (
        f"{name} scores best: macro {macro.mean:.1f} "
        f"(95 % interval {macro.low:.1f} to {macro.high:.1f})"
    )
    beaten = [_other(pair, name) for pair in pairs if name in _names(pair) and _is_shown(pair)]
    tested = {_other(pair, name) for pair in pairs if name in _names(pair)}
    others = [c.choice.arch for c in contenders[1:] if c.choice.arch in tested - set(beaten)]
    if not beaten:
        verdict = f"no difference to {listed(others)} is shown at this size"
    elif not others:
        verdict = "a difference to each of the others is shown"
    else:
        verdict = f"it beats {listed(beaten)}, but no difference to {listed(others)} is shown"
    single = [c.choice.arch for c in contenders if len(c.choice.trials) == 1]
    limit = f", of these models only: one seed of {listed(single)}" if single else ""
    return f"{lead}; {verdict}{limit}. {loss}"


def _by_loss(context: ReportContext) -> str:
    """Which architecture has the least validation loss, at the rate and epoch where it has it."""
    choices = choose(context.sweep, context.study.epochs, "val_loss").values()
    best = min(choices, key=lambda choice: choice.mean("bits_per_byte"))
    seeds = len(best.trials)
    return (
        f"By validation loss, {best.arch} is best ({best.mean('bits_per_byte'):.4f} bits/byte, "
        f"{seeds} seed{'s' if seeds > 1 else ''})."
    )


def _names(pair: Pair) -> tuple[str, str]:
    return pair.first, pair.second


def _other(pair: Pair, name: str) -> str:
    return pair.second if pair.first == name else pair.first


def _is_shown(pair: Pair) -> bool:
    return pair.adjusted_p < 0.05


def _how(context: ReportContext, contenders: list[Contender]) -> str:
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
    seeds = sorted({len(c.choice.trials) for c in contenders})
    number_of = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    plural = "" if seeds == [1] else "s"
    return (
        f"{rules[context.select]}; figures are of the held-out items unless a column says "
        f"otherwise. {number_of} seed{plural} for each architecture. Intervals are over other "
        "seeds and other items of the same subtasks; with one seed, over items only."
    )


def _leaderboard(context: ReportContext, contenders: list[Contender]) -> Table:
    has_macro = any("macro" in contender.held_out for contender in contenders)
    columns = ["architecture", "learning rate", "epoch", "seeds", "bits/byte"]
    columns += ["macro", "macro, 95 % interval", "macro, all items"] if has_macro else []
    rows = []
    for place, contender in enumerate(contenders):
        choice, link = contender.choice, context.link(contender.run_ids)
        row = [
            Cell(choice.arch, link=link, mark="" if place or len(contenders) == 1 else "best"),
            Cell(in_words(choice.point), choice.lr),
            _epochs(choice),
            Cell(str(len(choice.trials)), len(choice.trials)),
            with_spread(choice.mean("bits_per_byte"), choice.spread("bits_per_byte"), 4, link=link),
        ]
        if has_macro:
            row += _macro_cells(contender, link)
        rows.append(tuple(row))
    caption = "Architectures at their chosen learning rate and epoch, best first"
    note = "Mean ± standard deviation over seeds; percent on held-out items."
    return Table("leaderboard", caption, tuple(columns), tuple(rows), note)


def _benchmarks(context: ReportContext, contenders: list[Contender]) -> Table:
    """Every benchmark by itself; those within chance are marked."""
    names = list(dict.fromkeys(name for c in contenders for name in c.held_out))
    rows = []
    for contender in contenders:
        link = context.link(contender.run_ids)
        cells = [_score(contender, name, link) for name in names]
        rows.append((Cell(contender.choice.arch), *cells))
    note = (
        "Mean ± standard deviation over seeds. “Within chance”: a single model that guesses scores "
        f"as much in 95 % of cases. {_chances(contenders)}"
    )
    caption = "Percent on the held-out items of each benchmark"
    return Table("benchmarks", caption, ("architecture", *names), tuple(rows), note)


def _chances(contenders: list[Contender]) -> str:
    levels = next((c.chance for c in contenders if c.chance), {})
    shown = [
        f"{name} {level.level:.1f} ({level.low:.1f} to {level.high:.1f})"
        for name, level in levels.items()
    ]
    return f"Chance, with the interval of models that guess: {', '.join(shown)}." if shown else ""


def _epochs(choice: Selection) -> Cell:
    epochs = choice.trials["epoch"].astype(int)
    low, high = epochs.min(), epochs.max()
    return Cell(str(low) if low == high else f"{low} to {high}", float(epochs.mean()))


def _macro_cells(contender: Contender, link: str) -> list[Cell]:
    if "macro" not in contender.held_out:
        return [Cell("-"), Cell("-"), Cell("-")]
    held_out, full = contender.held_out["macro"], contender.full["macro"]
    return [
        _score(contender, "macro", link),
        interval(held_out.low, held_out.high, 1),
        number(full.mean, 1, link=link),
    ]


def _score(contender: Contender, name: str, link: str) -> Cell:
    if name not in contender.held_out:
        return Cell("-")
    found = contender.held_out[name]
    mark = "chance" if contender.chance[name].holds(found.mean) else ""
    return with_spread(found.mean, found.seed_sd, 1, link=link, mark=mark)


def _pair_table(pairs: list[Pair], links: dict[str, str]) -> Table:
    columns = (
        "pair",
        "difference",
        "95 % interval",
        "p",
        "p after Holm",
        "McNemar p",
        "seeds needed",
    )
    rows = []
    for pair in pairs:
        it = pair.difference
        rows.append(
            (
                Cell(f"{pair.first} - {pair.second}", link=links[pair.first]),
                Cell(
                    f"{it.mean:+.2f}",
                    it.mean,
                    links[pair.second],
                    "shown" if _is_shown(pair) else "",
                ),
                interval(it.low, it.high, 2),
                probability(it.p_value),
                probability(pair.adjusted_p),
                probability(it.mcnemar_p),
                count(it.seeds_needed),
            )
        )
    return Table(
        "pairs",
        "Differences in macro between all pairs of architectures, on the same held-out items",
        columns,
        tuple(rows),
        "Links: the first and the second. Percentage points; paired by items, over seeds of both. "
        "Holm's correction covers all pairs of this table. McNemar's exact test asks about the "
        "items only, as a cross-check. "
        "Seeds needed: of each, to show a difference of the size seen four times in five.",
    )


def _loss_pairs(contenders: list[Contender]) -> Table | None:
    """Welch's tests of the validation loss, for architectures with two seeds or more."""
    several = [c for c in contenders if len(c.choice.trials) > 1]
    tests = []
    for first, second in combinations(several, 2):
        left, right = (c.choice.trials["bits_per_byte"].to_numpy(float) for c in (first, second))
        if np.ptp(left) == 0 and np.ptp(right) == 0:
            continue  # no spread to compare with
        test = stats.ttest_ind(left, right, equal_var=False)
        bounds = test.confidence_interval(0.95)
        name = f"{first.choice.arch} - {second.choice.arch}"
        tests.append((name, left.mean() - right.mean(), bounds.low, bounds.high, test.pvalue))
    if not tests:
        return None
    adjusted = holm([p for *_, p in tests])
    rows = tuple(
        (
            Cell(name),
            Cell(f"{mean:+.4f}", mean, mark="shown" if p_holm < 0.05 else ""),
            interval(low, high, 4),
            probability(p),
            probability(p_holm),
        )
        for (name, mean, low, high, p), p_holm in zip(tests, adjusted, strict=True)
    )
    columns = ("pair", "difference", "95 % interval", "p", "p after Holm")
    caption = "Differences in validation bits/byte, over seeds (Welch's t); less is better"
    return Table("loss_pairs", caption, columns, rows)


def _by_seed(context: ReportContext, contenders: list[Contender]) -> Table:
    names = [*dict.fromkeys(name for c in contenders for name in c.held_out)]
    rows = []
    for contender in contenders:
        for row in records(contender.choice.trials):
            link = context.study.link(row["run_id"])
            figures = [
                number(row.get(f"held_out_{name}", math.nan), 1, link=link) for name in names
            ]
            cells = (
                Cell(contender.choice.arch, link=link),
                count(row["seed"]),
                count(row["epoch"]),
            )
            rows.append((*cells, number(row["bits_per_byte"], 4, link=link), *figures))
    columns = ("architecture", "seed", "epoch", "bits/byte", *names)
    return Table("seeds", "Each seed by itself, on held-out items", columns, tuple(rows))


def _pictures(context: ReportContext, contenders: list[Contender]) -> list[Picture]:
    rows = [
        {
            "arch": c.choice.arch,
            "benchmark": name,
            "mean": found.mean,
            "low": found.low,
            "high": found.high,
            "chance": c.chance[name].level,
            "chance_low": c.chance[name].low,
            "chance_high": c.chance[name].high,
            "seeds": found.seeds,
        }
        for c in contenders
        for name, found in c.held_out.items()
    ]
    if not rows:
        return []
    alt = "; ".join(
        f"{row['arch']} {row['mean']:.1f} ({row['low']:.1f} to {row['high']:.1f})"
        for row in rows
        if row["benchmark"] == rows[0]["benchmark"]
    )
    return [
        context.draw(
            plots.leaderboard(pd.DataFrame(rows)),
            "leaderboard",
            "Scores on held-out items with 95 % intervals, and the chance level",
            f"Scores with intervals, {rows[0]['benchmark']}: {alt}",
        )
    ]


def _warnings(context: ReportContext, contenders: list[Contender]) -> list[str]:
    warnings = []
    single = [c.choice.arch for c in contenders if len(c.choice.trials) == 1]
    if single:
        warnings.append(
            f"One seed of {listed(single)}: nothing is known of the spread over seeds, so a "
            "difference may be chance whatever its interval says; add --seeds."
        )
    if context.unreadable:
        warnings.append(
            f"The scores of {listed(context.unreadable[:5])} are missing or of an older version: "
            "the scores of their architectures are left out."
        )
    elif not any(c.held_out for c in contenders):
        warnings.append("No benchmark scores: the sweep was run without --benchmarks.")
    warnings += not_compared(context.study.trials, context.sweep)
    warnings += uneven(context.sweep)
    if context.select == "macro":
        warnings.append("Chosen by the figure that is reported (--select macro): it is optimistic.")
    suites = {c.scores[0]["suite_hash"] for c in contenders if c.scores}
    if len(suites) > 1:
        warnings.append(
            "The architectures were scored on different items: their scores are not compared."
        )
    return warnings
