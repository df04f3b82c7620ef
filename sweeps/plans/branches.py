"""The order of trials that wait for a checkpoint of another one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from trainables.spec import TrialSpec


class BranchPlan:
    """One trial for each seed, handed out when what it goes on from is there.

    Args:
        base: their spec, but for the seed.
        seeds: in this order.
        known: scores that the study already holds; these trials are handed out as well, and end
            at once.
        ready: whether a seed's trial may begin. It must become so once the trials that it waits
            for have ended, however they did.
    """

    def __init__(
        self,
        base: TrialSpec,
        seeds: Iterable[int],
        *,
        known: Mapping[TrialSpec, float | None] | None = None,
        ready: Callable[[int], bool] = lambda seed: True,
    ) -> None:
        self.values = {"lr": [base.lr]}
        self._ready = ready
        self._done = {spec for spec, score in (known or {}).items() if score is not None}
        self._queue = [base.replace(seed=seed) for seed in dict.fromkeys(seeds)]
        self._open: set[TrialSpec] = set()
        self.ended: set[int] = set()
        """Seeds whose trials have ended in this command, failed ones included."""

    @property
    def finished(self) -> bool:
        return not self._queue and not self._open

    def ask(self) -> TrialSpec | None:
        for spec in self._queue:
            if self._ready(spec.seed):
                self._queue.remove(spec)
                self._open.add(spec)
                return spec
        return None

    def tell(self, spec: TrialSpec, score: float) -> None:
        self._open.discard(spec)
        self.ended.add(spec.seed)

    def remaining(self) -> int:
        return sum(spec not in self._done for spec in [*self._queue, *self._open])
