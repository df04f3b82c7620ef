"""The GPU's speed tool itself, on the CPU: what it measures, refuses, stops and reports."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from rich.console import Console

import models
from analysis.command_line import parse
from models.kernels import paths
from sweeps.arguments import LrSweepArgs
from sweeps.engine.tuning import Resources
from sweeps.plans import dry_run
from sweeps.plans.dry_run import Cost
from tests.empty_store import empty_store
from tests.gpu import first_step
from tests.gpu.ends import assert_gone, python_that, runs, until
from tests.speed import gpu_parts, gpu_peers, gpu_report, gpu_speed, gpu_sweep
from tests.speed.gpu_parts import Part, Row

TINY = Part(kind="steps", size="mini", arch="lstm", device="cpu", steps=1, rounds=2)
NOTHING = Part(kind="cold", size="mini", device="cpu", cache="unused")  # imports next to nothing


@pytest.fixture(autouse=True)
def tiny_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gpu_parts.SHAPES, "mini", (64, 8, 2))
    monkeypatch.setattr(gpu_parts, "SLSTM", (2, 4, 2, 8))


@pytest.fixture(autouse=True)
def any_cpu() -> Iterator[None]:
    """PyTorch's own LSTM for `nn.LSTM`, the peer: oneDNN's has no bf16 on CPUs without AVX-512."""
    with torch.backends.mkldnn.flags(enabled=False):
        yield


@pytest.fixture
def quiet() -> Console:
    return Console(quiet=True)


def run(**changes: Any) -> list[Row]:
    return list(gpu_parts.run(dataclasses.replace(TINY, **changes)))


# ---- parts


@pytest.mark.parametrize(
    ("arch", "peer"),
    [
        ("lstm", "nn.LSTM"),
        pytest.param("transformer", "LLaMA, torch.compile", marks=pytest.mark.slow),
    ],
)
def test_a_step_is_timed_beside_its_peer(
    arch: str, peer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours learns, the peer has our loss, and both have a rate and a share of the peak."""
    monkeypatch.setattr(gpu_parts, "device_name", lambda device: "NVIDIA H200")
    ours, other = run(arch=arch)
    assert (ours["what"], other["what"], other["who"]) == ("ours", "peer", peer)
    assert ours["losses"][1] < ours["losses"][0]
    assert other["loss_error"] < gpu_parts.LOSS_TOLERANCE
    assert other["ratio_low"] <= other["ratio"] <= other["ratio_high"]
    config = models.build_config(arch, "mini", vocab_size=64, context=8)
    for row in (ours, other):
        rate = row["tokens_per_second"]
        assert rate * row["milliseconds"] == pytest.approx(16e3)
        # Three forward passes' FLOPs over the peak.
        assert row["mfu"] == pytest.approx(3 * models.flops_per_token(config, 8) * rate / 989e12)


@pytest.mark.slow
def test_ours_alone() -> None:
    (row,) = run(peers="none")
    assert row["what"] == "ours"
    assert row["mfu"] is None  # of a CPU no peak is known


@pytest.mark.slow  # a process that imports fla, which takes model types over
@pytest.mark.parametrize("arch", gpu_peers.FLA_MODELS)
def test_flas_models_take_our_weights(arch: str) -> None:
    """Strictly, and with all that fla can fuse."""
    code = f"""
import models
from tests.speed.gpu_peers import build_fla
ours = models.build_model(models.build_config({arch!r}, "mini", vocab_size=64, context=8))
peer = build_fla({arch!r}, ours.config)
peer.load_state_dict(ours.state_dict())
assert peer.config.fuse_norm and peer.config.fuse_swiglu
assert type(peer).__module__.startswith("fla."), type(peer)
"""
    subprocess.run([sys.executable, "-c", code], cwd=gpu_parts.ROOT, check=True)


