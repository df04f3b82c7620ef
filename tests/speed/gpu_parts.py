"""The parts of `gpu_speed`, each in a process of its own: `python -m tests.speed.gpu_parts PART`.

PART is a `Part` as JSON. The process imports everything, says so, waits for a line on its standard
input, and then prints what it finds: lines of JSON behind `MARK`. What libraries print goes to the
standard error.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import math
import os
import queue
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARK = "@speed "
ROOT = Path(__file__).resolve().parents[2]
SHAPES = {  # vocabulary, context and sequences of a step
    "mini": (2048, 64, 32),
    "small": (8192, 256, 64),
    "base": (16_000, 512, 64),
    "paper": (16_000, 512, 64),
}
LEARNING_RATE = {"mini": 3e-3, "small": 1e-3, "base": 5e-4, "paper": 3e-4}
BATCHES = 8  # different ones, again and again
LEARN_STEPS = 12  # in which the loss must fall
LOSS_TOLERANCE = 5e-3  # relative, of a peer's loss with our weights, in bf16
SHARE_OF_TWO = 0.42  # of the memory, for ours where a peer lies beside it
SLSTM = (16, 512, 4, 256)  # sequences, steps, heads, head dim
TOGETHER = 4  # trials at once on one GPU
COLD_TIMEOUT = 180.0
MPS_TIMEOUT = 40.0  # of the trials under MPS, from their start to their end

Row = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """What a process measures.

    Attributes:
        kind: "cold", "steps", "slstm", "distill", "together" or "trial" (one of those together).
        size, arch: of the model; "cold" is of several `archs`, and of sizes joined by "+".
        steps: in a turn; 0 for as many as take `turn_seconds`.
        batch: sequences of a step; 0 for the size's own.
        peers: "none", "also", or "only" them, with ours but for the comparison.
        cache: folder of built kernels, with one for each size.
    """

    kind: str
    size: str = ""
    arch: str = ""
    archs: tuple[str, ...] = ()
    device: str = "cuda"
    steps: int = 0
    rounds: int = 5
    turn_seconds: float = 0.3
    batch: int = 0
    peers: str = "also"
    cache: str = ""

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.kind, self.size, self.arch)))

    @classmethod
    def from_json(cls, text: str) -> Part:
        values = json.loads(text)
        return cls(**{**values, "archs": tuple(values["archs"])})

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @property
    def shape(self) -> tuple[int, int, int]:
        vocab, context, batch = SHAPES[self.size]
        return vocab, context, self.batch or batch


def main() -> None:
    part = Part.from_json(sys.argv[1])
    if part.kind not in KINDS:
        sys.exit(f"there is no part {part.kind!r}")
    # Whoever stops it lets it stop what it has started itself.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    out, sys.stdout = sys.stdout, sys.stderr

    def say(row: Row) -> None:
        print(MARK + json.dumps({"part": part.name, **row}), file=out, flush=True)

    started = time.perf_counter()
    _import(part)
    say({"what": "ready", "seconds": time.perf_counter() - started})
    if not sys.stdin.readline():
        return  # nobody wants it any more
    for row in run(part):
        say(row)


def _import(part: Part) -> None:
    if part.kind != "cold":
        import tests.speed.gpu_peers  # noqa: F401


def run(part: Part) -> Iterator[Row]:
    """What the part finds, as soon as it is found."""
    return KINDS[part.kind](part)


# ---- the first step


def cold(part: Part) -> Iterator[Row]:
    """Build for all architectures with an empty cache; then a trial of each, all at once.

    Of several sizes all are built at once, and the trials of one size come after those of another.
    """
    from tests.gpu.first_step import Job

    jobs: list[Job] = []

    def job(action: str, archs: Sequence[str], size: str, *options: str) -> Job:
        jobs.append(Job(action, archs, Path(part.cache) / size, "--size", size, *options))
        return jobs[-1]

    sizes, device = part.size.split("+"), part.device
    try:
        builds = {} if device == "cpu" else {s: job("build", part.archs, s) for s in sizes}
        for size in sizes:
            building: Row = {"seconds": 0.0, "tuned": []}
            if size in builds:
                building = builds[size].result(COLD_TIMEOUT)
                yield {"what": "build", "size": size, **building}
            trials = {arch: job("train", [arch], size, "--device", device) for arch in part.archs}
            for arch, each in trials.items():
                yield {"what": "cold", "size": size, "arch": arch, **_first_step(building, each)}
    finally:
        for each in jobs:
            each.stop()


def _first_step(building: Row, trial: Any) -> Row:
    """Seconds from an empty cache to a trial's first step, or why there was none."""
    try:
        facts = trial.result(COLD_TIMEOUT)
    except RuntimeError as error:
        return {"problem": str(error).splitlines()[-1]}
    return {
        "seconds": building["seconds"] + facts["first_step"],
        "own_seconds": facts["first_step"],
        "step": facts["step"],
        "tuned": sorted({*building["tuned"], *facts["tuned"]}),
    }


