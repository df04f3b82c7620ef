"""The sweep command from outside: what it prints, records, survives, and refuses."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess

import psutil
import pytest

from analysis.command_line import parse
from analysis.signals import ENDING
from sweeps.arguments import LrSweepArgs
from sweeps.lr_sweep import main, run_lr_sweep
from sweeps.plans.lr_sweep import plan_sweep
from tests.analysis.benchmark_files import write_blimp, write_supplement
from tests.checkout import crowded_checkout
from tests.processes import exit_status, wait_for
from trainables.checkpoint import TrialFolder


def assert_clean(sweep, trials):
    """One ended MLflow run for each trial, with one point at each step; an ended parent."""
    runs = sweep.runs()
    assert len(runs) == trials
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert [run.info.status for run in sweep.runs("sweep")] == ["FINISHED"]
    for run in runs:
        for name in ("train/loss", "train/tokens_per_second", "val/loss", "best/epoch"):
            steps = [point.step for point in sweep.history(run, name)]
            assert len(steps) == len(set(steps)) > 0, name


def test_sweep_records_and_reports(whole_sweep):
    """A finished sweep leaves a table, a winner, a picture, checkpoints and MLflow runs."""
    output = (whole_sweep.storage / "output.txt").read_text()
    assert "best" in output
    assert (
        "Study study: lr sweep of lstm on text, 2 trials to train, of at most 3 epochs\n" in output
    )
    assert re.search(r"\d trials? at once, each on 1 CPU\n", output)
    assert "ahead of" in output
    assert "the spread over seeds is unknown" in output
    assert "tried; the optimum may lie" in output
    assert_clean(whole_sweep, trials=2)
    (parent,) = whole_sweep.runs("sweep")
    assert {run.data.tags["mlflow.parentRunId"] for run in whole_sweep.runs()} == {
        parent.info.run_id
    }
    assert parent.data.metrics["best/lr"] in (1e-3, 3e-3)
    assert (whole_sweep.storage / "study" / "lr_curve.png").read_bytes()[:4] == b"\x89PNG"
    checkpoint = re.search(r"Checkpoint\s+(\S+)", output)
    assert checkpoint
    assert not list((whole_sweep.storage / "study").glob("tune-*"))


@pytest.mark.slow
def test_rerun_trains_nothing_and_new_rates_join(sweep, whole_sweep):
    """The same command is a no-op; a further rate adds one trial to the same study."""
    shutil.copytree(whole_sweep.storage / "study", sweep.storage / "study")
    written = sweep.checkpoint_times()
    sweep.run()  # with an empty MLflow store, which it fills from what the folders hold
    assert sweep.checkpoint_times() == written
    recorded = {trial: result[:3] for trial, result in sweep.results().items()}
    assert recorded == {trial: result[:3] for trial, result in whole_sweep.results().items()}
    sweep.run("--lrs", "3e-3", "1e-2")
    assert written.items() < sweep.checkpoint_times().items()
    assert len(sweep.results()) == 3


@pytest.mark.slow
def test_killed_sweep_continues_to_the_same_result(sweep, whole_sweep):
    """kill -9 of the sweep after its first epoch, the command again: as if never interrupted."""
    process = sweep.start()
    wait_for(process, r"epoch 1/3")
    process.kill()
    process.wait()
    process.stdout.close()
    reached = {run.info.run_id: len(sweep.history(run, "val/loss")) for run in sweep.runs()}
    assert max(reached.values()) >= 1
    output = sweep.run()
    assert "started" in output
    assert_clean(sweep, trials=2)
    assert reached.keys() <= {run.info.run_id for run in sweep.runs()}
    reference = whole_sweep.results()
    assert sweep.results() == {trial: reference[trial] for trial in sweep.results()}


@pytest.mark.slow
def test_killed_trial_is_started_again_by_itself(sweep, whole_sweep):
    """kill -9 of one trial's process: the sweep goes on, and its result is the same."""
    process = sweep.start()
    wait_for(process, r"epoch 1/3")
    workers = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if child.cmdline() and "ImplicitFunc" in child.cmdline()[0]
    ]
    assert workers
    workers[0].send_signal(signal.SIGKILL)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "started again" in output
    assert_clean(sweep, trials=2)
    reference = whole_sweep.results()
    assert sweep.results() == {trial: reference[trial] for trial in sweep.results()}