@pytest.mark.parametrize("arch", ["hgrn2", "mamba", "xlstm", "gated_deltanet"])
def test_peers_that_need_a_gpu_say_so(arch: str) -> None:
    for make in gpu_peers.peers_of(arch).values():
        with pytest.raises(gpu_peers.Unavailable, match="need a GPU"):
            make(SimpleNamespace(device=torch.device("cpu")), 2, 1e-3)


def test_a_peer_with_another_loss_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    load = gpu_peers.PlainLoop.load

    def load_changed(self: Any, weights: Any) -> None:
        load(self, {name: 1.5 * weight for name, weight in weights.items()})

    monkeypatch.setattr(gpu_peers.PlainLoop, "load", load_changed)
    (peer,) = run(peers="only")
    assert peer["problem"].startswith("wrong: with our weights")
    assert "ratio" not in peer


def test_a_peer_that_is_not_there_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(*_: Any) -> Any:
        raise gpu_peers.Unavailable("theirs cannot be imported")

    monkeypatch.setattr(gpu_peers, "peers_of", lambda arch: {"theirs": make})
    (peer,) = run(peers="only")
    assert peer["problem"] == "theirs cannot be imported"
    assert peer["skipped"]


def test_a_peer_that_fails_leaves_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(*_: Any) -> Any:
        raise TypeError("its interface is another one\nand so on")

    monkeypatch.setattr(gpu_peers, "peers_of", lambda arch: {"theirs": make})
    ours, peer = run()
    assert ours["tokens_per_second"] > 0
    assert peer["problem"] == "TypeError: its interface is another one"


@pytest.mark.slow
def test_a_peer_that_does_not_fit_gets_smaller_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    make = gpu_peers.plain_lstm

    def fussy(ours: Any, micro_batch: int, lr: float) -> Any:
        if micro_batch > 1:
            raise torch.OutOfMemoryError
        return make(ours, micro_batch, lr)

    monkeypatch.setattr(gpu_peers, "peers_of", lambda arch: {"theirs": fussy})
    peer = run(peers="only")[0]
    assert peer["remark"] == "peer: 1 at once"
    assert peer["ratio"] > 0


def test_a_model_that_does_not_learn_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gpu_parts.LEARNING_RATE, "mini", 1e-12)
    (row,) = run()
    assert row["problem"] == "wrong: the loss does not fall"


def test_single_kernels_and_teachers_are_timed() -> None:
    directions = {row["direction"]: row["microseconds"] for row in run(kind="slstm")}
    assert directions.keys() == {"forward", "backward"}
    assert all(value > 0 for value in directions.values())
    (row,) = run(kind="distill")
    assert 0 < row["ratio_low"] <= row["ratio"] <= row["ratio_high"]


def test_of_tuned_kernels_one_configuration_is_left() -> None:
    """The one that is most like what is wanted; of equals the first."""
    triton = pytest.importorskip("triton")
    configurations = [
        triton.Config({"BK": block}, num_warps=warps, num_stages=3)
        for block in (32, 64)
        for warps in (2, 4)
    ]
    wanted = {"BK": 64, "num_warps": 4}
    assert gpu_peers.nearest(configurations, wanted) is configurations[3]
    assert gpu_peers.nearest(configurations, {"num_warps": 4}) is configurations[1]
    assert gpu_peers.nearest(configurations, {"BV": 64}) is configurations[0]


def test_one_library_kernel_among_ours() -> None:
    """The others stay in Triton, where the override alone would send them to PyTorch."""
    before = dict(paths.TABLE)
    with gpu_peers.library_kernels("mlstm"):
        assert paths.order("mlstm", "cuda")[0] == "library"
        assert paths.order("depthwise_conv", "cuda")[0] == "triton"
    assert before == paths.TABLE
    assert paths.override() == "auto"


def test_broken_packages_are_named() -> None:
    with pytest.raises(gpu_peers.Unavailable, match="no_such_package cannot be imported"):
        gpu_peers._import("no_such_package")


# ---- processes


