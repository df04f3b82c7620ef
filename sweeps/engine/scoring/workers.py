"""Zero-shot scores of a model on disk: in this process, or shared by Ray workers."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.util import ActorPool
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from transformers import PreTrainedModel

import models
from analysis.benchmarks import Span, token_log_probs
from analysis.terminal import RareLines
from sweeps.engine.progress import LINE_SECONDS
from sweeps.engine.resources import count_shares
from trainables.checkpoint import bring_model
from trainables.device import pick_device, set_up_device
from trainables.launches import ScoringWork

CHUNKS_PER_WORKER = 8
"""Parts that each worker gets on average: enough for all to end at about the same time."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Scoring:
    """A model and how it is run; all that a worker needs to know.

    Attributes:
        model: folder, or id on the hub.
        cpus: threads.
        gpus: GPUs, fractions allowed; 0 for the CPU.
        precision, token_budget: see `token_log_probs`.
    """

    model: str
    cpus: int = 1
    gpus: float = 0.0
    precision: str = "fp32"
    token_budget: int | None = None

    @property
    def works(self) -> list[ScoringWork]:
        """What is done on a GPU with kernels of this project; nothing with models of others."""
        config = models.load_config(self.model)
        return [ScoringWork(config, self.precision)] if models.is_own(config) else []

    def load(self) -> PreTrainedModel:
        """The model on its device, with this process set up for it.

        In float32 whatever the checkpoint's type, unless that is bf16's autocast: the scores are of
        the precision that they are reported with.
        """
        device = pick_device(self.gpus)
        set_up_device(self.cpus, device, gpus=self.gpus)
        bring_model(Path(self.model))
        model: Any = models.load(self.model)
        return model.float().to(device)

    def score(
        self, model: PreTrainedModel, spans: Sequence[Span], progress: Progress | None = None
    ) -> list[np.ndarray]:
        """Token log-probabilities (nats) of the spans."""
        return token_log_probs(
            model,
            spans,
            precision=self.precision,
            token_budget=self.token_budget,
            progress=progress,
        )


@contextlib.contextmanager
def show_progress(console: Console, what: str) -> Iterator[Progress]:
    """A bar with the time that is left; in a pipe a line a minute.

    Args:
        console: where to show it.
        what: what is scored, "texts".
    """
    if not console.is_terminal:
        lines = RareLines(console, LINE_SECONDS)
        yield lambda done, total: lines.say(f"{what}: {done:,} of {total:,}")
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Bar(*columns, TimeRemainingColumn(compact=True), console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def score_here(scoring: Scoring, spans: Sequence[Span], progress: Progress) -> list[np.ndarray]:
    """Score in this process."""
    return scoring.score(scoring.load(), spans, progress)


def score_on_ray(
    scoring: Scoring, spans: Sequence[Span], workers: int, progress: Progress
) -> list[np.ndarray]:
    """Score with Ray workers, each with a copy of the model. Ray must be running.

    Long spans go first, and every chunk holds spans of like lengths; results depend on the number
    of workers by rounding only. A worker that dies is started again, and its chunk with it.

    Raises:
        ValueError: the cluster has not the CPUs or GPUs for so many workers, or the model cannot be
            opened or scored.
        ray.exceptions.RayError: a worker failed again and again.
    """
    _check_room(scoring, workers)
    distinct = sorted(dict.fromkeys(spans), key=lambda span: -span.num_inputs)
    chunks = _chunks(distinct, workers * CHUNKS_PER_WORKER)
    actor = ray.remote(_Worker).options(
        num_cpus=scoring.cpus, num_gpus=scoring.gpus, max_restarts=2, max_task_retries=2
    )
    actors: list[Any] = [actor.remote(scoring) for _ in range(workers)]
    if problem := ray.get(actors[0].problem.remote(distinct[:1])):
        raise ValueError(problem)
    pool = ActorPool(actors)
    scored: dict[Span, np.ndarray] = {}
    for part, values in pool.map_unordered(lambda each, chunk: each.score.remote(chunk), chunks):
        scored.update(zip(chunks[part][1], values, strict=True))
        progress(len(scored), len(distinct))
    return [scored[span] for span in spans]


def _check_room(scoring: Scoring, workers: int) -> None:
    """A worker that does not fit would be waited for without end."""
    room = ray.cluster_resources()
    for kind, need in (("CPU", scoring.cpus), ("GPU", scoring.gpus)):
        if need and workers > count_shares(room.get(kind, 0.0), need):
            raise ValueError(
                f"{workers} workers of {need:g} {kind} need {workers * need:g}, the cluster has "
                f"{room.get(kind, 0.0):g}: fewer --eval-workers, or less for each (--cpus, --gpus)"
            )


def _chunks(spans: Sequence[Span], count: int) -> list[tuple[int, list[Span]]]:
    """About `count` numbered runs of spans of about equally many tokens."""
    total = sum(span.num_inputs for span in spans)
    chunks: list[list[Span]] = [[]]
    done = 0
    for span in spans:
        if done >= len(chunks) * total / count:
            chunks.append([])
        chunks[-1].append(span)
        done += span.num_inputs
    return list(enumerate(chunks))


class _Worker:
    """A process with the model."""

    def __init__(self, scoring: Scoring) -> None:
        self._scoring = scoring

    @functools.cached_property
    def _model(self) -> PreTrainedModel:
        return self._scoring.load()

    def problem(self, spans: list[Span]) -> str:
        """Reason why the model cannot score these spans, "" if it can.

        An error would reach the caller as Ray's, with the worker's traceback.
        """
        try:
            self._scoring.score(self._model, spans)
        except (ValueError, OSError) as error:
            return str(error)
        return ""

    def score(self, chunk: tuple[int, list[Span]]) -> tuple[int, list[np.ndarray]]:
        number, spans = chunk
        return number, self._scoring.score(self._model, spans)
