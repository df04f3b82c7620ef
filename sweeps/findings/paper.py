"""Results of a whole study: which stages are done, and the table of final scores.

<study>/paper.json    by stage, the hash of the inputs that it was last finished with, and when
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from analysis.addresses import shown
from analysis.terminal import say, show_whole
from analysis.whole_files import write_text
from analysis.wording import count, in_gb
from sweeps.plans.paper import Stage
from sweeps.stored.trials import study_trials
from trainables.checkpoint import TrialFolder
from trainables.files import read_or_set_aside, write_json
from trainables.kept import kept, size_of

_RECORDS = "paper.json"


@dataclass(frozen=True)
class StageRecord:
    """The time at which a stage was finished, and the hash of its inputs then."""

    inputs: str
    finished: str


def finished_stages(folder: Path) -> dict[str, StageRecord]:
    """The stages that a study's folder has on record, by name."""
    if (of_bucket := kept(folder)) is not None and (text := of_bucket.read_mark(_RECORDS)):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / _RECORDS, text)
    return read_or_set_aside(
        folder / _RECORDS,
        dict[str, StageRecord],
        {},
        then="every stage is looked at again: what is there is not trained again",
    )


def record_stage(folder: Path, name: str, inputs: str) -> None:
    """Put on record that a stage was finished now, with the inputs of this hash."""
    time = datetime.now(UTC).isoformat(timespec="seconds")
    done = {**finished_stages(folder), name: StageRecord(inputs, time)}
    folder.mkdir(parents=True, exist_ok=True)
    records = {name: dataclasses.asdict(each) for name, each in done.items()}
    write_json(folder / _RECORDS, records)
    if (of_bucket := kept(folder)) is not None:
        of_bucket.mark(_RECORDS, (folder / _RECORDS).read_text())


def show_status(stages: Sequence[Stage], folder: Path, console: Console) -> None:
    """Print each stage's state, and how many trials the study has."""
    table = Table(header_style="bold")
    for name in ("stage", "state", "finished"):
        table.add_column(name)
    records, is_open = finished_stages(folder), False
    for stage in stages:
        record = records.get(stage.name)
        is_same = record is not None and not is_open and record.inputs == stage.hash_inputs()
        state = "done" if is_same else "to do" if record is None else "to do again: inputs changed"
        is_open = is_open or not is_same
        table.add_row(stage.name, state, record.finished if record else "")
    console.print(table)
    trials = study_trials(folder)
    ended = sum(trial.outcome is not None for trial in trials)
    begun = count(len(trials), "trial was", "trials were")
    size = in_gb(size_of(folder))
    say(console, f"{begun} begun, {ended} of them ended; {size} (without MLflow's models) are in")
    show_whole(console, "  ", shown(folder))


def final_table(scored: Sequence[tuple[str, TrialFolder, dict[str, Any]]]) -> Table:
    """A row for each model: what it was found by and trained as, bits per byte, figures.

    Best first among those found by the same, which alone had the same chances.
    """
    zero_shot = [scores.get("zero_shot", {"benchmarks": {}}) for *_, scores in scored]
    names = list(dict.fromkeys(name for found in zero_shot for name in found["benchmarks"]))
    table = Table(title="Final scores", title_justify="left", header_style="bold")
    for name in ("found by", "model", "epochs", "bits/byte", *names):
        table.add_column(name, justify="left" if name in ("found by", "model") else "right")
    for part in dict.fromkeys(found_by for found_by, *_ in scored):
        table.add_section()
        mine = [(trial, scores) for found_by, trial, scores in scored if found_by == part]
        for trial, scores in sorted(mine, key=lambda pair: _score(pair[0])):
            figures = scores.get("zero_shot", {"benchmarks": {}})["benchmarks"]
            shown = [f"{figures[name]:.1f}" if name in figures else "" for name in names]
            cells = (part, trial.spec.name, str(trial.spec.epochs), f"{_score(trial):.4f}")
            table.add_row(*cells, *shown)
    return table


def _score(trial: TrialFolder) -> float:
    assert trial.outcome is not None
    return trial.outcome.score