def test_a_part_in_a_process(tmp_path: Path) -> None:
    """It imports, waits, and ends without a row; or does not end in time; or fails in words."""
    part = dataclasses.replace(NOTHING, cache=str(tmp_path))
    process = gpu_speed.Process(part)
    assert list(process.results(60)) == []
    process.stop()
    late = gpu_speed.Process(part)
    with pytest.raises(RuntimeError, match="stopped after 0 s"):
        list(late.results(0))
    late.stop()
    unknown = gpu_speed.Process(dataclasses.replace(part, kind="dance"))
    with pytest.raises(RuntimeError, match="no part 'dance'"):
        list(unknown.results(60))
    unknown.stop()


@pytest.mark.parametrize("ends", ["when it is told to", "by itself"])
def test_nothing_is_left_of_a_part(
    ends: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what it started either, where it ends without stopping that."""
    lines = """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
note(subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL).pid)
"""
    lines += "time.sleep(60)" if ends == "when it is told to" else ""
    monkeypatch.setattr(sys, "executable", python_that(lines, tmp_path))
    process = gpu_speed.Process(dataclasses.replace(NOTHING, cache=str(tmp_path)))
    note = tmp_path / "note"
    until(note.exists)
    (pid,) = map(int, note.read_text().split())
    assert runs(pid)
    if ends == "by itself":
        assert process._process.wait(60) == 0
    started = time.monotonic()
    process.stop()
    assert time.monotonic() - started < gpu_speed.GRACE
    assert_gone(note)


@pytest.mark.parametrize("fails", [False, True])
def test_cold_stops_its_jobs(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one that builds fails, and where nobody wants the rows any more."""
    began, stopped = [], []

    class FakeJob:
        def __init__(self, action: str, archs: Any, cache: Path, *options: str) -> None:
            self._name = " ".join((action, *archs, options[1]))
            began.append(self._name)

        def result(self, timeout: float) -> Row:
            if fails:
                raise RuntimeError("no compiler")
            return {"seconds": 1.0, "first_step": 1.0, "step": "", "tuned": []}

        def stop(self) -> None:
            stopped.append(self._name)

    monkeypatch.setattr(first_step, "Job", FakeJob)
    part = dataclasses.replace(NOTHING, size="mini+small", device="cuda", archs=("lstm", "xlstm"))
    rows = gpu_parts.cold(part)
    if fails:
        with pytest.raises(RuntimeError, match="no compiler"):
            next(rows)
    else:
        assert [next(rows)["what"] for _ in range(2)] == ["build", "cold"]
        rows.close()
    building = ["build lstm xlstm mini", "build lstm xlstm small"]
    assert began == building + ([] if fails else ["train lstm mini", "train xlstm mini"])
    assert stopped == began


class Fake:
    """Stands for a part's process; fails where it is told to."""

    started: list[str] = []

    def __init__(self, part: Part) -> None:
        self.part = part
        self.started.append(part.name)

    def results(self, limit: float) -> Any:
        yield {"what": "ours", "part": self.part.name, "size": self.part.size}
        if self.part.arch == "mamba":
            raise RuntimeError("a long traceback\nRuntimeError: it died")

    def stop(self) -> None:
        pass


def arguments(**changes: Any) -> gpu_speed.Args:
    return dataclasses.replace(gpu_speed.Args(), device="cpu", **changes)


def test_what_the_targets_are_about_comes_first(tmp_path: Path) -> None:
    parts = gpu_speed.plan(arguments(), tmp_path)
    names = [part.name for part in parts]
    assert names[:3] == ["cold base", "steps base transformer", "steps base lstm"]
    assert names[6:11] == [
        *("slstm base", "distill base transformer", "together mini transformer"),
        *("steps base gated_deltanet", "cold paper+small"),
    ]
    others = [
        f"steps {size} {arch}" for size in ("paper", "small") for arch in gpu_speed.ARCHITECTURES
    ]
    assert names[11:] == [*others, "steps base gated_deltanet", *others]
    peers = [part.peers for part in parts if part.kind == "steps"]
    count = len(others) + 1
    assert peers == 5 * ["also"] + count * ["none"] + count * ["only"]
    few = gpu_speed.plan(arguments(parts=("steps",), sizes=("small",), archs=("lstm",)), tmp_path)
    assert [part.name for part in few] == ["steps small lstm"]