@pytest.mark.slow
@pytest.mark.parametrize("number", ENDING)
def test_interrupt_stops_cleanly_and_says_how_to_continue(sweep, number):
    """Ctrl-C, a stopped job and a closed terminal end the sweep with status 130, leave no run
    running, and name the command; also in the background, where a shell lets SIGINT be ignored.
    What was trained is not trained again: the last recorded step is a checkpoint's."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = sweep.start("--epochs", "200")  # it inherits what is ignored
    finally:
        signal.signal(signal.SIGINT, before)
    wait_for(process, r"epoch 1/200")
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert "To continue, run it again" in output
    assert "--epochs 200" in output
    assert re.search(r"\d trials? will go on from a checkpoint", output)
    assert "did not come to a checkpoint" not in output
    assert {run.info.status for run in [*sweep.runs(), *sweep.runs("sweep")]} == {"KILLED"}
    assert all("babysweep.outcome" not in run.data.tags for run in sweep.runs())
    for run in sweep.runs():
        folder = sweep.storage / "study" / "trials" / run.data.tags["babysweep.spec_hash"]
        _, progress = TrialFolder(folder).newest()
        assert progress.step == max(point.step for point in sweep.history(run, "train/loss"))
    assert not list(sweep.storage.glob("study/locks/*.stop"))
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


@pytest.mark.slow
def test_a_second_signal_ends_a_sweep_at_once(sweep):
    """Without a word more, and without orphans; what it left is tidied up by the next command."""
    process = sweep.start("--epochs", "200")
    wait_for(process, r"epoch 1/200")
    children = psutil.Process(process.pid).children(recursive=True)
    for number in (signal.SIGTERM, signal.SIGHUP):
        process.send_signal(number)
    output, _ = process.communicate(timeout=10)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


@pytest.mark.slow
def test_asha_stops_the_worse_and_a_rerun_keeps_it_so(sweep):
    """Trials stopped by the scheduler are over: recorded as stopped, and not run again. Of all of
    them only the best parameters are kept, if asked for."""
    flags = ["--scheduler", "asha", "--lrs", "1e-9", "3e-3", "--seeds", "0", "1", "--keep", "best"]
    sweep.run(*flags, "--max-concurrent", "1")
    outcomes = {
        (run.data.params["lr"], run.data.params["seed"]): run.data.tags["babysweep.outcome"]
        for run in sweep.runs()
    }
    # The first at a rung has nobody to lose against; the hopeless one of the second seed has.
    assert outcomes["0.003", "0"] == "finished"
    assert outcomes["1e-09", "1"] == "stopped"
    before = sweep.results()
    sweep.run(*flags, "--max-concurrent", "1")
    assert sweep.results() == before
    assert_clean(sweep, trials=4)
    assert not [*sweep.storage.glob("study/trials/**/optimizer.safetensors")]
    for trial in sweep.storage.glob("study/trials/*"):
        assert len([*trial.glob("checkpoints/step-*")]) == 1


@pytest.mark.slow
def test_two_train_workers_agree_with_one(sweep, whole_sweep):
    """Ray Train with two CPU workers follows the losses of one worker with the whole batch."""
    sweep.run("--workers-per-trial", "2", "--runner", "train")
    assert_clean(sweep, trials=2)
    single = {run.data.tags["babysweep.spec_hash"]: run for run in whole_sweep.runs()}
    for run in sweep.runs():
        other = single[run.data.tags["babysweep.spec_hash"]]
        ours = [point.value for point in sweep.history(run, "train/loss")[:3]]
        theirs = [point.value for point in whole_sweep.history(other, "train/loss")[:3]]
        assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.slow
def test_optuna_searches_a_range(sweep):
    """Optuna proposes the asked number of learning rates inside the range."""
    sweep.run("--lrs", "--search", "optuna", "--lr-range", "1e-4", "1e-2", "--num-samples", "3")
    rates = {float(run.data.params["lr"]) for run in sweep.runs()}
    assert len(rates) == 3
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)


@pytest.mark.slow
def test_second_command_on_the_same_sweep_is_refused(sweep):
    """Two commands never train the same trials at the same time."""
    process = sweep.start("--epochs", "200")
    wait_for(process, r"epoch 1/200")
    output = sweep.run("--epochs", "200", status=2)
    assert "another command is running the sweep of lstm" in output
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def test_dry_run_prints_the_cost_and_runs_nothing(sweep, capsys):
    """What was read and left out, parameters, FLOPs, steps, devices and a measured time; no run, no
    Ray, no checkpoint."""
    text = shutil.copytree(sweep.text, sweep.storage.parent / "text")
    (text / "scan.PDF").write_bytes(b"%PDF-1.7")
    assert main(sweep.line("--dry-run", "--corpus", str(text))[2:]) == 0
    output = capsys.readouterr().out
    assert "3,780 words in 2 files, 180 of them for validation\n  3,600  talk.train\n" in output
    assert "  scan.PDF  pages, not text: convert it to .txt\n" in output
    for word in ("params", "FLOPs/token", "s/step", "steps", "trials at once", "Nothing was run"):
        assert word in output
    assert "axes       learning rate: 1e-3, 3e-3\n" in output
    assert not (sweep.storage / "mlflow.db").exists()
    assert not (sweep.storage / "study").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--arch", "gru"], "'gru' is none of transformer, lstm"),
        (["--corpus", "no/such/place.txt"], "no/such/place.txt"),
        (["--lrs", "-1"], "--lrs must be from 1e-15 to 1e+09, not -1.0"),
        (["--batch-size", "100000"], "fewer than one batch of 100000"),
        (["--vocab-size", "50000"], "the training text supports only"),
        (["--vocab-size", "4294967297"], "--vocab-size must be from 258 to 16777216, not 429"),
        (["--arch"], "--arch needs one or more of"),
        (["--seeds", "-1"], "--seeds must be from 0 to 9223372036854775807, not -1"),
        (["--max-concurrent", "0"], "--max-concurrent must be from 1 to 2147483647, not 0"),
        (["--search", "optuna"], "--lr-range LO HI"),
        (["--storage", "ftp://host/runs"], "begins with one of s3://, gs://, file://"),
        (["--micro-batch", "0"], "--micro-batch must be from 1 to 2147483647, not 0"),
        (["--benchmarks", "no/such/folder"], "no/such/folder"),
        (["--weight-decays", "-1", "1"], "--weight-decays must be from 0 to 1e+09, not -1.0"),
        (["--dropouts", "0", "1"], "--dropouts must be from 0 to below 1, not 1.0"),
        (["--batch-sizes", "8", "16"], "--batch-size 4 sets what --batch-sizes varies"),
        (["--dropout", "0.1", "--dropouts", "0", "0.1"], "sets what --dropouts varies"),
    ],
)
def test_bad_arguments_are_explained(sweep, flags, message, capsys):
    """The error names the value and what to do, without a traceback; status 2."""
    words = [*sweep.line()[2:], "--dry-run", *flags]
    assert exit_status(lambda: run_lr_sweep(parse(LrSweepArgs, words, None))) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("flag", ["size", "preset", "optimizers", "search", "sampler", "order"])
def test_closed_choices_are_listed(flag, capsys):
    """A wrong one is named with its flag and what it can be."""
    with pytest.raises(SystemExit, match="2"):
        parse(LrSweepArgs, ["--arch", "lstm", f"--{flag}", "other"], None)
    text = capsys.readouterr().err
    assert "'other'" in text
    assert f"--{flag}" in text
    assert "is none of " in text


def test_a_run_is_repeated_from_the_file_that_it_wrote(whole_sweep, monkeypatch, capsys):
    """`--config` alone is the same sweep from anywhere: all its trials are found, none is left."""
    (file,) = (whole_sweep.storage / "study" / "commands").iterdir()
    monkeypatch.chdir("/")
    args = parse(LrSweepArgs, ["--config", str(file)], None)
    plan = plan_sweep(args, lambda text: None)
    assert (plan.folder, plan.plans["lstm"].remaining()) == (whole_sweep.storage / "study", 0)
    more = parse(LrSweepArgs, ["--config", str(file), "--seeds", "0", "1"], None)
    assert plan_sweep(more, lambda text: None).plans["lstm"].remaining() == 2
    wet = parse(LrSweepArgs, ["--config", str(file), "--dropouts", "0", "0.1"], None)
    works = plan_sweep(wet, lambda text: None).works  # of the kinds of steps, whose kernels differ
    assert [work.spec.dropout for work in works] == [0.0, 0.1]
    assert run_lr_sweep(parse(LrSweepArgs, ["--config", str(file), "--dry-run"], None)) == 0
    assert "Nothing was run." in capsys.readouterr().out
    assert len(list(file.parent.iterdir())) == 1


@pytest.mark.slow
def test_submitted_job_gives_the_same_result(sweep, whole_sweep, ray_head, tmp_path):
    """`ray job submit` of the command ends with the same figures as the plain command, also from a
    checkout in which 300 MB lie in each folder."""
    submit = ["ray", "job", "submit", f"--address={ray_head.jobs}", "--working-dir", "."]
    output = subprocess.run(
        [*submit, "--", *sweep.line(python="python")],
        cwd=crowded_checkout(tmp_path / "checkout"),
        env=ray_head.env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert output.returncode == 0, output.stdout + output.stderr
    assert_clean(sweep, trials=2)
    reference = whole_sweep.results()
    assert sweep.results() == {trial: reference[trial] for trial in sweep.results()}


@pytest.mark.slow
def test_final_tasks_are_scored_once_on_the_winner(sweep, tmp_path):
    """The best checkpoint gets what --final-tasks names, in its folder, in MLflow and in print."""
    write_blimp(tmp_path / "data" / "blimp_fast")
    write_supplement(tmp_path / "data" / "supplement_filtered")
    flags = ["--epochs", "1", "--benchmarks", str(tmp_path / "data"), "--tasks", "blimp"]
    output = sweep.run(*flags, "--final-tasks", "supplement")
    (file,) = sweep.storage.glob("study/trials/*/final.json")
    scores = json.loads(file.read_text())["zero_shot"]
    assert list(scores["benchmarks"]) == ["supplement"]
    assert f"final zero-shot macro {scores['macro']:.1f}" in output
    winners = [run for run in sweep.runs() if "final/supplement" in run.data.metrics]
    assert [run.data.tags["babysweep.spec_hash"] for run in winners] == [file.parent.name]
    assert winners[0].data.metrics["zero_shot/blimp"] >= 0
    assert winners[0].info.status == "FINISHED"
