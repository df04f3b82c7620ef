"""The seconds to a trial's first steps on a machine that never ran one, as processes of their own.

    python -m tests.gpu.first_step build ARCH ...   builds the kernels of all, as a sweep does first
    python -m tests.gpu.first_step train ARCH       takes the first steps of a trial

Both print one line of JSON; seconds count from the start of the process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
SIZES = {  # vocabulary, context and sequences at once
    "mini": (512, 32, 2),
    "small": (8192, 256, 8),
    "base": (16_000, 512, 4),
    "paper": (16_000, 512, 2),
}
STEPS = 6  # the fourth is the first that is captured


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["build", "train"])
    parser.add_argument("archs", nargs="+")
    parser.add_argument("--size", default="base", choices=SIZES)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args(argv)
    tuned = _watch_tuning()
    if args.action == "build":
        facts = _build(args.archs, args.size)
    else:
        (arch,) = args.archs
        facts = _train(arch, args.size, args.device)
    print(json.dumps({**facts, "archs": args.archs, "seconds": _age(), "tuned": tuned}))


def _age() -> float:
    """Seconds since the process started."""
    return time.time() - psutil.Process().create_time()


def _watch_tuning() -> list[str]:
    """Names of the kernels that a library tunes, as they come up."""
    from triton.runtime.autotuner import Autotuner

    tuned: list[str] = []
    bench = Autotuner._bench

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        tuned.append(str(getattr(self.base_fn, "__name__", self.base_fn)))
        return bench(self, *args, **kwargs)

    Autotuner._bench = watched
    return tuned


def _spec(arch: str, size: str) -> Any:
    from trainables.spec import TrialSpec

    _, context, batch = SIZES[size]
    shape = {"context": context, "batch_size": batch, "lr": 1e-3, "epochs": 1, "seed": 0}
    names = {"corpus": "made", "corpus_hash": "made", "precision": "bf16"}
    return TrialSpec(arch=arch, size=size, **shape, **names)


def _build(archs: Sequence[str], size: str) -> dict[str, Any]:
    from trainables.kernel_cache import build_kernels
    from trainables.launches import TrialWork

    works = [TrialWork(_spec(arch, size), SIZES[size][0]) for arch in archs]
    return {"built": build_kernels(works)}


def _train(arch: str, size: str, device: str) -> dict[str, Any]:
    import torch

    from tests.made_tokens import made_data
    from trainables.device import set_up_device
    from trainables.trainer import Trainer, World

    imported = _age()
    vocab, context, batch = SIZES[size]
    place = torch.device(device)
    set_up_device(1, place)
    with tempfile.TemporaryDirectory() as folder:
        data = made_data(Path(folder), vocab=vocab, context=context, blocks=STEPS * batch)
        trainer = Trainer(_spec(arch, size), data, World(device=place), None)
        losses, ends = [], []
        for _ in range(STEPS):
            losses.append(trainer.step()[0].item() / (batch * context))
            ends.append(_age())
    facts = {"losses": losses, "step": trainer.step_in_words}
    return {**facts, "imported": imported, "first_step": ends[0], "all_steps": ends[-1]}


class Job:
    """One of the commands above, in a process of its own."""

    def __init__(self, action: str, archs: Sequence[str], cache: Path, *options: str) -> None:
        command = [sys.executable, "-m", "tests.gpu.first_step", action, *archs, *options]
        environment = {
            **os.environ,
            "TRITON_CACHE_DIR": str(cache),
            "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        }
        # A pipe that nobody reads could fill up.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=self._errors
        )

    def result(self, timeout: float) -> dict[str, Any]:
        """What it prints; RuntimeError if it fails or takes too long."""
        try:
            output, _ = self._process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.stop()
            raise RuntimeError(f"not ended after {timeout:.0f} s") from None
        if self._process.returncode:
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
            raise RuntimeError("\n".join(lines[-15:]) or f"status {self._process.returncode}")
        facts: dict[str, Any] = json.loads(output.splitlines()[-1])
        return facts

    def stop(self) -> None:
        """End it with all that it started, if it has not ended."""
        started = []
        if self._process.poll() is None:
            started = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        self._process.wait()
        for process in started:  # those that compile wait for work for ever
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


if __name__ == "__main__":
    main()
