"""Scoring texts in a process of its own: ours, and lm-eval's in the interpreter that has it.

Both get the texts through `tests.agreement.remote` and are timed from the texts to their
log-probabilities: encoding counts, importing and loading do not.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import torch

from tests.agreement.public_tools import LmEval

OURS = f"{__name__}:OurScorer"
LM_EVAL = f"{__name__}:LmEvalScorer"


class Scorer(ABC):
    """A loaded model that scores the texts it was given, as often as it is asked."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._texts: list[tuple[str, str]] = []
        self._loaded = 0

    @abstractmethod
    def score(self, texts: list[tuple[str, str]]) -> list[float]:
        """Log-probabilities (nats) of the second text of each pair after the first."""

    def take(self, texts: list[tuple[str, str]], warm_up: int) -> None:
        """Keep the texts, forget the peak of memory so far, and score a few of them."""
        self._texts = [(context, text) for context, text in texts]
        self._loaded = psutil.Process().memory_info().rss
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak is the present size again
        self.score(self._texts[:warm_up])

    def run(self) -> tuple[float, list[float]]:
        """Seconds for all texts, and their log-probabilities."""
        started = time.perf_counter()
        scores = self.score(self._texts)
        return time.perf_counter() - started, scores

    def memory(self) -> tuple[float, float]:
        """Peak resident memory in GB since the model was loaded, and how much was added to it."""
        status = Path("/proc/self/status").read_text()
        (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
        return int(peak) * 1024 / 1e9, (int(peak) * 1024 - self._loaded) / 1e9


class OurScorer(Scorer):
    """`sequence_log_probs` under the protocol of 2024, which is lm-eval's."""

    def __init__(self, checkpoint: str, precision: str, threads: int) -> None:
        super().__init__(threads)
        import models
        from trainables.corpus.tokenizer import load_tokenizer
        from trainables.device import set_up_device

        set_up_device(threads)
        self._precision = precision
        self._model = models.load(checkpoint)
        self._tokenizer = load_tokenizer(Path(checkpoint))

    def score(self, texts: list[tuple[str, str]]) -> list[float]:
        from analysis.benchmarks import sequence_log_probs

        return sequence_log_probs(self._model, self._spans(texts), precision=self._precision)

    def work(self) -> tuple[int, int]:
        """Tokens that all texts make a model read, and its FLOPs for them one by one."""
        import models

        flops_at = cache(lambda length: models.flops_per_token(self._model.config, length))
        lengths = [span.num_inputs for span in self._spans(self._texts)]
        return sum(lengths), sum(length * flops_at(length) for length in lengths)

    def _spans(self, texts: list[tuple[str, str]]) -> list[Any]:
        from analysis.benchmarks import Encoder

        return Encoder(self._tokenizer, "2024").spans(texts, [""] * len(texts))


class LmEvalScorer(Scorer):
    """lm-eval's `hf` model as its command makes it, without our `models`."""

    def __init__(self, checkpoint: str, batch_size: int, threads: int) -> None:
        super().__init__(threads)
        self._lm_eval = LmEval(checkpoint, batch_size, import_models=False)

    def score(self, texts: list[tuple[str, str]]) -> list[float]:
        return self._lm_eval.log_probs([(c, t if c else " " + t) for c, t in texts])
