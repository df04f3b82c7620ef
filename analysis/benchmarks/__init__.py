"""Zero-shot benchmarks: `load_suite(path, protocol).evaluate(model, tokenizer)`."""

from __future__ import annotations

from analysis.benchmarks.minimal_pairs import MinimalPair, MinimalPairs, Outcome, read_minimal_pairs
from analysis.benchmarks.protocols import PROTOCOLS, Encoder
from analysis.benchmarks.scoring import Span, sequence_log_probs, token_log_probs
from analysis.benchmarks.suite import Benchmark, Suite, SuiteScores, load_suite

__all__ = [
    "PROTOCOLS",
    "Benchmark",
    "Encoder",
    "MinimalPair",
    "MinimalPairs",
    "Outcome",
    "Span",
    "Suite",
    "SuiteScores",
    "load_suite",
    "read_minimal_pairs",
    "sequence_log_probs",
    "token_log_probs",
]
