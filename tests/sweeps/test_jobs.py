"""Submitted jobs: what Ray sends of a checkout, and what a job says of files that were not sent."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package

from analysis.arguments import CompareArgs, ReportArgs
from analysis.config_file import read_config
from analysis.flag_values import PLACE
from sweeps.arguments import DistillArgs, EvaluateArgs, LrSweepArgs, PaperArgs, PromoteArgs
from sweeps.plans.distill import Teacher
from sweeps.plans.evaluate import plan_evaluation
from sweeps.plans.lr_sweep import plan_sweep
from tests.analysis.benchmark_files import write_blimp
from tests.checkout import PACKAGES, crowded_checkout, tracked
from tests.processes import environment
from tests.tiny_text import write_tiny_text

SMALL = 5_000_000
"""Bytes of a package that nobody waits for."""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `ray job submit --working-dir .` sends of a checkout in which much lies about."""
    folder = tmp_path_factory.mktemp("package")
    checkout = crowded_checkout(folder / "checkout")
    create_package(
        str(checkout),
        folder / "package.zip",
        include_gitignore=True,
        excludes=get_runtime_env_default_excludes(),
    )
    return folder / "package.zip"


@pytest.fixture(scope="module")
def unpacked(package: Path) -> Path:
    """The package as a job finds it."""
    folder = package.parent / "working_dir_files" / "_ray_pkg_1"
    with zipfile.ZipFile(package) as archive:
        archive.extractall(folder)
    return folder


def test_only_the_code_is_sent(package: Path) -> None:
    """All that git has in the four packages, and nothing of the 300 MB in each of their folders."""
    assert package.stat().st_size < SMALL
    with zipfile.ZipFile(package) as archive:
        names = set(archive.namelist())
    assert names == tracked(*PACKAGES) | {"pyproject.toml"}


def run_there(unpacked: Path, *words: str) -> str:
    """What a command prints that runs in the unpacked package, and finds the project only there."""
    done = subprocess.run(
        [sys.executable, "-P", *words],
        cwd=unpacked,
        env=environment() | {"PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_command_answers_from_the_package(unpacked: Path) -> None:
    """It needs no file that was left out."""
    assert "--corpus" in run_there(unpacked, "sweeps/lr_sweep.py", "--help")


@pytest.mark.slow
def test_a_plan_is_made_from_the_package(unpacked: Path, tmp_path: Path) -> None:
    """On the built-in corpus, with the C++ kernels that its time is measured with."""
    words = ["sweeps/lr_sweep.py", "--arch", "lstm", "--dry-run", "--storage", str(tmp_path)]
    assert "Nothing was run." in run_there(unpacked, *words)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a submitted job, in which one is; what trials need lies elsewhere."""
    folder = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("BABYSWEEP_STORAGE", str(tmp_path / "storage"))
    (tmp_path / "storage").mkdir()
    return folder


def sweep(**flags: str) -> object:
    """A plan of a sweep with these flags."""
    args = LrSweepArgs(arch=("lstm",), vocab_size=280, context=64, dry_run=True, **flags)
    return plan_sweep(args, lambda text: None)


def evaluation(model: str) -> object:
    """A plan of an evaluation of this model on a benchmark that is there."""
    folder = Path(os.environ["BABYSWEEP_STORAGE"])
    write_blimp(folder / "blimp_fast")
    return plan_evaluation(EvaluateArgs(model=model, benchmarks=str(folder)))


READ: dict[str, Callable[[str], object]] = {
    "corpus": lambda place: sweep(corpus=place),
    "benchmarks": lambda place: sweep(benchmarks=place),
    "teacher": lambda place: Teacher.find(place, "", Path()),
    "model": evaluation,
    "config": lambda place: read_config(Path(place), LrSweepArgs),
}
"""By flag of what is read: what takes its value first."""


def test_all_flags_of_places_are_known_here() -> None:
    """Those that are read; what is written to has a check of its own."""
    commands = (LrSweepArgs, DistillArgs, EvaluateArgs, PaperArgs, PromoteArgs)
    flags = {
        field.name
        for kind in (*commands, ReportArgs, CompareArgs)
        for field in dataclasses.fields(kind)
        if PLACE in field.metadata
    }
    assert flags == READ.keys() - {"config"} | {"storage", "output"}


@pytest.mark.parametrize("flag", READ)
@pytest.mark.parametrize("place", ["../mine", "../mine.txt", "my/own/files"])
def test_a_file_that_was_not_sent_is_named(flag: str, place: str, job: Path) -> None:
    """With what to give instead, in a line; nothing is looked for at the hub."""
    with pytest.raises(ValueError, match=f"^--{flag} {place} did not come along") as raised:
        READ[flag](place)
    text = str(raised.value)
    assert "a submitted job has the project's code and no other file" in text
    assert "give an absolute path that all nodes share" in text
    assert "\n" not in text


def test_what_may_be_a_name_at_the_hub_is_asked_for_there(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer is quoted beside the hint. The short names are no files."""

    def refuse(*_: object, **__: object) -> None:
        raise FileNotFoundError("no such data set")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    for place in ("data/babylm", "owner/name"):
        with pytest.raises(ValueError, match=rf"^--corpus {place} did not.*\(.*no such data set"):
            sweep(corpus=place)
    with pytest.raises(ValueError, match="^cannot load 'BabyLM-community"):
        sweep(corpus="babylm-strict")


def test_files_that_are_there_are_read(job: Path, tmp_path: Path) -> None:
    """Of a shared folder, and of a working folder of one's own that has them."""
    for folder in (job / "mine", tmp_path / "shared"):
        folder.mkdir()
        write_tiny_text(folder)
    assert sweep(corpus="mine")
    assert sweep(corpus=str(tmp_path / "shared"))


@pytest.mark.parametrize("flag", READ)
def test_elsewhere_no_job_is_spoken_of(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong path of a command that was not submitted is answered as ever."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BABYSWEEP_STORAGE", str(tmp_path / "storage"))
    with pytest.raises(ValueError, match="mine") as raised:
        READ[flag]("./mine")
    assert "job" not in str(raised.value)
