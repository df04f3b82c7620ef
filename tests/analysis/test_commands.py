"""Commands as they are recorded with a study, and read back to be typed again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from analysis.command_line import parse
from analysis.commands import COMMAND_TAG as TAG
from analysis.commands import CUT, LONGEST, SETTINGS, part_of, record, recorded, typed
from analysis.flag_values import checked
from sweeps.arguments import (
    DistillArgs,
    EpochStudyArgs,
    EvaluateArgs,
    LrSweepArgs,
    PaperArgs,
    PromoteArgs,
)
from tests.empty_store import empty_store
from tests.processes import ROOT
from tests.shell import ODD_NAMES, words_of

OTHER_VARIABLES = {
    *("BABYSWEEP_SAVE_SECONDS", "BABYSWEEP_STORAGE", "BABYSWEEP_SCRATCH"),
    "BABYSWEEP_EWOK_PASSWORD",
}
SWEEP = LrSweepArgs(arch=("lstm",))
PAPER = PaperArgs()


@pytest.fixture(autouse=True)
def _as_installed_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def client(tmp_path: Path) -> MlflowClient:
    return MlflowClient(empty_store(tmp_path / "storage"))


def again(line: str, kind: type, storage: Path) -> Any:
    """The arguments that a line stands for, typed with this storage."""
    words = words_of(line, BABYSWEEP_STORAGE=str(storage))
    return parse(kind, words[2:], None)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (LrSweepArgs, "--arch lstm mamba --lrs 1e-3 0.00123456789 --seeds 0 1 --no-extend"),
        (LrSweepArgs, "--arch study --search optuna --lr-range 1e-4 1e-2 --micro-batch auto"),
        (EpochStudyArgs, "--designs branch trajectory --milestones 1M --horizons 1 2 --decay .1"),
        (DistillArgs, "--teacher models:/a@teacher models:/b/2 --reverse-kl --no-control"),
        (PaperArgs, "--final-tasks glue --sweep-seeds 3 --study its"),
        (PromoteArgs, "--name no --force --run-id 0123456789abcdef"),
        (EvaluateArgs, "--model gpt2 --benchmarks x --tasks blimp ewok --gpus 0.5"),
    ],
)
def test_a_line_means_the_same_arguments(kind: type, words: str, tmp_path: Path) -> None:
    """To the last digit; what is at its default is not in it."""
    args = checked(parse(kind, words.split(), None))
    assert again(typed(args, tmp_path), kind, tmp_path) == args
    assert len(words_of(typed(args, tmp_path))) == len(words.split()) + 2


@pytest.mark.parametrize("name", ODD_NAMES)
def test_paths_of_all_kinds(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are whole, and those in the storage are in the one that the line is typed for."""
    monkeypatch.chdir(tmp_path)
    old, new = tmp_path / f"{name} old", tmp_path / f"{name} new"
    (old / name).mkdir(parents=True)
    Path(name).mkdir()
    args = LrSweepArgs(arch=("lstm",), corpus=f"./{name}", benchmarks=str(old / name), storage=old)
    line = typed(args, old)
    monkeypatch.chdir("/")
    found = again(line, LrSweepArgs, new)
    assert (found.corpus, found.benchmarks) == (str(tmp_path / name), str(new / name))
    assert str(old) not in " ".join(words_of(line, BABYSWEEP_STORAGE=""))
    monkeypatch.chdir(tmp_path)
    plain = typed(LrSweepArgs(arch=("lstm",), study=name, tasks=(f"blimp{name}",)))
    assert (found := again(plain, LrSweepArgs, new)).study == name
    assert found.tasks == (f"blimp{name}",)


def test_learning_rates_are_written_as_everywhere() -> None:
    """In powers of ten, all of their digits; other numbers are not."""
    args = LrSweepArgs(arch=("lstm",), lrs=(0.01, 0.0003, 0.00123456789), dropouts=(0.1,))
    assert "--lrs 1e-2 3e-4 0.00123456789 --dropouts 0.1" in typed(args)
    assert "--lr-range 1e-4 1e-1" in typed(LrSweepArgs(arch=("lstm",), lr_range=(1e-4, 0.1)))
    assert "--glue-lr 3e-5" in typed(EvaluateArgs(model="x", glue_lr=3e-5))