def test_one_part_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: Console
) -> None:
    """A part that fails leaves its rows and the other parts; all is in the file at once."""
    monkeypatch.setattr(gpu_speed, "Process", Fake)
    monkeypatch.setattr(Fake, "started", [])
    out = tmp_path / "rows.jsonl"
    rows = gpu_speed.Rows(out)
    args = arguments(parts=("steps",), sizes=("base",), archs=("lstm", "mamba", "xlstm"))
    gpu_speed.measure(args, rows, quiet)
    assert Fake.started == ["steps base lstm", "steps base mamba", "steps base xlstm"]
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert written == rows.rows
    assert len([row for row in written if row["what"] == "ours"]) == 3
    (problem,) = [row for row in written if row["what"] == "problem"]
    assert problem["problem"] == "RuntimeError: it died"


def test_the_time_is_limited(monkeypatch: pytest.MonkeyPatch, quiet: Console) -> None:
    monkeypatch.setattr(gpu_speed, "Process", Fake)
    rows = gpu_speed.Rows(None)
    args = arguments(parts=("steps",), sizes=("base",), archs=("lstm", "xlstm"), limit=0.0)
    gpu_speed.measure(args, rows, quiet)
    assert {(row["what"], row["reason"]) for row in rows.rows} == {("not measured", "not begun")}


def test_what_the_time_did_not_reach_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A part that is stopped because all time is up, and one that is not begun: they are named, and
    the status is 0. One that reaches its own limit has failed."""

    class Slow(Fake):
        def results(self, limit: float) -> Any:
            time.sleep(limit)
            yield {"what": "slstm", "direction": "forward", "microseconds": 9.0}
            raise gpu_speed.Late("stopped")

    monkeypatch.setattr(gpu_speed, "Process", Slow)
    monkeypatch.setattr(Fake, "started", [])
    few = ["--parts", "slstm", "distill", "--device", "cpu", "--limit", "2"]
    markdown = tmp_path / "tables.md"
    assert gpu_speed.main([*few, "--markdown", str(markdown)]) == 0
    assert "Not complete: 2 parts were not measured." in capsys.readouterr().out
    text = markdown.read_text()
    assert "| slstm base | not ended |" in text
    assert "| distill base transformer | not begun |" in text
    monkeypatch.setattr(gpu_speed, "LIMITS", {"slstm": 0.1, "distill": 0.1})
    assert gpu_speed.main(few) == 1
    assert "Not complete" not in capsys.readouterr().out


def test_every_architecture_is_measured() -> None:
    """And has a peer; the study's have targets beside theirs."""
    assert set(gpu_speed.ARCHITECTURES) == set(models.architectures())
    assert all(gpu_peers.peers_of(arch) for arch in gpu_speed.ARCHITECTURES)
    assert gpu_report.AGAINST_PEER.keys() < set(gpu_speed.ARCHITECTURES)


