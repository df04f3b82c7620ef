"""The whole study: which stages run, and that a kill in any of them changes nothing."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient
from rich.console import Console

from analysis.command_line import parse
from analysis.commands import record, recorded
from sweeps.arguments import PaperArgs, PromoteArgs
from sweeps.arguments.axes import set_single, values_of
from sweeps.engine.scoring.found import Found
from sweeps.findings.paper import show_status
from sweeps.plans.paper import Stage, StageArguments
from sweeps.running import stages
from sweeps.running.stages import Commands, run_stages, run_study
from tests.analysis.benchmark_files import write_blimp, write_supplement
from tests.empty_store import empty_store
from tests.processes import wait_for
from tests.sweeps.conftest import ROOT, environment
from tests.sweeps.ray_nodes import RayNodes
from trainables.checkpoint import TrialFolder

NO_COMMANDS = Commands(*[lambda args: pytest.fail("was run")] * 5)
STAGES = ("sweep", "epochs", "promote", "distill", "final", "report")


class Recorder:
    """Stages that note when they run; `inputs` and `status` may be changed."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.inputs = {"first": 1, "second": 2, "third": 3}
        self.status = dict.fromkeys(self.inputs, 0)

    def stages(self) -> list[Stage]:
        return [Stage(name, self._run(name), self._inputs(name)) for name in self.inputs]

    def _run(self, name: str):
        def run() -> int:
            self.ran.append(name)
            if name == "first":
                self.inputs["second"] += 10  # a stage changes what the next one reads
            return self.status[name]

        return run

    def _inputs(self, name: str):
        return lambda: self.inputs[name]


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=120)


def test_a_stage_runs_again_only_if_its_inputs_changed(tmp_path: Path, console: Console) -> None:
    """All run once; then none; then the one whose inputs changed."""
    recorder = Recorder()
    assert run_stages(recorder.stages(), tmp_path, console) == 0
    assert recorder.ran == ["first", "second", "third"]
    assert run_stages(recorder.stages(), tmp_path, console) == 0
    assert recorder.ran == ["first", "second", "third"]
    recorder.inputs["third"] = 4
    assert run_stages(recorder.stages(), tmp_path, console) == 0
    assert recorder.ran == ["first", "second", "third", "third"]


def test_stages_are_recorded_as_the_whole_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the one command that a person types to have them all, with their inputs."""
    client, args = MlflowClient(empty_store(tmp_path)), PaperArgs(arch=("lstm",))
    run = client.create_run(client.create_experiment("study"))

    def stage() -> int:
        record(client, [run.info.run_id], PromoteArgs(), tmp_path, {"study": "study"})
        return 0

    plan = SimpleNamespace(folder=tmp_path, args=args, found=Found())
    monkeypatch.setattr(stages, "plan_study", lambda _: plan)
    monkeypatch.setattr(stages, "stages_of", lambda *_: [Stage("promote", stage, lambda: 1)])
    assert run_study(args, NO_COMMANDS) == 0
    (found,) = recorded(client, run.info.experiment_id)
    assert found.line == "python sweeps/paper.py --arch lstm"


def test_a_failed_stage_stops_the_study_and_is_tried_again(tmp_path, console) -> None:
    """Its status is the study's; what came before is not run again."""
    recorder = Recorder()
    recorder.status["second"] = 130
    assert run_stages(recorder.stages(), tmp_path, console) == 130
    recorder.status["second"] = 0
    assert run_stages(recorder.stages(), tmp_path, console) == 0
    assert recorder.ran == ["first", "second", "second", "third"]


def test_status_says_what_is_done(tmp_path: Path, console: Console) -> None:
    """A stage behind one that is to be done is to be done as well."""
    recorder = Recorder()
    recorder.status["third"] = 1
    run_stages(recorder.stages(), tmp_path, console)
    recorder.status["third"] = 0
    assert states(recorder, tmp_path) == ["done", "done", "to do"]
    run_stages(recorder.stages(), tmp_path, console)
    recorder.inputs["second"] += 1
    again = "to do again: inputs changed"
    assert states(recorder, tmp_path) == ["done", again, again]


def states(recorder: Recorder, folder: Path) -> list[str]:
    console = Console(file=io.StringIO(), width=120)
    folder.mkdir(exist_ok=True)
    (folder / "weights").write_bytes(bytes(1_250_000))
    show_status(recorder.stages(), folder, console)
    assert "0 trials were begun, 0 of them ended; 1.3 MB" in console.file.getvalue()
    assert isinstance(console.file, io.StringIO)
    rows = [line.split("│") for line in console.file.getvalue().splitlines() if "│" in line]
    return [row[2].strip() for row in rows]


def test_the_sweep_gets_all_axes() -> None:
    """What is varied goes to the sweep; a single value is set in every stage."""
    words = ["--lrs", "1e-3", "3e-3", "--weight-decays", "0.1", "0.4", "--dropouts", "0.1"]
    args = set_single(parse(PaperArgs, [*words, "--order", "coordinate"], None))
    commands = StageArguments.of(args, Path("storage"), "study")
    assert values_of(commands.sweep) == {"lr": (1e-3, 3e-3), "weight_decay": (0.1, 0.4)}
    assert commands.sweep.order == "coordinate"
    stages = (commands.sweep, commands.epochs, commands.distill)
    assert [each.dropout for each in stages] == [0.1] * 3
    assert [each.weight_decay for each in stages] == [None] * 3