def test_places_in_the_project_are_named_from_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the lines are typed, on whatever machine."""
    monkeypatch.chdir(ROOT / "tests")
    assert typed(LrSweepArgs(arch=("lstm",), corpus="shell.py")).endswith("--corpus tests/shell.py")


def test_a_link_keeps_its_name(tmp_path: Path) -> None:
    """A corpus is called by it, and so may be the study."""
    (tmp_path / "texts").symlink_to(tmp_path)
    line = typed(LrSweepArgs(arch=("lstm",), corpus=str(tmp_path / "texts")))
    assert line.endswith(f"--corpus {tmp_path / 'texts'}")


def test_nothing_is_left_of_flags_that_only_say_where() -> None:
    """Nor of secrets: a variable stands for them."""
    args = EvaluateArgs(
        model="x",
        ewok_password="sesame",
        address="ray://bob:hunter2@host:1",
        output=Path("out"),
        storage=Path("there"),
    )
    assert typed(args) == "python sweeps/evaluate.py --model x"


def test_the_program_is_the_one_that_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/babysweep", "lr-sweep"])
    assert typed(SWEEP) == "babysweep lr-sweep --arch lstm"


def test_settings_of_the_environment_stand_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that the code reads, but for the storage and what is secret."""
    monkeypatch.setenv("BABYSWEEP_KERNELS", "torch")
    assert typed(SWEEP) == "BABYSWEEP_KERNELS=torch python sweeps/lr_sweep.py --arch lstm"
    packages = ("sweeps", "trainables", "analysis", "models")
    texts = [path.read_text() for name in packages for path in (ROOT / name).rglob("*.py")]
    found = {name for text in texts for name in re.findall(r"BABYSWEEP_[A-Z_]+", text)}
    assert found == {*SETTINGS, *OTHER_VARIABLES}


def runs_of(client: MlflowClient, number: int) -> tuple[str, list[str]]:
    """A study's id, and its runs'."""
    study = client.create_experiment("study")
    return study, [client.create_run(study, start_time=n + 1).info.run_id for n in range(number)]


def sweep(**changes: Any) -> LrSweepArgs:
    return LrSweepArgs(arch=("lstm",), **changes)


def test_commands_are_in_the_order_of_time(client: MlflowClient, tmp_path: Path) -> None:
    """Of whatever runs they are, each of several once, and again after another one; not when one
    only goes on."""
    study, (first, second, trial) = runs_of(client, 3)
    for run_ids, args in (
        ([second], sweep(seeds=(1,))),
        ([first, second], sweep(seeds=(2,))),
        ([first, second], sweep(seeds=(2,))),
        ([trial], PromoteArgs()),
        ([second], sweep(seeds=(1,))),
        ([second], sweep(seeds=(1,))),
    ):
        record(client, run_ids, args, tmp_path)
    lines = [each.line for each in recorded(client, study)]
    told = [sweep(seeds=(1,)), sweep(seeds=(2,)), PromoteArgs(), sweep(seeds=(1,))]
    assert lines == [typed(args) for args in told]
    assert len(client.get_run(second).data.tags[TAG].splitlines()) == 3


def test_what_the_study_gave_is_in_the_line(client: MlflowClient, tmp_path: Path) -> None:
    """But for the parts of a whole study, which ran by its own command."""
    study, (run,) = runs_of(client, 1)
    record(client, [run], EpochStudyArgs(), tmp_path, {"lr": 0.003})
    with part_of(PAPER):
        record(client, [run], EpochStudyArgs(), tmp_path, {"lr": 0.01})
    lines = [each.line for each in recorded(client, study)]
    assert lines == [typed(EpochStudyArgs(lr=0.003)), typed(PAPER)]


def test_what_an_earlier_version_recorded(client: MlflowClient, tmp_path: Path) -> None:
    """Stands as it was typed, where its run began."""
    study, (first, second) = runs_of(client, 2)
    for run, text in ((second, "b\na"), (first, "a # 2024\na")):
        client.set_tag(run, TAG, text)
    record(client, [first], SWEEP, tmp_path)
    found = recorded(client, study)
    assert [each.line for each in found] == ["a # 2024", "a", "b", "a", typed(SWEEP)]
    assert [each.is_as_typed for each in found] == [True] * 4 + [False]


def test_more_than_a_tag_holds(client: MlflowClient, tmp_path: Path) -> None:
    """The newest are kept whole, and it is known that there were others."""
    study, (run,) = runs_of(client, 1)
    names = [f"{letter * 190}" for letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQ"]
    client.set_tag(run, TAG, "\n".join(names[:41]))
    for name in names[41:]:
        record(client, [run], sweep(study=name), tmp_path)
    found = recorded(client, study)
    assert len(client.get_run(run).data.tags[TAG]) <= LONGEST
    assert found[0].line == CUT
    assert [each.line for each in found[-2:]] == [typed(sweep(study=name)) for name in names[41:]]
    assert found[1].line in names
