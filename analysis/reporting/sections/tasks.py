"""What each task says of the architectures, and how well it tells them apart."""

from __future__ import annotations

from analysis.reporting.page import Cell, Table
from analysis.reporting.sections.common import ReportContext, number
from analysis.reporting.sections.contenders import Contender
from analysis.task_signal import TaskSignal
from analysis.wording import OVER_SEEDS


def task_tables(context: ReportContext, contenders: list[Contender]) -> list[Table]:
    """Scores by task, and each task's signal and noise; none without scores."""
    names = list(dict.fromkeys(name for c in contenders for name in c.held_out))
    if not names:
        return []
    signals = _signals(contenders, names)
    return [_benchmarks(context, contenders, names), *([signals] if signals.rows else [])]


def _benchmarks(context: ReportContext, contenders: list[Contender], names: list[str]) -> Table:
    """Every benchmark by itself; those within chance are marked."""
    rows = []
    for contender in contenders:
        link = context.link(contender.run_ids)
        cells = [contender.score(name, link) for name in names]
        rows.append((Cell(contender.choice.arch), *cells))
    note = (
        f"Mean {OVER_SEEDS}. “Within chance”: a single model that guesses scores "
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


def _signals(contenders: list[Contender], names: list[str]) -> Table:
    rows = []
    for name in names:
        scored = [contender for contender in contenders if name in contender.held_out]
        found = TaskSignal.of([contender.held_out[name] for contender in scored])
        if found is not None:
            above = sum(contender.is_above_chance(name) for contender in scored)
            cells = number(found.signal, 2), number(found.noise, 2), number(found.ratio, 1)
            rows.append((Cell(name), *cells, Cell(f"{above} of {len(scored)}", above)))
    return Table(
        "signal_to_noise",
        "How well each task tells the architectures apart, on held-out items",
        ("task", "signal", "noise", "signal to noise", "above chance"),
        tuple(rows),
        "Signal: standard deviation of the architectures' means. Noise: standard error of such a "
        "mean, over other seeds and other items (root mean square over the architectures; with one "
        "seed over items only). Both in percentage points. Architectures that are all alike would "
        "show a signal to noise of about 1 or less. Above chance: how many of the architectures.",
    )
