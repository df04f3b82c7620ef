"""The order of trials that wait for a checkpoint of another one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping


class BranchPlan:
    """One trial for each seed, handed out when what it goes on from is there.

    Args:
        lr: the learning rate of all.
        seeds: in this order.
        known: scores that the study already holds, by (lr, seed); these trials are handed out as
            well, and end at once.
        ready: whether a seed's trial may begin. It must become so once the trials that it waits
            for have ended, however they did.
    """

    def __init__(
        self,
        lr: float,
        seeds: Iterable[int],
        *,
        known: Mapping[tuple[float, int], float | None] | None = None,
        ready: Callable[[int], bool] = lambda seed: True,
    ) -> None:
        self.lrs = [lr]
        self._ready = ready
        self._done = {pair for pair, score in (known or {}).items() if score is not None}
        self._queue = [(lr, seed) for seed in dict.fromkeys(seeds)]
        self._open: set[tuple[float, int]] = set()
        self.ended: set[int] = set()
        """Seeds whose trials have ended in this command, failed ones included."""

    @property
    def finished(self) -> bool:
        return not self._queue and not self._open

    def ask(self) -> tuple[float, int] | None:
        for pair in self._queue:
            if self._ready(pair[1]):
                self._queue.remove(pair)
                self._open.add(pair)
                return pair
        return None

    def tell(self, lr: float, seed: int, score: float) -> None:
        self._open.discard((lr, seed))
        self.ended.add(seed)

    def remaining(self) -> int:
        return sum(pair not in self._done for pair in [*self._queue, *self._open])
