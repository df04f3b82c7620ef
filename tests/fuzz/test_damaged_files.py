"""Damaged files: each is named in an error of a line, or mended with a line that names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz.asking import Answer, Asker
from tests.fuzz.damage import damages
from tests.fuzz.ground import COMMANDS, Ground

pytestmark = pytest.mark.slow

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
        for name in ("corpus.json", "tokenizer.json", "train.bin", "dev.bin")
    },
}
"""By name of a file: where it is, and the commands that go on with a line on it."""

REFUSED: dict[str, tuple[Find, tuple[str, ...]]] = {
    **{
        name: (_in_checkpoint(name), ("evaluate", "distill", "promote"))
        for name in ("config.json", "model.safetensors", "tokenizer.json")
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
    with asker.shown():
        print(f"{file.name}: {count} damaged files, {len(faults)} faults")
    assert not faults, "\n".join([f"{len(faults)} of {count}", *faults])


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
