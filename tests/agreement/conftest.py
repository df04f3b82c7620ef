"""Briefly trained models of every architecture, and the public tools to compare scores with."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.benchmarks import Suite, load_suite
from tests.agreement.tools import missing, python
from tests.agreement.training import Checkpoint, train
from trainables.corpus import mini_benchmark, prepare_corpus

Train = Callable[[str], Checkpoint]


@pytest.fixture(scope="session")
def tools() -> Path:
    """The interpreter that has the public tools; skips where there is none."""
    if missing():
        pytest.skip(missing())
    return python()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Gives the `mini` model of an architecture after 150 steps on the built-in corpus."""
    folder = tmp_path_factory.mktemp("trained")
    corpus = prepare_corpus("mini", vocab_size=2048, cache=folder / "corpora")

    @functools.cache
    def checkpoint(arch: str) -> Checkpoint:
        return train(arch, "mini", corpus, folder / "study", steps=150, batch=8, context=128)

    return checkpoint


@pytest.fixture(scope="session")
def built_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built-in benchmarks."""
    return mini_benchmark(tmp_path_factory.mktemp("benchmarks"))


@pytest.fixture(scope="session")
def pairs(built_in: Path) -> Suite:
    """The built-in minimal pairs under the protocol of 2024."""
    return load_suite(built_in, "2024", ["blimp"])


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real benchmarks beside the project; skips where they are not."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real benchmarks in {folder}")
    return folder
