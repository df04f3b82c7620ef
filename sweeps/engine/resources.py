"""What one trial gets: CPUs, GPUs, workers, and the runner that they call for."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.wording import count


@dataclass(frozen=True)
class Resources:
    """Resources of one trial, for each of its workers.

    Attributes:
        cpus: CPUs of one worker.
        gpus: GPUs of one worker: a fraction of one, or whole ones.
        workers: workers of one trial.
        runner: "inline" (the Tune function is the trial) or "train" (Ray Train workers).
    """

    cpus: int
    gpus: float
    workers: int
    runner: str

    @classmethod
    def choose(cls, cpus: int, gpus: float, workers: int, runner: str) -> Resources:
        """Resources with "auto" resolved: inline for one worker, Ray Train for more.

        One worker needs nothing that Ray Train adds (a process group, a controller, a second start
        of workers), on a GPU as little as on a CPU: Tune gives its own process the GPU or the share
        of one, and the same process takes the next trial. With Ray Train each trial's slot holds
        four more processes, which start one after the other.

        Raises:
            ValueError: what was asked for does not go together.
        """
        if cpus < 1 or gpus < 0 or workers < 1:
            raise ValueError(
                "a trial needs at least 1 CPU, 0 GPUs and 1 worker: not --cpus-per-trial "
                f"{cpus} --gpus-per-trial {gpus:g} --workers-per-trial {workers}"
            )
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(
                f"--gpus-per-trial must be a fraction of one GPU or whole GPUs, not {gpus:g}"
            )
        if runner == "inline" and workers > 1:
            raise ValueError(
                f"the inline runner has one worker; use --runner train for {workers} workers"
            )
        if runner == "auto":
            runner = "inline" if workers == 1 else "train"
        return cls(cpus, gpus, workers, runner)

    @property
    def in_words(self) -> str:
        """What a trial gets: "1 CPU", or "2 workers of 4 CPUs and 1 GPU"."""
        each = count(self.cpus, "CPU")
        if self.gpus:
            each += f" and {self.gpus:g} {'GPU' if self.gpus <= 1 else 'GPUs'}"
        return each if self.workers == 1 else f"{self.workers} workers of {each}"

    @property
    def backend(self) -> str:
        """The library by which the workers of a trial exchange gradients.

        NCCL where each has a GPU of its own. Ray may put shares of two workers on the same GPU,
        which NCCL refuses ("duplicate GPU"); gloo takes CUDA tensors, too, by way of the CPU: right
        but slow, so more than one worker only pays on whole GPUs.
        """
        return "nccl" if self.gpus >= 1 else "gloo"

    def trials_at_once(
        self, available: dict[str, float], limit: int | None = None, memory: float = 0.0
    ) -> int:
        """Number of trials that fit the cluster's resources.

        Args:
            available: the cluster's, by Ray's names for them.
            limit: most trials.
            memory: bytes that a worker takes at least. One trial is tried in any case.

        Raises:
            ValueError: not even one fits.
        """
        fits = []
        for kind, need in (("CPU", self.cpus), ("GPU", self.gpus)):
            if need:
                fits.append(count_shares(available.get(kind, 0.0), need) // self.workers)
                if fits[-1] == 0:
                    raise ValueError(
                        f"one trial needs {self.workers} x {need:g} {kind}, the cluster has "
                        f"{available.get(kind, 0.0):g}: lower --{kind.lower()}s-per-trial or "
                        "--workers-per-trial, or connect to a larger cluster"
                    )
        if memory and "memory" in available:
            fits.append(max(1, int(available["memory"] // (memory * self.workers))))
        return min(*fits, limit) if limit else min(fits)


def count_shares(available: float, need: float) -> int:
    """Count how often `need` is there: a fraction of a GPU cannot be put together from two GPUs."""
    if need < 1:
        return int(available) * int(1 / need + 1e-4)  # Ray counts in steps of 1e-4
    return int(available // need)