def test_a_signal_leaves_what_there_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As `timeout` sends it: the tables are printed, and the status says that it failed."""

    def killed(args: Any, rows: gpu_speed.Rows, console: Console) -> None:
        rows.add({"what": "slstm", "part": "slstm base", "direction": "forward", "microseconds": 9})
        signal.raise_signal(signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr(gpu_speed, "measure", killed)
    markdown = tmp_path / "tables.md"
    assert gpu_speed.main(["--markdown", str(markdown)]) == 1
    text = markdown.read_text()
    assert "| met | sLSTM, us a step forward | 9.00 | <= 12 |" in text
    assert "stopped by a signal" in text


@pytest.mark.slow  # processes that import everything
def test_the_whole_tool_on_a_cpu(tmp_path: Path) -> None:
    """Every kind of part, in processes, from the command line."""
    out = tmp_path / "rows.jsonl"
    command = [sys.executable, "-m", "tests.speed.gpu_speed", "--device", "cpu", "--sizes", "mini"]
    command += ["--archs", "lstm", "--steps", "2", "--rounds", "2", "--batch", "2"]
    done = subprocess.run(
        [*command, "--out", str(out)], cwd=gpu_parts.ROOT, capture_output=True, text=True
    )
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = {row["what"] for row in rows}
    assert found >= {"machine", "cold", "ours", "peer", "slstm", "distill", "together", "time"}
    assert "problem" not in found, done.stdout


# ---- report


def ours(arch: str, rate: float, **more: Any) -> Row:
    row = {"what": "ours", "size": "base", "arch": arch, "who": "ours", "tokens_per_second": rate}
    return {**row, "batch": 64, "context": 512, "milliseconds": 1.0, **more}


def peer(arch: str, who: str, **more: Any) -> Row:
    return {"what": "peer", "size": "base", "arch": arch, "who": who, **more}


ROWS: list[Row] = [
    {"what": "machine", "part": ""},
    ours("transformer", 100.0, mfu=0.41, micro_batch=32),
    peer("transformer", "LLaMA", ratio=0.94, ratio_low=0.9, ratio_high=0.96),
    ours("hgrn2", 61.0),
    peer("hgrn2", "fla", problem="wrong: with our weights its loss is 2"),
    ours("mamba", 49.0),
    peer("mamba", "mamba-ssm", problem="mamba_ssm cannot be imported", skipped=True),
    {"what": "cold", "size": "base", "arch": "lstm", "seconds": 59.0},
    {"what": "cold", "size": "paper", "arch": "lstm", "seconds": 91.0, "tuned": ["a_kernel"]},
    {"what": "slstm", "direction": "forward", "microseconds": 12.5},
    {"what": "distill", "size": "base", "arch": "lstm", "ratio": 1.4},
    {"what": "together", "size": "mini", "arch": "lstm", "ratio": 0.41},
    {"what": "together", "size": "mini", "arch": "lstm", "mps": True, "ratio": 0.39},
    {"what": "dry run", "foretold": 150.0},
    {
        "what": "first step in a sweep",
        "size": "small",
        "arch": "lstm",
        "seconds": 61.0,
        "since": "a place was free",
        "since_command": 200.0,
    },
    {"what": "sweep", "seconds": 300.0, "scored": 12, "trials": 14, "trained": 160.0},
]


def test_every_target_is_met_missed_or_not_measured() -> None:
    found = {each.target: each.verdict for each in gpu_report.verdicts(ROWS)}
    assert found == {
        "transformer, base: MFU": "met",
        "transformer, base: tokens/s / LLaMA": "missed",
        "hgrn2, base: tokens/s / fla": "not measured",
        "mamba, base: tokens/s / mamba-ssm": "not measured",
        "xlstm, base: tokens/s / its peer": "not measured",
        "lstm, base: tokens/s / its peer": "not measured",
        "hgrn2, base: tokens/s / our transformer": "met",
        "mamba, base: tokens/s / our transformer": "missed",
        "xlstm, base: tokens/s / our transformer": "not measured",
        "lstm, base: seconds to the first step, cold": "met",
        "lstm, paper: seconds to the first step, cold": "missed",
        "sLSTM, us a step forward": "missed",
        "sLSTM, us a step backward": "not measured",
        "lstm step with a teacher / without": "met",
        "four mini trials at once / one after the other": "missed",
        "four mini trials at once / one after the other, MPS": "met",
        "sweep of all architectures at small, s": "met",
        "dry run: its error, of the time of training": "met",
        "lstm, small: seconds to the first step in a sweep, cold": "missed",
    }
    on_cpu = [{**ROWS[0], "device": "cpu"}, *ROWS[1:]]
    for rows in ([], on_cpu):
        assert {each.verdict for each in gpu_report.verdicts(rows)} == {"not measured"}


def test_a_sweep_that_failed_meets_nothing() -> None:
    row = {"what": "sweep", "problem": "BLiMP was scored by 9 of 12 trials, 100 s"}
    assert {each.verdict for each in gpu_report.verdicts([row])} == {"not measured"}


@pytest.mark.parametrize(
    ("foretold", "far", "remark"),
    [
        (80, 0.2, "80 s foretold, 100 s of training; 120 s in all"),
        (125, 0.25, "125 s foretold"),
    ],
)
def test_a_dry_run_is_held_to_its_word(foretold: float, far: float, remark: str) -> None:
    dry = {"what": "dry run", "foretold": foretold}
    sweep = {"what": "sweep", "seconds": 120.0, "scored": 12, "trials": 14, "trained": 100.0}
    (found,) = [v for v in gpu_report.verdicts([dry, sweep]) if v.target.startswith("dry run")]
    assert found.measured == pytest.approx(far)
    assert remark in found.remark
    assert found.verdict == ("met" if far <= 0.2 else "missed")


def test_the_tables_hold_every_row() -> None:
    steps, targets = gpu_report.tables(ROWS)
    text = steps.markdown()
    assert "| base | transformer | ours | 64 x 512 by 32 | 1.0 | 100 | 41.0% |" in text
    assert "0.94 (0.90-0.96)" in text
    assert "mamba_ssm cannot be imported" in text
    assert "tuned: a_kernel" in targets.markdown()


# ---- the sweep


def test_what_a_dry_run_prints_is_read() -> None:
    """A figure, also where it is broken into lines, and nothing."""
    cost = Cost("part", 1, 1, 1.0, 1, 12, 1.0, (0.1,), 30.0, 90.0, None)
    for share in (1.0, 0.25):
        plan: Any = SimpleNamespace(resources=Resources(1, share, 1, "inline"))
        text = dry_run._total(plan, [cost], at_once=4)
        assert gpu_sweep.foretold(f"{text}\n") == 90.0
        assert gpu_sweep.foretold("\n".join(text.split())) == 90.0
        unknown = dataclasses.replace(cost, trial_seconds=None, seconds=None)
        assert gpu_sweep.foretold(dry_run._total(plan, [unknown], at_once=4)) is None
    assert gpu_sweep.foretold("About 1:02:03 of training (evaluation") == 3723.0


def test_trials_are_read_from_mlflow(tmp_path: Path) -> None:
    """Their first step's time, their end, and the time in which they trained."""
    client = MlflowClient(empty_store(tmp_path))
    experiment = client.create_experiment(gpu_sweep.STUDY)
    for arch, values in (("lstm", [(1, 5_000), (10, 7_000), (20, 9_000)]), ("mamba", [])):
        run = client.create_run(experiment, tags={"babysweep.kind": "trial"}).info.run_id
        params = {"arch": arch, "batch_size": 4, "context": 8, "lr": 0.003 if values else 0.01}
        client.log_batch(
            run,
            [Metric("train/loss", 1.0, when, step) for step, when in values],
            [Param(name, str(value)) for name, value in params.items()],
        )
        if values:
            client.log_metric(run, "epoch/tokens_per_second", 128.0)
            client.log_metric(run, "zero_shot/blimp", 50.0)
            client.set_terminated(run, "FINISHED", end_time=11_000)
    other, whole = sorted(gpu_sweep.trials_of(tmp_path), key=lambda trial: trial.is_scored)
    assert whole == gpu_sweep.Trial("lstm", 5.0, 11.0, 20 * 4 * 8 / 128, True)
    assert (other.arch, other.is_scored, other.is_planned) == ("mamba", False, False)
    assert math.isnan(other.first_step + other.ended + other.train_seconds)


