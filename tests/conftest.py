"""What holds for all tests: MLflow reports nothing, though some import it before the project;
Triton's kernels run in its interpreter, unless `make test-gpu` says otherwise; Ctrl-C is Ctrl-C,
also in a background job, which a shell has ignore it; and test processes that run side by side
share the cores."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.made_once import made_once
from trainables.machine_limits import usable_cpus

gc.disable()  # while everything is imported: to look through all of that takes seconds
# Hundreds of processes import the project: they compile it once, whatever the environment says.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports Triton
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    cores = usable_cpus()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // workers)))


@pytest.fixture(autouse=True)
def smallest_floats_afterwards() -> Iterator[None]:
    """A trial on the CPU makes its thread round the smallest floats to zero: undo that."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_flush_denormal(False)


@pytest.fixture
def empty_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """See `draw_nothing`. A report that a fixture of the module made before is whole."""
    from tests.made_study import draw_nothing

    draw_nothing(monkeypatch)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what all test processes share (see `made_once`)."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    return folder / "shared"


@pytest.fixture(scope="session")
def mini_corpora(shared: Path) -> Path:
    """A cache that holds the built-in corpus with the vocabulary of its preset. Tests add none."""
    from trainables.corpus import prepare_corpus

    return made_once(
        shared / "corpora", lambda cache: prepare_corpus("mini", vocab_size=2048, cache=cache)
    )


@pytest.fixture(scope="session")
def mini_benchmarks(shared: Path) -> Path:
    """The folder of the built-in benchmarks. Tests read it, or change a copy."""
    from trainables.corpus import mini_benchmark

    return made_once(shared / "benchmarks", mini_benchmark)


def pytest_collection_finish() -> None:
    """What was imported stays: later collections of garbage do not look through it again."""
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    gc.enable()  # also where other processes collected the tests
    gc.unfreeze()  # or libraries warn at the exit of what was not released


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Folders with the longest modules first, so that the processes end together."""
    folders = ("sweeps", "browser", "trainables", "analysis")
    here = Path(__file__).parent
    place = {name: index for index, name in enumerate(folders)}
    items.sort(key=lambda item: place.get(item.path.relative_to(here).parts[0], len(folders)))
