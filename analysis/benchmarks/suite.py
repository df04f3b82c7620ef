"""The zero-shot suite: all benchmarks in a folder, scored in one call, averaged by fixed rules.

A benchmark's figure is the unweighted mean over its tasks (UIDs), the macro figure the unweighted
mean over the benchmarks, both in percent. Chance is 50 for minimal pairs.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

from analysis.benchmarks.minimal_pairs import Outcome, read_minimal_pairs
from analysis.benchmarks.protocols import Encoder, check_protocol
from analysis.benchmarks.scoring import Progress, Span, sequence_log_probs


class Benchmark(Protocol):
    """What the suite needs of a benchmark: items that become spans, and grades for their scores."""

    @property
    def name(self) -> str:
        """Key of its figure in the scores."""

    def __len__(self) -> int:
        """Number of items."""

    def content(self) -> Any:
        """All that determines a score, as JSON, for the suite's hash."""

    def spans(self, encoder: Encoder) -> list[Span]:
        """Everything to score, for all items."""

    def grade(self, log_probs: Sequence[float]) -> list[Outcome]:
        """One outcome per item, given the log-probabilities of `spans` in their order."""


@dataclass(frozen=True)
class SuiteScores:
    """What a model scored; holds figures and outcomes, never a sentence.

    `SuiteScores(**scores.to_dict())` gives the scores back, also after a trip through JSON.

    Attributes:
        suite_hash: hash of items and protocol; scores with different hashes are not comparable.
        protocol: "2024" or "2025".
        macro: mean over benchmarks, percent.
        benchmarks: mean over tasks, percent, by benchmark.
        tasks: percent by benchmark and task (UID).
        groups: percent by grouping ("field", "linguistics_term") and group, mean over the tasks of
            the group; of the items that state one.
        ties: items whose scores were equal, each worth one half.
        non_finite: items with a non-finite score, each counted as wrong.
        num_pairs: items in all.
        outcomes: 1, 0.5 or 0 per item in the suite's order, by benchmark and task.
    """

    suite_hash: str
    protocol: str
    macro: float
    benchmarks: dict[str, float]
    tasks: dict[str, dict[str, float]]
    groups: dict[str, dict[str, float]]
    ties: int
    non_finite: int
    num_pairs: int
    outcomes: dict[str, dict[str, list[float]]]

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Suite:
    """Benchmarks scored together under one protocol."""

    benchmarks: tuple[Benchmark, ...]
    protocol: str

    def __post_init__(self) -> None:
        check_protocol(self.protocol)
        names = [benchmark.name for benchmark in self.benchmarks]
        if not names or len(set(names)) < len(names):
            raise ValueError(
                f"a suite needs one or more benchmarks of different names, not {names}"
            )

    @property
    def num_items(self) -> int:
        """Items of all benchmarks."""
        return sum(len(benchmark) for benchmark in self.benchmarks)

    @cached_property
    def hash(self) -> str:
        """Hex digest of all items and the protocol; the same items in another folder hash alike."""
        content = [self.protocol, {b.name: b.content() for b in self.benchmarks}]
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def check_fits(self, tokenizer: Any, context: int) -> None:
        """Check before any training that a model with this context can read every text.

        Raises:
            ValueError: it cannot; the message names the longest text and the context it needs.
        """
        encoder = Encoder(tokenizer, self.protocol)
        spans = [span for benchmark in self.benchmarks for span in benchmark.spans(encoder)]
        longest = max(spans, key=lambda span: span.num_inputs)
        if longest.num_inputs > context:
            raise ValueError(
                f"{longest.name} is {longest.num_inputs} tokens long, more than the context of "
                f"{context}: choose a context of at least {longest.num_inputs} tokens"
            )

    def evaluate(
        self,
        model: Any,
        tokenizer: Any,
        *,
        token_budget: int | None = None,
        progress: Progress | None = None,
    ) -> SuiteScores:
        """Score a model on all items at once.

        Args:
            model: a transformers causal LM; see `scoring.token_log_probs`.
            tokenizer: its tokenizer.
            token_budget: most tokens of one batch; None for a default that suits the device.
            progress: called after each batch with (distinct sentences done, all of them).

        Raises:
            ValueError: a sentence is longer than the model's context, or the tokenizer lacks what
                the protocol needs.
        """
        encoder = Encoder(tokenizer, self.protocol)
        spans = [benchmark.spans(encoder) for benchmark in self.benchmarks]
        log_probs = iter(
            sequence_log_probs(
                model,
                [span for group in spans for span in group],
                token_budget=token_budget,
                progress=progress,
            )
        )
        outcomes = {
            benchmark.name: benchmark.grade([next(log_probs) for _ in group])
            for benchmark, group in zip(self.benchmarks, spans, strict=True)
        }
        return self._summarize(outcomes)

    def _summarize(self, outcomes: dict[str, list[Outcome]]) -> SuiteScores:
        by_task = {name: _values_by_task(items) for name, items in outcomes.items()}
        tasks = {
            name: {task: _percent(values) for task, values in values_by_task.items()}
            for name, values_by_task in by_task.items()
        }
        benchmarks = {name: fmean(figures.values()) for name, figures in tasks.items()}
        items = [outcome for group in outcomes.values() for outcome in group]
        return SuiteScores(
            suite_hash=self.hash,
            protocol=self.protocol,
            macro=fmean(benchmarks.values()),
            benchmarks=benchmarks,
            tasks=tasks,
            groups=_group_figures(items),
            ties=sum(outcome.value == 0.5 for outcome in items),
            non_finite=sum(not outcome.finite for outcome in items),
            num_pairs=len(items),
            outcomes=by_task,
        )