# ---- whole steps


def steps(part: Part) -> Iterator[Row]:
    """Our training step, and the peers' in turns with it."""
    from tests.speed.gpu_peers import peers_of

    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(part, Path(folder))
        row = {"what": "ours", "size": part.size, "arch": part.arch, "who": "ours"}
        problem = ours.learn()
        if problem:
            yield {**row, "problem": problem, "losses": ours.losses}
            return
        if part.peers != "only":
            yield {**row, **_alone(part, ours)}
        if part.peers == "none":
            return
        ours = ours.beside_a_peer()
        for name, make in peers_of(part.arch).items():
            row = {"what": "peer", "size": part.size, "arch": part.arch, "who": name}
            yield {**row, **_against(part, ours, make)}
            _tidy(part.device)


def _alone(part: Part, ours: Ours) -> Row:
    count = _steps_in_a_turn(part, ours.turn)
    times = [ours.turn(count) for _ in range(part.rounds)]
    return {**ours.facts(statistics.median(times)), "spread": max(times) / min(times) - 1}


def _against(part: Part, ours: Ours, make: Callable[..., Any]) -> Row:
    """Turns of ours and of a peer, whose loss agrees; or why there are none."""
    import torch

    from tests.speed.gpu_peers import Unavailable

    micro_batch = ours.trainer.micro_batch
    while True:
        try:
            peer = make(ours.trainer.model, micro_batch, LEARNING_RATE[part.size])
            return _turns(part, ours, peer, micro_batch)
        except Unavailable as error:
            return {"problem": str(error), "skipped": True}
        except torch.OutOfMemoryError:
            problem = f"does not fit at {micro_batch} sequences at once"
        except Exception as error:  # somebody else's code may fail in any way
            return {"problem": f"{type(error).__name__}: {_first_line(error)}"}
        peer = None  # outside of the handler, whose traceback holds tensors
        _tidy(part.device)
        if micro_batch == 1:
            return {"problem": problem}
        micro_batch = -(-micro_batch // 2)


def _turns(part: Part, ours: Ours, peer: Any, micro_batch: int) -> Row:
    batches = [ours.batch(index) for index in range(BATCHES)]
    peer.load(ours.trainer.model.state_dict())
    mine, theirs = ours.loss(batches[0]), peer.loss(*batches[0]).item()
    error = abs(theirs / mine - 1)
    if not error <= LOSS_TOLERANCE:
        return {"problem": f"wrong: with our weights its loss is {theirs:.4f}, ours {mine:.4f}"}
    losses: list[Any] = []

    def turn(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            losses.append(peer.step(*batches[len(losses) % BATCHES]))
        _wait(part.device)
        return (time.perf_counter() - started) / count

    started = time.perf_counter()
    turn(1)
    first = time.perf_counter() - started
    turn(2)  # torch.compile and cuDNN settle
    counts = _steps_in_a_turn(part, ours.turn), _steps_in_a_turn(part, turn)
    rounds = [(ours.turn(counts[0]), turn(counts[1])) for _ in range(part.rounds)]
    if not all(math.isfinite(loss) for loss in (losses[0].item(), losses[-1].item())):
        return {"problem": f"wrong: its loss became {losses[-1].item()}"}
    ratios = [theirs / mine for mine, theirs in rounds]
    seconds = statistics.median(theirs for _, theirs in rounds)
    remark = "" if micro_batch == ours.trainer.micro_batch else f"peer: {micro_batch} at once"
    return {
        **ours.rates(seconds),
        "first_step": first,
        "micro_batch": micro_batch,
        "loss_error": error,
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "remark": remark,
    }


class Ours:
    """A trial as the project trains it, on made tokens.

    Args:
        folder: for the tokens.
        room: share of the memory that it may have.
        changes: of the trial's spec; with a teacher it has one of the same architecture.
    """

    def __init__(self, part: Part, folder: Path, room: float = 1.0, **changes: Any) -> None:
        import torch

        from tests.made_tokens import made_data
        from trainables.device import set_up_device
        from trainables.memory import CudaMemory
        from trainables.spec import TrialSpec
        from trainables.trainer import Trainer, World, build_model

        started = time.perf_counter()
        self._part, self._folder, self._changes = part, folder, changes
        vocab, context, batch = part.shape
        device = torch.device(part.device)
        set_up_device(1 if device.type == "cuda" else torch.get_num_threads(), device)
        self.spec = TrialSpec(
            arch=part.arch,
            size=part.size,
            corpus="made",
            corpus_hash="made",
            context=context,
            batch_size=batch,
            lr=LEARNING_RATE[part.size],
            epochs=100_000 // BATCHES,  # the rate stays where it is
            seed=0,
            warmup=0.0,
            precision="bf16",
            **changes,
        )
        data = made_data(folder, vocab=vocab, context=context, blocks=BATCHES * batch)
        if self.spec.teacher:
            teacher = build_model(self.spec.replace(seed=1), data.tokenizer)
            data = dataclasses.replace(data, teachers=(teacher,))
        memory = CudaMemory(room) if device.type == "cuda" else None
        self.trainer = Trainer(self.spec, data, World(device=device), "auto", memory=memory)
        if memory is not None:
            torch.cuda.reset_peak_memory_stats()  # of looking for the micro-batch
        self.losses: list[float] = []
        self.trainer.step()[0].item()
        self.first_step = time.perf_counter() - started

    def learn(self) -> str:
        """A few steps, which settle the captured graph as well; returns what is wrong, if it is."""
        losses = [self.trainer.step()[0] for _ in range(LEARN_STEPS)]
        tokens = self.spec.batch_size * self.spec.context
        self.losses = [loss.item() / tokens for loss in losses]
        if not all(math.isfinite(loss) for loss in self.losses):
            return "wrong: the loss is not finite"
        if not statistics.mean(self.losses[-3:]) < self.losses[0]:
            return "wrong: the loss does not fall"
        return ""

    def turn(self, count: int) -> float:
        """Mean seconds of so many steps."""
        started = time.perf_counter()
        for _ in range(count):
            self.trainer.step()
        _wait(self._part.device)
        return (time.perf_counter() - started) / count

    def facts(self, seconds: float) -> Row:
        """All that is told of our step."""
        return {
            **self.rates(seconds),
            "first_step": self.first_step,
            "memory": _peak_memory(self._part.device),
            "micro_batch": self.trainer.micro_batch,
            "step": self.trainer.step_in_words,
            "losses": [self.losses[0], self.losses[-1]],
        }

    def rates(self, seconds: float) -> Row:
        """Of a step of this shape that takes so many seconds."""
        import models
        from trainables.peaks import dense_bf16_peak

        tokens = self.spec.batch_size * self.spec.context
        flops = 3 * models.flops_per_token(self.trainer.model.config, self.spec.context)
        rate = tokens / seconds
        peak = dense_bf16_peak(device_name(self._part.device))
        return {
            "batch": self.spec.batch_size,
            "context": self.spec.context,
            "milliseconds": 1e3 * seconds,
            "tokens_per_second": rate,
            "mfu": None if peak is None else rate * flops / peak,
        }

    def batch(self, index: int) -> tuple[Any, Any]:
        """A whole batch, on the device for good."""
        inputs, targets = self.trainer.batches.read(index)
        return inputs.to(self._part.device), targets.to(self._part.device)

    def loss(self, batch: tuple[Any, Any]) -> float:
        """The mean loss in nats under autocast, without dropout."""
        import torch

        from trainables.objectives import NextTokenObjective

        total = 0.0
        size = self.trainer.micro_batch
        objective = NextTokenObjective(self.trainer.model.eval())
        for piece, goal in zip(batch[0].split(size), batch[1].split(size), strict=True):
            with torch.no_grad(), torch.autocast(self._part.device, torch.bfloat16):
                total += objective(piece, goal).item()
        return total / batch[1].numel()

    def beside_a_peer(self) -> Ours:
        """Itself if it leaves room enough for a peer, else in smaller micro-batches."""
        import torch

        if self._part.device == "cpu":
            return self
        total = torch.cuda.get_device_properties(0).total_memory
        if torch.cuda.max_memory_reserved() <= SHARE_OF_TWO * total:
            return self
        del self.trainer
        _tidy(self._part.device)
        smaller = Ours(self._part, self._folder, SHARE_OF_TWO, **self._changes)
        smaller.learn()
        return smaller


def _steps_in_a_turn(part: Part, turn: Callable[[int], float]) -> int:
    if part.steps:
        return part.steps
    return max(1, math.ceil(part.turn_seconds / turn(1)))


# ---- single kernels and several trials


def slstm(part: Part) -> Iterator[Row]:
    """Microseconds per step of the sLSTM's recurrence, forward and backward."""
    import torch

    from models.kernels.slstm import slstm as kernel

    batch, time_steps, heads, dim = SLSTM
    if part.steps:
        time_steps = part.steps
    x = torch.randn(batch, time_steps, 4, heads, dim, device=part.device, dtype=torch.bfloat16)
    recurrent = torch.randn(heads, 4 * dim, dim, device=part.device) / dim
    leaves = x.requires_grad_(), recurrent.requires_grad_()
    weight = torch.randn(batch, time_steps, heads, dim, device=part.device)
    forward, backward = [], []
    for _ in range(3 + part.rounds):  # the first warm up
        _wait(part.device)
        started = time.perf_counter()
        h = kernel(*leaves)[0]
        _wait(part.device)
        middle = time.perf_counter()
        torch.autograd.grad(h, leaves, weight)
        _wait(part.device)
        forward.append(middle - started)
        backward.append(time.perf_counter() - middle)
    for name, times in (("forward", forward), ("backward", backward)):
        microseconds = 1e6 * statistics.median(times[3:]) / time_steps
        yield {"what": "slstm", "direction": name, "microseconds": microseconds}


def distill(part: Part) -> Iterator[Row]:
    """A step with a teacher of the same architecture and size against one without, in turns."""
    row = {"what": "distill", "size": part.size, "arch": part.arch}
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        plain = Ours(part, Path(first), SHARE_OF_TWO)
        taught = Ours(part, Path(second), SHARE_OF_TWO, teacher="made", alpha=0.5, temperature=2.0)
        problem = plain.learn() or taught.learn()
        if problem:
            yield {**row, "problem": problem}
            return
        count = _steps_in_a_turn(part, plain.turn)
        ratios = [taught.turn(count) / plain.turn(count) for _ in range(part.rounds)]
        pieces = [ours.trainer.micro_batch for ours in (taught, plain)]
        remark = "" if pieces[0] == pieces[1] else f"{pieces[0]} at once, without a teacher "
        remark += "" if pieces[0] == pieces[1] else str(pieces[1])
    yield {
        **row,
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "remark": remark,
    }


def together(part: Part) -> Iterator[Row]:
    """Several trials at once on one GPU against one after the other, without MPS and with it."""
    row = {"what": "together", "size": part.size, "arch": part.arch, "trials": TOGETHER}
    with _trials(part, {}) as trials:
        alone = sum(_Trial.train([each]) for each in trials)
        at_once = _Trial.train(trials)
    row["alone"] = alone
    yield {**row, "mps": False, "ratio": at_once / alone, "at_once": at_once}
    yield {**row, "mps": True, **_with_mps(part, alone)}


def _with_mps(part: Part, alone: float) -> Row:
    """The trials at once, or why they did not train."""
    from tests.speed import mps

    try:
        with mps.daemon() as variables, _trials(part, variables, MPS_TIMEOUT) as trials:
            at_once = _Trial.train(trials)
    # Of trials that find no way to the GPU, or of a daemon that cannot be run.
    except (mps.NotStarted, RuntimeError, OSError) as error:
        return {"problem": f"no MPS: {_first_line(error)}", "skipped": True}
    return {"ratio": at_once / alone, "at_once": at_once}


@contextlib.contextmanager
def _trials(
    part: Part, variables: dict[str, str], limit: float | None = None
) -> Iterator[list[_Trial]]:
    """Processes that are ready to train, with these environment variables.

    After `limit` seconds nobody waits for them any longer, nor for what they train.
    """
    trials: list[_Trial] = []
    ends = None if limit is None else time.monotonic() + limit
    try:
        for _ in range(TOGETHER):
            trials.append(_Trial(dataclasses.replace(part, kind="trial"), variables, ends))
        for each in trials:
            each.wait_for("warm")
        yield trials
    finally:
        for each in trials:
            each.stop()


class _Trial:
    """A process of the kind "trial", waited for until `ends` (of `time.monotonic`) if given."""

    def __init__(self, part: Part, variables: dict[str, str], ends: float | None = None) -> None:
        self._ends = ends
        command = [sys.executable, "-m", "tests.speed.gpu_parts", part.to_json()]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        environment = {**os.environ, **variables}
        self._process = subprocess.Popen(command, cwd=ROOT, text=True, env=environment, **pipes)
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self._go()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _go(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, as `wait_for` says
            self._process.stdin.write("go\n")
            self._process.stdin.flush()

    def wait_for(self, what: str) -> None:
        """Until it says so; RuntimeError if it ends before, or its time does."""
        while True:
            left = None if self._ends is None else max(0.0, self._ends - time.monotonic())
            try:
                line = self._lines.get(timeout=left)
            except queue.Empty:
                raise RuntimeError(f"a trial was not {what} in time") from None
            if not line:
                raise RuntimeError(f"a trial ended before it was {what}")
            if line.startswith(MARK) and json.loads(line.removeprefix(MARK))["what"] == what:
                return

    @staticmethod
    def train(trials: Sequence[_Trial]) -> float:
        """Seconds in which all of these have trained."""
        started = time.perf_counter()
        for each in trials:
            each._go()
        for each in trials:
            each.wait_for("trained")
        return time.perf_counter() - started

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # what it has not read
            self._process.stdin.close()


def trial(part: Part) -> Iterator[Row]:
    """One of several: warms up, and then trains as long as it is told to."""
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(part, Path(folder), 1 / TOGETHER)
        ours.learn()
        count = part.steps or 1000
        yield {"what": "warm"}
        while sys.stdin.readline():
            ours.turn(count)
            yield {"what": "trained"}


KINDS: dict[str, Callable[[Part], Iterator[Row]]] = {
    "cold": cold,
    "steps": steps,
    "slstm": slstm,
    "distill": distill,
    "together": together,
    "trial": trial,
}


# ---- the device


def device_name(device: str) -> str:
    """E.g. "NVIDIA H100 80GB HBM3", or "cpu"."""
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else device


def _wait(device: str) -> None:
    """Until the device has done what it was given."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def _peak_memory(device: str) -> float | None:
    """Most GB reserved for tensors, those of a graph included."""
    import torch

    return torch.cuda.max_memory_reserved() / 1e9 if device == "cuda" else None


def _tidy(device: str) -> None:
    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or "no message").splitlines()[0][:160]


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
