"""Damaged files: each is named in an error of a line, or mended with a line that names it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.benchmarks import glue
from analysis.schema.milestone import MilestoneReport
from sweeps.findings.paper import finished_stages
from tests.finetune_outcome import OF_RTE
from tests.fuzz.asking import Answer, Asker
from tests.fuzz.damage import damages
from tests.fuzz.ground import COMMANDS, Ground
from tests.made_study import made_scores
from trainables.checkpoint import TrialFolder
from trainables.corpus import mini_benchmark
from trainables.corpus.builtin import mini_suite
from trainables.files import write_json
from trainables.finetune_spec import FinetuneSpec, read_outcome

pytestmark = pytest.mark.slow

GLUE = FinetuneSpec("model", "rte", "data", "2024", glue.settings("2024", "rte"))
Find = Callable[[Ground], Path]


def _in_trial(name: str) -> Find:
    return lambda ground: ground.trials()[0].path / name


def _in_checkpoint(name: str) -> Find:
    return lambda ground: ground.trials()[0].best_checkpoint / name


def _in_corpus(name: str) -> Find:
    return lambda ground: ground.corpus() / name


def _in_benchmarks(pattern: str) -> Find:
    return lambda ground: sorted(ground.benchmarks.glob(pattern))[0]


MENDED: dict[str, tuple[Find, tuple[str, ...]]] = {
    "spec": (_in_trial("spec.json"), ("lr_sweep", "epoch_study", "promote", "paper")),
    "outcome": (_in_trial("outcome.json"), ("lr_sweep", "epoch_study", "promote", "paper")),
    **{
        name: (_in_corpus(name), ("lr_sweep", "epoch_study", "paper", "distill"))
        for name in ("corpus.json", "tokenizer.json", "train.bin", "dev.bin", "digests.json")
    },
}
"""By name of a file: where it is, and the commands that go on with a line on it."""

REFUSED: dict[str, tuple[Find, tuple[str, ...]]] = {
    **{
        name: (_in_checkpoint(name), ("evaluate", "distill", "promote"))
        for name in (
            *("config.json", "model.safetensors", "tokenizer.json"),
            *("trainer.json", "optimizer.safetensors", "digests.json"),
        )
    },
    "checkpoint's spec.json": (_in_checkpoint("spec.json"), ("distill", "promote")),
    "mlflow.db": (
        lambda ground: ground.storage / "mlflow.db",
        ("lr_sweep", "epoch_study", "promote", "paper", "report", "compare"),
    ),
    "scores": (
        lambda ground: next(ground.storage.glob("artifacts/study/*/artifacts/scores/*.json")),
        ("compare",),
    ),
}
"""The same of files without which a command cannot go on."""

BENCHMARKS = {
    "blimp": "blimp*/*.jsonl",
    "supplement": "supplement*/*.jsonl",
    "ewok": "ewok*/*.jsonl",
    "bear": "bear*/P1.jsonl",
    "bear's relations": "bear*/metadata_relations.json",
    "wug": "wug*/*.jsonl",
    "entity_tracking": "entity*/*.jsonl",
    "comps": "comps*/*.jsonl",
    "rte": "glue/rte.train.jsonl",
    "rte's validation": "glue/rte.valid.jsonl",
}


def _ask_of_each(
    ground: Ground,
    asker: Asker,
    find: Find,
    commands: tuple[str, ...],
    judge: Callable[[Answer, Path], str],
    *extra: str,
) -> None:
    """Damage a file in every way, ask every command, and report what is wrong with the answers."""
    faults, count = [], 0
    for command in commands:
        for how, damage in list(damages(find(ground))):
            ground.restore()
            if find(ground).name == "mlflow.db" and how == "empty":  # a new database
                continue
            words = [*COMMANDS[command].words(ground), *extra]
            file = find(ground)
            damage(file)
            count += 1
            if fault := judge(asker.ask(COMMANDS[command].main, words), file):
                faults.append(f"{command}, {file.name} {how}: {fault}")
        ground.restore()
    asker.conclude(f"{file.name}: {count} damaged files", faults)


def _mended(answer: Answer, file: Path) -> str:
    if not answer.begins:
        return answer.fault("") or f"refused: {answer.text[-300:]!r}"
    return "" if str(file.parent) in answer.text else f"mended in silence: {answer.text[-300:]!r}"


def _refused(answer: Answer, file: Path) -> str:
    return answer.fault(str(file.parent), f"{file.parent.name}/{file.name}")


@pytest.mark.parametrize("name", MENDED)
def test_a_damaged_file_is_mended(name: str, ground: Ground, asker: Asker) -> None:
    """What the command can make again it makes again, and says so."""
    _ask_of_each(ground, asker, *MENDED[name], _mended)


@pytest.mark.parametrize("name", REFUSED)
def test_a_damaged_file_is_named(name: str, ground: Ground, asker: Asker) -> None:
    """What the command needs and cannot make is named in an error."""
    _ask_of_each(ground, asker, *REFUSED[name], _refused)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_damaged_benchmark_is_named(name: str, ground: Ground, asker: Asker) -> None:
    """File and line of a row that cannot be read."""
    task = name.partition("'")[0]
    find = _in_benchmarks(BENCHMARKS[name])
    _ask_of_each(ground, asker, find, ("evaluate",), _refused, "--tasks", task)


FIGURES = {"score": 60.0, "error": 1.0, "baseline": 50.0}
KEPT: dict[str, tuple[Any, Callable[[TrialFolder], object]]] = {
    "final.json": (
        {"zero_shot": made_scores(), "glue": {"rte": FIGURES}},
        lambda trial: trial.final_scores,
    ),
    "began.json": ({"step": 5}, lambda trial: trial.began),
    "milestones.json": (
        {"1000": dataclasses.asdict(MilestoneReport(2.0, 1.0, made_scores()))},
        lambda trial: trial.milestones,
    ),
    "paper.json": (
        {"sweep": {"inputs": "x", "finished": "y"}},
        lambda trial: finished_stages(trial.path),
    ),
    f"{GLUE.hash}/outcome.json": (
        dataclasses.asdict(OF_RTE),
        lambda trial: read_outcome(trial.path, GLUE),
    ),
}
"""Files that are read when training has ended: what they hold, and who reads them."""


@pytest.mark.parametrize("name", KEPT)
def test_a_command_does_without_what_it_kept(name: str, ground: Ground, asker: Asker) -> None:
    """Such a damaged file is set aside, and named."""
    content, read = KEPT[name]
    trial = ground.trials()[0]
    file = trial.path / name
    file.parent.mkdir(exist_ok=True)
    write_json(file, content)
    whole, kept, faults, count = read(trial), file.read_bytes(), [], 0
    for how, damage in list(damages(file)):
        if how == "object" or how.startswith("without"):  # which is as good
            continue
        file.write_bytes(kept)
        damage(file)
        count += 1
        found: list[object] = []
        answer = asker.ask(lambda words: found.append(read(trial)), [])  # noqa: B023
        if answer.raised or found == [whole] or str(file) not in answer.text:
            faults.append(f"{how}: {answer}")
    asker.conclude(f"{name}: {count} damaged files", faults)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "trainer.json", "digests.json"]
)
def test_nothing_goes_on_from_a_damaged_checkpoint(name: str, ground: Ground, asker: Asker) -> None:
    """It is set aside under the name that says so, and nothing is raised."""
    faults, count = [], 0
    find = _in_checkpoint(name)
    for how, damage in [*damages(find(ground)), ("gone", _remove)]:
        ground.restore()
        trial = ground.trials()[0]
        checkpoint = trial.best_checkpoint
        damage(checkpoint / name)
        count += 1
        if name == "optimizer.safetensors" and how == "gone":  # as of one that is only kept
            continue
        said = trial.set_aside_damaged()
        if len(said) != 1 or str(checkpoint) not in said[0] or checkpoint.exists():
            faults.append(f"{how}: {said}")
    asker.conclude(f"{name}: {count} damaged files", faults)


def _remove(file: Path) -> None:
    file.unlink()


def test_damaged_built_in_benchmarks_are_made_again(
    tmp_path: Path, asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file of each benchmark, in every way."""
    tables = [(name, [*rows]) for name, rows in mini_suite._tables(0)]  # which takes seconds
    monkeypatch.setattr(mini_suite, "_tables", lambda seed: tables)
    mini_benchmark(tmp_path)
    faults, count = [], 0
    for folder in sorted(tmp_path.iterdir()):
        file = sorted(folder.iterdir())[0]
        whole = file.read_bytes()
        for how, damage in list(damages(file)):
            damage(file)
            count += 1
            answer = asker.ask(lambda words: mini_benchmark(tmp_path) and None, [])
            if answer.raised or str(file) not in answer.text or file.read_bytes() != whole:
                faults.append(f"{file.name} {how}: {answer}")
    asker.conclude(f"built-in benchmarks: {count} damaged files", faults)
