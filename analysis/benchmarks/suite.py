"""The zero-shot suite: benchmarks scored in one call under one protocol, and what they average."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from statistics import fmean
from typing import Annotated, Any, get_type_hints

import numpy as np
from transformers import PreTrainedTokenizerBase

from analysis.benchmarks.benchmark import Benchmark
from analysis.benchmarks.facts import Facts, item_facts
from analysis.benchmarks.figures import by_task, percent
from analysis.benchmarks.glue import GlueResults
from analysis.benchmarks.items import Answer
from analysis.benchmarks.kinds import macro_of, macro_weights
from analysis.benchmarks.protocols import PROTOCOLS, Encoder, check_protocol
from analysis.benchmarks.scoring import Progress, Span, token_log_probs
from analysis.schema.typed import typed

_ALWAYS = ("macro", "benchmarks")
"""Fields that the scores of every version have."""


def _check_scores(scores: dict[str, Any], where: str) -> None:
    """Raise a ValueError unless some version's `SuiteScores` can have this JSON form."""
    kinds = get_type_hints(SuiteScores, include_extras=True)
    if missing := [name for name in _ALWAYS if name not in scores]:
        raise ValueError(f"{where}.{missing[0]} is missing")
    for name, value in scores.items():
        if name not in kinds:
            raise ValueError(f"{where}.{name} is no field of scores")
        typed(value, kinds[name], f"{where}.{name}")


Scores = Annotated[dict[str, Any], _check_scores]
"""The JSON form of `SuiteScores`, as it is stored; checked where it is read (`typed`)."""


@dataclass(frozen=True)
class _Final:
    """The form of `FinalScores`."""

    zero_shot: Scores | None = None
    glue: GlueResults | None = None


def _check_final(scores: dict[str, Any], where: str) -> None:
    typed(scores, _Final, where)


FinalScores = Annotated[dict[str, Any], _check_final]
"""Scores of one model by kind ("zero_shot", "glue"), as they are stored; checked likewise."""


