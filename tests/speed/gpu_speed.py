"""How fast the architectures train on a GPU: `make speed-gpu`.

cold      Seconds to a trial's first step where nothing is built yet, all architectures at once.
steps     Tokens/s, share of the peak (MFU: three forward passes' FLOPs over the dense bf16 peak),
          peak memory, and in turns with it the peers: transformers' LLaMA under torch.compile,
          nn.LSTM, fla's HGRN2 and Gated DeltaNet, mamba-ssm if it can be imported, the xLSTM on
          mlstm_kernels. A row is timed only if its loss is finite and falls, a peer only if it has
          our loss with our weights.
slstm     Microseconds of a step of the sLSTM's recurrence.
distill   A step with a teacher against one without.
together  Four mini trials at once on the GPU against one after the other; and once more with
          NVIDIA's MPS, where it can be started.
sweep     With --sweep alone: a sweep of all architectures from the command line to its end, the
          seconds to the first step of each, and what a dry run foretold.

Every part has a process of its own under a time limit, and one at a time uses the GPU; the next one
imports meanwhile. What the targets are about comes first, then ours at the other sizes, and the
peers there last, for which eight minutes are short. Every figure is a line of JSON in --out as soon
as it is there: a run that is stopped leaves what it has. At the end stand the tables and the
targets, each met, missed or not measured. The status is 1 if one is missed or something failed. It
is 0 also where the time was up before all parts were measured: then the last line says how many
were not, and a table which. Nothing asks the network.

    python -m tests.speed.gpu_speed --out speed.jsonl
    python -m tests.speed.gpu_speed --parts steps --sizes base --archs hgrn2
    python -m tests.speed.gpu_speed --device cpu --sizes mini --steps 2    # try the tool itself
"""

from __future__ import annotations

import json
import os
import platform
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from tests.speed import gpu_report
from tests.speed.gpu_parts import MARK, ROOT, Part, Row

ARCHITECTURES = ("transformer", "lstm", "mamba", "hgrn2", "xlstm", "gated_deltanet")
DISTILLED = "transformer"
PARTS = ("cold", "steps", "slstm", "distill", "together")
LIMITS = {"cold": 200.0, "steps": 75.0, "slstm": 40.0, "distill": 60.0, "together": 150.0}
"""Most seconds of a part, from its first use of the device."""
COMPILED_PEER = 75.0
"""More seconds for the part whose peer is compiled by torch.compile."""
GRACE = 10.0
"""Most seconds in which a part that is told to stop stops what it has started."""
IMPORTS = 120.0
"""Most seconds until a part is ready to use the device."""
SWEEP_LIMIT = 480.0

PartName = Literal["cold", "steps", "slstm", "distill", "together"]
SizeName = Literal["mini", "small", "base", "paper"]


@dataclass(frozen=True)
class Args:
    """What to measure."""

    parts: tuple[PartName, ...] = PARTS
    """Which measurements."""
    sizes: tuple[SizeName, ...] = ("base", "paper", "small")
    """Presets of `python -m models.sizes`, in this order."""
    archs: tuple[str, ...] = ARCHITECTURES
    """Architectures, in this order."""
    no_peers: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Ours alone."""
    sweep: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Time a whole sweep, and nothing else."""
    words: int = 5_000_000
    """Words of the generated corpus of the sweep."""
    device: Literal["cuda", "cpu"] = "cuda"
    """On a CPU no figure means anything."""
    batch: int = 0
    """Sequences of a step; by default 64 (32 at mini)."""
    steps: int = 0
    """Steps in a turn; by default as many as take 0.3 s."""
    rounds: int = 5
    """Turns of each row; the median counts."""
    limit: float = 480.0
    """Seconds for everything; for the sweep as well, but counted alone."""
    out: Path | None = None
    """File for one line of JSON per figure; what it holds before is lost."""
    markdown: Path | None = None
    """File to write the tables to, for a README."""