def test_first_steps_count_from_the_command_or_a_free_place() -> None:
    """Two at once: the third trial takes the place of the first that ended."""

    def trial(arch: str, first: float, ended: float) -> gpu_sweep.Trial:
        return gpu_sweep.Trial(arch, first, ended, 10.0, True)

    trials = [
        *(trial("lstm", 131.0, 150.0), trial("lstm", 130.0, 141.0)),
        *(trial("mamba", 144.0, 160.0), trial("xlstm", 155.0, 170.0)),
    ]
    assert gpu_sweep.at_once(trials) == 2
    beyond = gpu_sweep.Trial("lstm", 165.0, 180.0, 10.0, is_scored=True, is_planned=False)
    assert gpu_sweep.trained([*trials, beyond]) == 20.0
    rows = {row["arch"]: row for row in gpu_sweep.first_steps(trials, began=100.0)}
    assert {arch: row["seconds"] for arch, row in rows.items()} == {
        **{"lstm": 30.0, "mamba": 3.0, "xlstm": 5.0},
    }
    assert rows["lstm"]["since"] == "the command"
    assert rows["mamba"]["since_command"] == 44.0


SWEEP = """
import sys
if "--dry-run" in sys.argv:
    print("About 1:30 of training")
sys.exit({status} if "--dry-run" in sys.argv else {other})
"""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[Row]]:
    """Run the sweep with a command in its place that ends with the one status or the other."""

    def run_with(status: int, other: int, scored: int = gpu_sweep.TRIALS) -> list[Row]:
        trial = gpu_sweep.Trial("lstm", math.nan, math.nan, 1.0, True)
        code = SWEEP.format(status=status, other=other)
        monkeypatch.setattr(gpu_sweep, "command_of", lambda *_: [sys.executable, "-c", code])
        monkeypatch.setattr(gpu_sweep, "_prepare", lambda *_: (tmp_path, tmp_path))
        monkeypatch.setattr(gpu_sweep, "trials_of", lambda storage: scored * [trial])
        rows = gpu_speed.Rows(None)
        gpu_speed.measure_sweep(arguments(words=100), rows, Console(quiet=True))
        return rows.rows

    return run_with