def _percent(values: Sequence[float]) -> float:
    return 100.0 * fmean(values)


def _values_by_task(outcomes: Iterable[Outcome]) -> dict[str, list[float]]:
    values = defaultdict(list)
    for outcome in outcomes:
        values[outcome.task].append(outcome.value)
    return dict(values)


def _group_figures(outcomes: Iterable[Outcome]) -> dict[str, dict[str, float]]:
    members: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        for grouping, group in outcome.groups.items():
            members[grouping, group].append(outcome)
    figures: dict[str, dict[str, float]] = defaultdict(dict)
    for (grouping, group), items in sorted(members.items(), key=lambda entry: entry[0]):
        figures[grouping][group] = fmean(map(_percent, _values_by_task(items).values()))
    return dict(figures)


def load_suite(path: Path | str, protocol: str, *, names: Sequence[str] | None = None) -> Suite:
    """Find the benchmarks in a folder by their layout.

    A folder of `*.jsonl` files called `supplement*` is the BLiMP supplement, one called `blimp*` is
    BLiMP: `path` itself or the folders in it. Of several folders of one benchmark the one ending in
    `_fast` is taken, as the suite is scored after every epoch; without one, `names` must choose.

    Args:
        path: a benchmark folder or the folder that holds them.
        protocol: "2024" or "2025"; see `protocols`.
        names: names of the folders to take, instead of the rule above.

    Raises:
        ValueError: nothing found, a named folder is missing, an ambiguous choice, or a bad file.
    """
    check_protocol(protocol)
    path = Path(path)
    if not path.is_dir():
        raise ValueError(
            f"no benchmark folder at {path}: expected blimp* and supplement* folders in it"
        )
    found = {folder.name: folder for folder in _benchmark_folders(path)}
    if not found:
        raise ValueError(
            f"no benchmark in {path}: looked at it and the folders in it for one named blimp* or "
            "supplement* that holds *.jsonl files (e.g. blimp_filtered, supplement_filtered)"
        )
    chosen = _choose_named(found, names, path) if names is not None else _choose_default(found)
    return Suite(
        tuple(read_minimal_pairs(name, chosen[name]) for name in sorted(chosen)),
        protocol,
    )


def _benchmark_folders(path: Path) -> list[Path]:
    candidates = [path.absolute(), *sorted(child for child in path.iterdir() if child.is_dir())]
    return [folder for folder in candidates if _kind(folder.name) and any(folder.glob("*.jsonl"))]


def _kind(folder_name: str) -> str | None:
    """Benchmark by folder name; a `blimp_supplement` folder is the supplement."""
    name = folder_name.lower()
    if not name.startswith(("blimp", "supplement")):
        return None
    return "supplement" if "supplement" in name else "blimp"


def _choose_named(found: dict[str, Path], names: Sequence[str], path: Path) -> dict[str, Path]:
    missing = [name for name in names if name not in found]
    if missing or not names:
        raise ValueError(
            f"no benchmark folder {', '.join(missing) or 'named'} in {path}: "
            f"it has {', '.join(found)}"
        )
    chosen: dict[str, Path] = {}
    for name in names:
        kind = _kind(name)
        assert kind is not None
        if kind in chosen:
            raise ValueError(
                f"{chosen[kind].name} and {name} are both {kind}: name only one of them"
            )
        chosen[kind] = found[name]
    return chosen


def _choose_default(found: dict[str, Path]) -> dict[str, Path]:
    by_kind: dict[str, list[Path]] = defaultdict(list)
    for folder in found.values():
        by_kind[_kind(folder.name) or ""].append(folder)
    return {kind: _only_or_fast(folders, kind) for kind, folders in by_kind.items()}


def _only_or_fast(folders: list[Path], kind: str) -> Path:
    if len(folders) == 1:
        return folders[0]
    fast = [folder for folder in folders if folder.name.endswith("_fast")]
    if len(fast) != 1:
        listed = ", ".join(folder.name for folder in folders)
        raise ValueError(
            f"several {kind} folders ({listed}) and no rule to choose: name the ones to use"
        )
    return fast[0]
