"""Zero-shot benchmarks: `load_suite(path, protocol).evaluate(model, tokenizer)`."""

from __future__ import annotations

from analysis.benchmarks.benchmark import Benchmark
from analysis.benchmarks.ewok import password
from analysis.benchmarks.facts import from_facts
from analysis.benchmarks.items import Answer, Item
from analysis.benchmarks.kind import BenchmarkSource
from analysis.benchmarks.kinds import KINDS, MACRO_WEIGHTS, macro_of
from analysis.benchmarks.loading import HUB, load_suite
from analysis.benchmarks.minimal_pairs import read_minimal_pairs
from analysis.benchmarks.protocols import PROTOCOLS, Encoder
from analysis.benchmarks.scoring import Span, keep_last, sequence_log_probs, token_log_probs
from analysis.benchmarks.suite import Suite, SuiteScores

Outcome = Answer  # its earlier name, which others may still import

__all__ = [
    "HUB",
    "KINDS",
    "MACRO_WEIGHTS",
    "PROTOCOLS",
    "Answer",
    "Benchmark",
    "Encoder",
    "Item",
    "Outcome",
    "BenchmarkSource",
    "Span",
    "Suite",
    "SuiteScores",
    "from_facts",
    "keep_last",
    "load_suite",
    "macro_of",
    "password",
    "read_minimal_pairs",
    "sequence_log_probs",
    "token_log_probs",
]