def test_a_dry_run_and_a_sweep_are_rows(stand_in: Callable[..., list[Row]]) -> None:
    """Each with what it says; the report takes them."""
    dry, sweep = stand_in(0, 0)
    assert (dry["what"], dry["foretold"]) == ("dry run", 90.0)
    assert (sweep["what"], sweep["scored"]) == ("sweep", 12)
    assert gpu_report.verdicts([dry, sweep])[-2].verdict == "met"


def test_a_sweep_that_fails_is_a_problem(stand_in: Callable[..., list[Row]]) -> None:
    """A dry run that fails leaves the sweep; trials without a score are counted."""
    dry, sweep = stand_in(3, 0)
    assert dry["problem"] == "dry run: it ended with status 3: About 1:30 of training"
    assert "problem" not in sweep
    assert stand_in(0, 2)[-1]["problem"] == "it ended with status 2"
    few = stand_in(0, 0, scored=9)[-1]["problem"]
    assert few.startswith("BLiMP was scored by 9 of 12 trials")


def test_the_command_is_one_that_a_person_types() -> None:
    """Its flags are there, for all architectures."""
    command = gpu_sweep.command_of(Path("text"), Path("mini"), Path("storage"), "cuda")
    args = parse(LrSweepArgs, command[2:], "", None)
    assert list(args.arch) == ["all"]
    assert (args.preset, args.gpus_per_trial) == ("small", 0.25)
    assert 2 * len(models.architectures()) == gpu_sweep.TRIALS


# ---- the corpus of the sweep


def test_a_corpus_of_so_many_words(tmp_path: Path) -> None:
    """Enough different ones for the vocabulary of `small`."""
    assert len(set(gpu_sweep.invented_words())) == gpu_sweep.INVENTED
    gpu_sweep.write_corpus(tmp_path, 3_000)
    words = {path.name: len(path.read_text().split()) for path in tmp_path.iterdir()}
    assert 3_000 <= words["made.train"] < 4_000
    assert 200 <= words["made.dev"] < 300