def study(folder: Path, text: Path, *extra: str) -> list[str]:
    words = [sys.executable, "sweeps/paper.py", "--arch", "lstm", "--teacher-arch", "lstm"]
    words += ["--corpus", str(text), "--vocab-size", "280", "--context", "64", "--batch-size", "4"]
    words += ["--epochs", "2", "--lrs", "1e-3", "3e-3", "--seeds", "0", "1", "--study", "study"]
    words += ["--benchmarks", str(folder / "data"), "--storage", str(folder / "storage")]
    return [*words, *extra]


def start(folder: Path, text: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        study(folder, text),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        bufsize=1,
    )


def finish(folder: Path, text: Path) -> str:
    with start(folder, text) as process:
        output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output
    return output


def figures(folder: Path) -> dict[str, tuple]:
    """By trial: its outcome, losses and scores, which no interruption may change."""
    found = {}
    for path in (folder / "storage").glob("study/trials/*/spec.json"):
        trial = TrialFolder(path.parent)
        assert trial.outcome is not None
        losses = tuple(epoch.val_loss for epoch in trial.outcome.history)
        # A teacher's hash is that of its files, which hold no time or place.
        found[path.parent.name] = (trial.outcome.kind, losses, trial.outcome.history[-1].scores)
    return found


@pytest.mark.slow
def test_killed_in_every_stage_the_study_ends_the_same(tmp_path: Path, tiny_text: Path) -> None:
    """kill -9 once in each stage that trains or scores, the command again after each: the numbers
    of an uninterrupted study, and no run twice."""
    for name in ("whole", "killed"):
        write_blimp(tmp_path / name / "data" / "blimp_fast")
        write_supplement(tmp_path / name / "data" / "supplement_filtered")
    output = finish(tmp_path / "whole", tiny_text)
    assert "Final scores" in output
    for number, stage in enumerate(STAGES, start=1):
        process = start(tmp_path / "killed", tiny_text)
        wait_for(process, rf"^{number}/6 {stage} ─")
        if stage in ("sweep", "epochs", "distill"):
            wait_for(process, r"epoch 1/")
        process.send_signal(signal.SIGKILL)
        process.wait()
    finish(tmp_path / "killed", tiny_text)
    assert figures(tmp_path / "killed") == figures(tmp_path / "whole")
    client = MlflowClient(f"sqlite:///{tmp_path / 'killed' / 'storage' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("study")
    runs = client.search_runs([experiment.experiment_id])
    trials = [run for run in runs if run.data.tags["babysweep.kind"] == "trial"]
    hashes = [run.data.tags["babysweep.spec_hash"] for run in trials]
    assert sorted(hashes) == sorted(figures(tmp_path / "whole"))
    assert {run.info.status for run in runs} == {"FINISHED"}
    (version,) = client.search_model_versions("name='lstm'")
    students = [run for run in trials if run.data.params["teacher"]]
    assert {run.data.params["teacher_name"] for run in students} == {"models:/lstm/1"}
    teacher_run = client.get_run(version.run_id)
    sweep = client.get_run(teacher_run.data.tags["mlflow.parentRunId"])
    assert sweep.data.tags["babysweep.kind"] == "sweep"
    again = subprocess.run(
        study(tmp_path / "killed", tiny_text), cwd=ROOT, env=environment(), capture_output=True
    )
    assert len(re.findall(rb"done, nothing has changed", again.stdout)) == 6
    done = json.loads((tmp_path / "killed/storage/study/paper.json").read_text())
    assert done.keys() == set(STAGES)
    report = (tmp_path / "killed/storage/study/report/report.html").read_text()
    assert "the teacher" in report


@pytest.mark.slow
def test_submitted_study_gives_the_same_result(
    tmp_path: Path, tiny_text: Path, ray_head: RayNodes
) -> None:
    """`ray job submit` of the whole study, all its stages, ends with the plain command's figures;
    submitted again it finds nothing to do."""
    for name in ("whole", "submitted"):
        write_blimp(tmp_path / name / "data" / "blimp_fast")
        write_supplement(tmp_path / name / "data" / "supplement_filtered")
    finish(tmp_path / "whole", tiny_text)
    submit = ["ray", "job", "submit", f"--address={ray_head.jobs}", "--working-dir", "."]
    line = ["python", *study(tmp_path / "submitted", tiny_text)[1:]]
    for _ in range(2):
        job = subprocess.run(
            [*submit, "--", *line],
            cwd=ROOT,
            env=ray_head.env,
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert job.returncode == 0, job.stdout + job.stderr
    assert len(re.findall("done, nothing has changed", job.stdout)) == 6
    assert figures(tmp_path / "submitted") == figures(tmp_path / "whole")
