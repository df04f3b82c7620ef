"""A small corpus and a study to train in."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from analysis.benchmarks import BenchmarkSource, load_suite
from tests.empty_store import empty_store
from tests.tiny_text import write_tiny_text
from trainables.corpus import Corpus, prepare_corpus
from trainables.spec import TrialSpec
from trainables.tracking import Tracker
from trainables.trainer import RuntimeConfig


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """About 3,000 words of nonsense: 40 blocks of 64 tokens and more."""
    folder = tmp_path_factory.mktemp("text")
    write_tiny_text(folder)
    return prepare_corpus(str(folder), vocab_size=280, cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def tiny_benchmark(mini_benchmarks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few minimal pairs of the built-in benchmarks."""
    folder = tmp_path_factory.mktemp("benchmarks")
    shutil.copytree(mini_benchmarks, folder, dirs_exist_ok=True)
    shutil.rmtree(folder / "ewok_mini")  # too long for a byte-level model of this context
    for path in sorted((folder / "blimp_mini").glob("*.jsonl")):
        pairs = [json.loads(line) for line in path.read_text().splitlines()]
        short = [p for p in pairs if max(len(p["sentence_good"]), len(p["sentence_bad"])) < 60]
        if short:
            path.write_text("".join(json.dumps(pair) + "\n" for pair in short[:5]))
        else:
            path.unlink()
    return folder


@pytest.fixture
def tiny_spec(tiny_corpus: Corpus, tiny_benchmark: Path) -> TrialSpec:
    """Two epochs of a mini LSTM on the tiny corpus."""
    return spec_of(tiny_corpus, tiny_benchmark)


@pytest.fixture
def make_runtime(tmp_path: Path, tiny_corpus: Corpus, tiny_benchmark: Path):
    """A maker of runtime configs in the test's own folder."""
    return functools.partial(runtime_in, tmp_path, tiny_corpus, tiny_benchmark)


def spec_of(corpus: Corpus, benchmark: Path) -> TrialSpec:
    """Two epochs of a mini LSTM."""
    return TrialSpec(
        arch="lstm",
        size="mini",
        corpus=corpus.name,
        corpus_hash=corpus.hash,
        benchmarks_hash=load_suite(benchmark, "2024").hash,
        context=64,
        batch_size=4,
        lr=3e-3,
        epochs=2,
        seed=0,
    )


def runtime_in(
    folder: Path,
    corpus: Corpus,
    benchmark: Path,
    spec: TrialSpec,
    study: str = "study",
    **changes: Any,
) -> RuntimeConfig:
    """Where trials like `spec` run: in a folder, with a study of its own."""
    tracker = Tracker.open(empty_store(folder), folder / "artifacts" / study, study, [spec])
    values = {
        "study": folder / study,
        "corpus": corpus.directory,
        "benchmarks": BenchmarkSource(str(benchmark)),
        "tracker": tracker,
    }
    return RuntimeConfig(**{**values, **changes})