@dataclass(frozen=True)
class SuiteScores:
    """A model's scores; holds figures and items' values, never a sentence.

    `SuiteScores(**scores.to_dict())` gives the scores back, also after a trip through JSON.

    Attributes:
        suite_hash: hash of items and protocol; scores with different hashes are not comparable.
        protocol: one of `protocols.PROTOCOLS`.
        macro: weighted mean of the figures that count in the protocol's macro, of those in the
            suite (`kinds.MACRO_WEIGHTS`), percent; None without any.
        macro_error: its standard error over items, percentage points.
        benchmarks: figure by benchmark, percent.
        errors: its standard error over items, percentage points.
        chance: figure of a model that knows nothing, percent.
        tasks: percent by benchmark and task (BLiMP's UID, EWoK's domain, BEAR's relation).
        groups: percent by benchmark, grouping ("field", "linguistics_term", "domain") and group:
            the mean over the group's tasks, of its items.
        ties: items by benchmark whose best scores were equal.
        non_finite: items by benchmark with a non-finite score, each counted as wrong.
        num_items: items by benchmark.
        datasets: the folder or hub's data set that each benchmark came from.
        outcomes: items' values (`items.Answer.value`), in the suite's order, by benchmark and task.
        chance_errors: standard deviation of `chance` over models that guess, percentage points.
        selection: figures on the selection split (`splits`), percent; without benchmarks that have
            no item in it.
        held_out: figures on the other items, percent.
        items: `facts.item_facts` by benchmark, from which `facts.from_facts` makes them anew.
    """

    suite_hash: str
    protocol: str
    macro: float | None
    macro_error: float | None
    benchmarks: dict[str, float]
    errors: dict[str, float]
    chance: dict[str, float]
    tasks: dict[str, dict[str, float]]
    groups: dict[str, dict[str, dict[str, float]]]
    ties: dict[str, int]
    non_finite: dict[str, int]
    num_items: dict[str, int]
    datasets: dict[str, str]
    outcomes: dict[str, dict[str, list[float]]]
    chance_errors: dict[str, float]
    selection: dict[str, float]
    held_out: dict[str, float]
    items: dict[str, Facts]

    def to_dict(self) -> Scores:
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

    def spans(self, tokenizer: PreTrainedTokenizerBase) -> list[Span]:
        """Spans of all items, benchmark after benchmark."""
        encoder = Encoder(tokenizer, self.protocol)
        return [span for benchmark in self.benchmarks for span in benchmark.spans(encoder)]

    def check_fits(self, tokenizer: PreTrainedTokenizerBase, context: int) -> None:
        """Check before any training that a model with this context can read every text.

        Raises:
            ValueError: it cannot; the message names the longest text and the context it needs.
        """
        longest = max(self.spans(tokenizer), key=lambda span: span.num_inputs)
        if longest.num_inputs > context:
            raise ValueError(
                f"{longest.name} is {longest.num_inputs} tokens long, more than the context of "
                f"{context}: choose a context of at least {longest.num_inputs} tokens"
            )

    def evaluate(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
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
        log_probs = token_log_probs(
            model, self.spans(tokenizer), token_budget=token_budget, progress=progress
        )
        return self.summarize(self.grade(log_probs))

    def grade(self, log_probs: Sequence[np.ndarray]) -> dict[str, list[Answer]]:
        """Answers to items, by benchmark, from the token log-probabilities (nats) of `spans`."""
        remaining = iter(log_probs)
        return {
            benchmark.name: benchmark.grade(
                [next(remaining) for item in benchmark.items for _ in item.options]
            )
            for benchmark in self.benchmarks
        }

    def summarize(self, answers: dict[str, list[Answer]]) -> SuiteScores:
        """The figures of the answers that `grade` gives."""
        values = {name: [item.value for item in items] for name, items in answers.items()}
        figures = {b.name: b.figure(values[b.name]) for b in self.benchmarks}
        errors = {b.name: b.error(values[b.name]) for b in self.benchmarks}
        macro = macro_weights(self.protocol, figures)
        return SuiteScores(
            suite_hash=self.hash,
            protocol=self.protocol,
            macro=macro_of(figures, self.protocol),
            macro_error=math.hypot(*(macro[name] * errors[name] for name in macro))
            / sum(macro.values())
            if macro
            else None,
            benchmarks=figures,
            errors=errors,
            chance={b.name: b.chance for b in self.benchmarks},
            tasks={b.name: _task_figures(b, values[b.name]) for b in self.benchmarks},
            groups={b.name: _group_figures(b, values[b.name]) for b in self.benchmarks},
            ties={name: sum(item.tied for item in items) for name, items in answers.items()},
            non_finite={
                name: sum(not item.finite for item in items) for name, items in answers.items()
            },
            num_items={b.name: len(b) for b in self.benchmarks},
            datasets={b.name: b.dataset for b in self.benchmarks},
            outcomes={b.name: by_task(b.items, values[b.name]) for b in self.benchmarks},
            chance_errors={b.name: b.chance_error for b in self.benchmarks},
            selection=_part_figures(self.benchmarks, values, selection=True),
            held_out=_part_figures(self.benchmarks, values, selection=False),
            items={b.name: item_facts(b) for b in self.benchmarks},
        )


def protocol_of(scores: Scores) -> str:
    """The protocol of stored scores. Those that do not tell are older than the one whose macro is
    another than the first's."""
    return str(scores.get("protocol", PROTOCOLS[0]))


def macro_chance(scores: Scores) -> float | None:
    """The macro, percent, of a model that knows nothing, by stored scores; None where these have no
    macro, or are of a version that did not tell."""
    return macro_of(scores.get("chance", {}), protocol_of(scores))


def _part_figures(
    benchmarks: Sequence[Benchmark], values: dict[str, list[float]], *, selection: bool
) -> dict[str, float]:
    figures = {}
    for benchmark in benchmarks:
        indices = [i for i, mine in enumerate(benchmark.in_selection) if mine == selection]
        if indices:
            of_part = [values[benchmark.name][index] for index in indices]
            figures[benchmark.name] = benchmark.part(indices).figure(of_part)
    return figures


def _task_figures(benchmark: Benchmark, values: Sequence[float]) -> dict[str, float]:
    """The figure of each task by itself."""
    members: dict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(benchmark.items):
        members[item.task].append(index)
    return {
        task: benchmark.part(indices).figure([values[index] for index in indices])
        for task, indices in members.items()
    }


def _group_figures(benchmark: Benchmark, values: Sequence[float]) -> dict[str, dict[str, float]]:
    members: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for item, value in zip(benchmark.items, values, strict=True):
        for key in item.groups:
            members[key][item.task].append(value)
    figures: dict[str, dict[str, float]] = defaultdict(dict)
    for (grouping, group), tasks in sorted(members.items()):
        figures[grouping][group] = fmean(map(percent, tasks.values()))
    return dict(figures)