class Rows:
    """What was measured, written to a file line by line."""

    def __init__(self, out: Path | None) -> None:
        self.rows: list[Row] = []
        self._out = out
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text("")

    def add(self, row: Row) -> None:
        self.rows.append(row)
        if self._out is not None:
            with self._out.open("a") as file:
                file.write(json.dumps(row) + "\n")

    def fail(self, part: str, problem: str) -> None:
        self.add({"what": "problem", "part": part, "problem": problem})

    def leave_out(self, part: str, reason: str) -> None:
        self.add({"what": "not measured", "part": part, "reason": reason})


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    args = tyro.cli(Args, args=argv, description=__doc__)
    console = Console()
    console.width = max(console.width, 150)  # the widest table, also into a file
    rows = Rows(args.out)
    rows.add({"what": "machine", "part": "", "device": args.device, **machine()})
    try:
        with _stopped_by_signals():
            if args.sweep:
                measure_sweep(args, rows, console)
            else:
                measure(args, rows, console)
    except KeyboardInterrupt:
        rows.fail("all", "stopped by a signal")
    show(rows.rows, args, console)
    missed = [each for each in gpu_report.verdicts(rows.rows) if each.verdict == "missed"]
    failed = any(row.get("problem") and not row.get("skipped") for row in rows.rows)
    return 1 if missed or failed else 0


def show(rows: Sequence[Row], args: Args, console: Console) -> None:
    """Print the tables, and write them if that is asked for."""
    grids = gpu_report.tables(rows)
    line = machine_line(rows)
    console.print(line, style="dim", markup=False, highlight=False)
    for grid in grids:
        grid.show(console)
    if left_out := len([row for row in rows if row["what"] == "not measured"]):
        console.print(f"Not complete: {left_out} parts were not measured.", highlight=False)
    if args.markdown is not None:
        parts = [line, *(f"{grid.title}:\n\n{grid.markdown()}" for grid in grids)]
        args.markdown.write_text("\n\n".join(parts) + "\n")


def measure(args: Args, rows: Rows, console: Console) -> None:
    """Run the parts one after the other, as long as there is time."""
    ends = time.monotonic() + args.limit
    with tempfile.TemporaryDirectory() as caches:
        parts = plan(args, Path(caches))
        upcoming: Process | None = None
        try:
            for index, part in enumerate(parts):
                process, upcoming = upcoming or Process(part), None
                following = parts[index + 1] if index + 1 < len(parts) else None
                # What measures how processes start, or several at once, has the machine alone.
                if following and not {part.kind, following.kind} & {"cold", "together"}:
                    upcoming = Process(following)
                left = ends - time.monotonic()
                if left <= 1:
                    process.stop()
                    rows.leave_out(part.name, "not begun")
                    continue
                limit = LIMITS[part.kind]
                if part.arch == "transformer" and part.peers != "none":
                    limit += COMPILED_PEER
                _run(process, limit, left, rows, console)
        finally:
            if upcoming is not None:
                upcoming.stop()


def plan(args: Args, caches: Path) -> list[Part]:
    """The parts in order: first what the targets are about."""

    def part(kind: str, size: str, arch: str = "", peers: str = "none") -> Part:
        return Part(
            kind=kind,
            size=size,
            arch=arch,
            archs=args.archs,
            device=args.device,
            steps=args.steps,
            rounds=args.rounds,
            batch=args.batch,
            peers="none" if args.no_peers else peers,
            cache=str(caches),
        )

    first, others = args.sizes[0], args.sizes[1:]
    taught = [arch for arch in args.archs if arch == DISTILLED] or args.archs[:1]
    aimed = [arch for arch in args.archs if arch in gpu_report.AGAINST_PEER]
    rest = [arch for arch in args.archs if arch not in aimed]
    parts = [part("cold", first)]
    parts += [part("steps", first, arch, "also") for arch in aimed]
    parts += [part("slstm", first), *(part("distill", first, arch) for arch in taught)]
    parts.append(part("together", "mini", taught[0]))
    parts += [part("steps", first, arch) for arch in rest]
    if others:
        parts.append(part("cold", "+".join(others)))
    parts += [part("steps", size, arch) for size in others for arch in args.archs]
    if not args.no_peers:
        parts += [part("steps", first, arch, "only") for arch in rest]
        parts += [part("steps", size, arch, "only") for size in others for arch in args.archs]
    return [each for each in parts if each.kind in args.parts]


def _run(process: Process, limit: float, left: float, rows: Rows, console: Console) -> None:
    """Let a part measure within its limit and what is left for all, and take down what it finds."""
    name, started = process.part.name, time.monotonic()
    console.print(f"{name} ...", style="dim", markup=False, highlight=False)
    try:
        for row in process.results(min(limit, left)):
            rows.add(row)
            if row.get("problem"):
                console.print(f"  {row['problem']}", style="yellow", markup=False)
    except RuntimeError as error:
        if isinstance(error, Late) and left < limit:
            rows.leave_out(name, "not ended")
        else:
            rows.fail(name, str(error).splitlines()[-1])
        console.print(f"  {error}", style="yellow", markup=False)
    finally:
        process.stop()
    rows.add({"what": "time", "part": name, "seconds": time.monotonic() - started})


class Late(RuntimeError):
    """A part that is not ready, or has not ended, in its time."""


class Process:
    """A part in a process of its own, which imports at once and waits."""

    def __init__(self, part: Part) -> None:
        self.part = part
        # Libraries may print a lot: a pipe that nobody reads would fill up.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        environment = {
            **os.environ,
            "TRITON_INTERPRET": "0",
            "TRITON_CACHE_DIR": str(Path(part.cache) / part.size),
            "TORCHINDUCTOR_CACHE_DIR": str(Path(part.cache) / "inductor"),
            "PYTHONPATH": os.pathsep.join(
                [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
            "HF_HUB_OFFLINE": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.speed.gpu_parts", part.to_json()],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,  # with all that it starts
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def results(self, limit: float) -> Iterator[Row]:
        """Let it measure; yields what it finds.

        Raises:
            Late: it was not ready in time, or did not end within the limit.
            RuntimeError: it failed.
        """
        self._next(time.monotonic() + IMPORTS, "it imports")
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        ends = time.monotonic() + limit
        while (row := self._next(ends, f"stopped after {limit:.0f} s")) is not None:
            yield row

    def _next(self, ends: float, late: str) -> Row | None:
        """The next row; None at the end."""
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, ends - time.monotonic()))
            except queue.Empty:
                raise Late(late) from None
            if line is None:
                if self._process.wait():
                    raise RuntimeError(self._last_words())
                return None
            if line.startswith(MARK):
                row: Row = json.loads(line.removeprefix(MARK))
                return row

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return "\n".join(lines[-12:]) or f"ended with status {self._process.returncode}"

    def stop(self) -> None:
        """End it, if it has not ended, and all that it started, which may live on in any case."""
        try:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._errors.close()


def measure_sweep(args: Args, rows: Rows, console: Console) -> None:
    """Generate a corpus, and time a sweep over it."""
    from tests.speed.gpu_sweep import run_sweep

    try:
        for row in run_sweep(args.words, args.device, SWEEP_LIMIT, console.print):
            rows.add({"part": "sweep", **row})
    except RuntimeError as error:
        rows.add({"what": "sweep", "part": "sweep", "problem": str(error).splitlines()[-1]})
        console.print(str(error), style="yellow", markup=False)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Let SIGTERM, as `timeout` sends it, interrupt like Ctrl-C, so that the tables are printed."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: Callable[..., Any] | int | None = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def machine() -> Row:
    """Hardware as nvidia-smi names it, versions and commit."""
    from importlib import metadata

    packages = ("torch", "triton", "transformers", "flash-linear-attention", "xlstm")
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "missing"
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    gpu = _output(query).splitlines()
    return {
        "gpu": gpu[0] if gpu else "no GPU",
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "commit": _output(git) or "unknown",
        **versions,
    }


def _output(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def machine_line(rows: Sequence[Row]) -> str:
    """Hardware, versions and time in one sentence."""
    it = dict(next(row for row in rows if row["what"] == "machine"))
    gpu, cpus, commit = it.pop("gpu"), it.pop("cpus"), it.pop("commit")
    versions = ", ".join(f"{k} {v}" for k, v in it.items() if k not in ("what", "part", "device"))
    seconds = sum(row["seconds"] for row in rows if row["what"] == "time")
    return f"{gpu}, {cpus} CPUs; {versions}; commit {commit}; measured in {seconds:.0f} s."


if __name__ == "__main__":
    sys.exit(main())
