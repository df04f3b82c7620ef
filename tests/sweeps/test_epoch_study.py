"""The epoch study: which trials it plans, in which order, and the command from outside."""

from __future__ import annotations

import dataclasses
import io
import math
import random
import re
import shutil
import sys

import pytest
from rich.console import Console
from safetensors.torch import load_file

from analysis.command_line import parse
from analysis.schema.milestone import MilestoneReport
from sweeps.arguments import EpochStudyArgs
from sweeps.epoch_study import run_epoch_study
from sweeps.findings.epoch_study import show_epochs
from sweeps.plans import milestones
from sweeps.plans.epoch_study import (
    Designs,
    best_point,
    plan_designs,
    plan_epochs,
)
from sweeps.plans.spaces import SweepSearch
from tests.analysis.benchmark_files import write_blimp
from tests.empty_store import empty_store
from tests.notation import faults, texts_of_output
from tests.processes import exit_status, wait_for
from tests.sweeps.conftest import FIGURES, SweepCommand
from tests.trainables.test_spec import SPEC
from tests.trainables.test_trial import assert_same
from trainables.checkpoint import TrialFolder
from trainables.optim import learning_rate
from trainables.progress import EpochReport, TrialOutcome
from trainables.tracking import Tracker
from trainables.trainer import RuntimeConfig
from trainables.trial import LOG_EVERY, run_trial

ALL = ("--designs", "trajectory", "independent", "branch")


@dataclasses.dataclass(frozen=True)
class EpochCommand(SweepCommand):
    """`python sweeps/epoch_study.py` on the text and the study of the sweep, 1 to 3 epochs."""

    def line(self, *extra: str, python: str = sys.executable) -> list[str]:
        words = [python, "sweeps/epoch_study.py", "--arch", "lstm", "--corpus", str(self.text)]
        words += ["--vocab-size", "280", "--context", "64", "--batch-size", "4", "--study", "study"]
        return [*words, "--storage", str(self.storage), *extra]

    def args(self, *extra: str) -> EpochStudyArgs:
        """Its arguments, parsed."""
        return parse(EpochStudyArgs, self.line(*extra)[2:], None)


@pytest.fixture
def command(tiny_text, tmp_path):
    """The command with a storage of its own."""
    empty_store(tmp_path / "storage")
    return EpochCommand(tiny_text, tmp_path / "storage")


ENDS = {1: "diverged", 2: "stopped"}


def silent(text):
    """Nobody watches."""


def designs_of(steps_per_epoch, horizons=(1, 2, 5), decay=0.2):
    return Designs(SPEC, ("branch",), horizons, steps_per_epoch, decay, seeds=(0,))


@pytest.mark.parametrize("steps_per_epoch", [257, 100, 32, 20, 10, 7])
@pytest.mark.parametrize("decay", [0.0, 0.2, 0.9])
def test_a_branch_leaves_the_trunk_before_its_rate_differs(steps_per_epoch, decay):
    """Up to there the longest and the shorter trial take the same steps; it is a step after which a
    trial can leave a checkpoint, and nearly the last of these."""
    designs = designs_of(steps_per_epoch, decay=decay)
    longest = designs.spec("branch", 5)
    for horizon in designs.horizons:
        spec, step = designs.spec("branch", horizon), designs.trunk_step(horizon)
        total = horizon * steps_per_epoch
        assert spec.replace(epochs=5) == longest
        assert all(
            learning_rate(spec, i, total) == learning_rate(longest, i, 5 * steps_per_epoch)
            for i in range(step)
        )
        assert step % LOG_EVERY == 0
        assert step == 0 or step % steps_per_epoch
        if steps_per_epoch > 2 * LOG_EVERY:
            assert step > (1 - decay) * total - 2 * LOG_EVERY - 1


def test_branches_of_a_longer_study_share_the_trunk():
    """Longer horizons leave the warm-up as it is, so that they go on from what is there."""
    short, long = designs_of(257), designs_of(257, horizons=(1, 2, 5, 10))
    assert short.spec("branch", 2) == long.spec("branch", 2)
    assert designs_of(3).warmup_steps == 1
    assert designs_of(257, horizons=(5,)).warmup_steps == math.ceil(0.05 * 5 * 257)


@pytest.mark.parametrize("at_once", [1, 2, 5])
@pytest.mark.parametrize("fate", ["finishes", "fails", "is known"])
def test_branches_wait_for_their_checkpoint_and_never_for_ever(command, at_once, fate):
    """In whatever order trials end, each is handed out once, a branch only when its checkpoint is
    there or the longest trial of its seed has ended, and there is always something to do."""
    args = command.args("--lr", "3e-3", "--seeds", "0", "1", "2", *ALL)
    setup, designs = plan_designs(args, silent)
    plan = plan_epochs(setup, designs)
    if fate == "is known":
        for spec in plan.bases.values():
            end(plan.folder, spec.replace(seed=1), [1.0])
        plan = plan_epochs(setup, designs)
        assert sum(each.remaining() for each in plan.plans.values()) == 12
    search = SweepSearch(plan.plans)
    chance, open_trials, given, trunks_ended = random.Random(at_once), {}, [], set()
    while (suggestion := search.suggest(str(len(given)))) != SweepSearch.FINISHED:
        if suggestion is not None:
            spec = search.given[str(len(given))]
            if spec.schedule == "wsd" and spec.epochs < 3:
                folder = TrialFolder.trunk(plan.folder, spec)
                left = folder.checkpoint_at(designs.trunk_step(spec.epochs)).exists()
                assert left or spec.seed in trunks_ended
            open_trials[str(len(given))] = spec
            given.append(spec.hash)
        if suggestion is None or len(open_trials) == at_once:
            assert open_trials, "nothing runs and nothing is handed out"
            trial_id = chance.choice(sorted(open_trials))
            spec = open_trials[trial_id]
            is_trunk = spec.schedule == "wsd" and spec.epochs == 3
            steps = [step for step in plan.trunk_steps if is_trunk and fate == "finishes"]
            trunk = TrialFolder.trunk(plan.folder, spec)
            missing = [s for s in steps if not trunk.checkpoint_at(s).exists()]
            if missing:
                trunk.checkpoint_at(missing[0]).mkdir()
                continue
            del open_trials[trial_id]
            trunks_ended |= {spec.seed} if is_trunk else set()
            search.on_trial_complete(trial_id, error=fate == "fails")
    assert len(given) == len(set(given)) == 3 * 6  # trajectory and longest independent are one
    assert search.remaining() == 0


def end(study, spec, bits, kind="finished"):
    """A trial that ended with these figures."""
    reports = tuple(
        EpochReport(epoch, epoch, epoch, value, value, value, 1.0, 1.0)
        for epoch, value in enumerate(bits, start=1)
    )
    TrialFolder.of(study, spec).finish(TrialOutcome(kind, reports, None))


def test_the_rate_is_that_of_the_best_compared_setting(tmp_path):
    """Of all settings in which rates were compared the best one's best rate, by the mean over
    seeds; a single rate at more epochs shows nothing of the others."""
    for lr, bits in ((1e-3, [1.2, 1.3]), (3e-3, [1.0, 1.4]), (1e-2, [1.5, 1.6])):
        for seed, value in enumerate(bits):
            end(tmp_path, SPEC.replace(lr=lr, seed=seed, epochs=3), [value])
    for lr, value in ((1e-3, 1.9), (1e-2, 1.8)):
        end(tmp_path, SPEC.replace(lr=lr, epochs=1), [value])
    end(tmp_path, SPEC.replace(lr=0.5, epochs=9), [0.9])
    end(tmp_path, SPEC.replace(lr=0.7, epochs=3, teacher="x", alpha=0.5), [0.1])
    end(tmp_path, SPEC.replace(lr=0.8, epochs=3, corpus_hash="other"), [0.1])
    assert best_point(tmp_path, SPEC, "study")[0].lr == 3e-3


def test_the_study_does_not_change_its_own_rate(tmp_path):
    """Further seeds of the chosen rate, which the study itself adds to the sweep's setting, are not
    held against it; so a killed study goes on at the same rate."""
    for lr, bits in ((1e-3, 1.1), (3e-3, 1.0)):
        end(tmp_path, SPEC.replace(lr=lr, epochs=3), [bits])
    assert best_point(tmp_path, SPEC, "study")[0].lr == 3e-3
    for seed in (1, 2):
        end(tmp_path, SPEC.replace(lr=3e-3, epochs=3, seed=seed), [5.0])
    assert best_point(tmp_path, SPEC, "study")[0].lr == 3e-3


def test_the_study_takes_over_every_axis_of_the_best_trial(tmp_path):
    """Not only the learning rate: the best rate of one weight decay is not that of another."""
    for lr, decay, bits in ((1e-3, 0.1, 1.3), (3e-3, 0.1, 1.2), (1e-3, 0.4, 1.0), (3e-3, 0.4, 1.1)):
        end(tmp_path, SPEC.replace(lr=lr, weight_decay=decay, epochs=3), [bits])
    best, axes = best_point(tmp_path, SPEC, "study")
    assert (best.lr, best.weight_decay) == (1e-3, 0.4)
    assert axes == ("lr", "weight_decay")


def test_what_was_not_swept_is_not_taken_over(tmp_path):
    """A branch that happens to be the best trial does not make its schedule that of the study."""
    end(tmp_path, SPEC.replace(lr=1e-2, epochs=3), [1.1])
    branch = {"schedule": "wsd", "warmup_steps": 5, "decay": 0.3}
    end(tmp_path, SPEC.replace(lr=1e-2, epochs=3, **branch), [1.0])
    best, axes = best_point(tmp_path, SPEC, "study")
    assert best.schedule == "wsd"
    assert axes == ("lr",)


def test_diverged_rates_are_not_taken(tmp_path):
    """A study in which all diverged has no rate to give, and says what to do."""
    end(tmp_path, SPEC.replace(lr=1e-1), [], kind="diverged")
    with pytest.raises(ValueError, match=r"has no finished trial of hgrn2 .* or give --lr"):
        best_point(tmp_path, SPEC, "study")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lr", "1e-3", "--arch", "lstm", "mamba"], "of one architecture, not of lstm, mamba"),
        ([], "run sweeps/lr_sweep.py --arch lstm first, or give --lr"),
        (["--lr", "-1"], "--lr must be from 1e-15 to 1e+09, not -1.0"),
        (["--designs"], "--designs takes one or more of"),
        (["--horizons", "0"], "--horizons must be from 1 to 1000000, not 0"),
        (["--epochs", "3", "--horizons", "2"], "stands for --horizons 1 to 3: give one of them"),
        (["--lr", "1e-3", "--epochs", "20000"], "1 to 20000, a trial each: give at most 1000, or"),
        (["--lr", "1e-3", "--decay", "1.5"], "--decay must be from 0 to 1, not 1.5"),
        (["--lr", "1e-3", "--milestones", "one"], "not 'one'"),
    ],
)
def test_bad_arguments_are_explained(command, flags, message, capsys):
    """The error names the value and what to do, without a traceback; status 2."""
    assert exit_status(lambda: run_epoch_study(command.args("--dry-run", *flags))) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_milestones_lie_within_the_longest_trial(command, monkeypatch):
    """Words that no trial sees would be asked for in vain; the order and repeats do not matter, and
    of the challenge's those are taken that are seen."""
    flags = ("--lr", "1e-3", "--epochs", "2")
    _, designs = plan_designs(command.args(*flags, "--milestones", "5K", "1000", "1K"), silent)
    assert designs.milestones == (1000, 5000)
    with pytest.raises(ValueError, match=r"the 6,982 words that are seen in 2 epochs"):
        plan_designs(command.args(*flags, "--milestones", "8K"), silent)
    with pytest.raises(ValueError, match=r"babylm begins at 1,000,000 words, 6,982 are seen"):
        plan_designs(command.args(*flags, "--milestones", "babylm"), silent)
    monkeypatch.setattr(milestones, "BABYLM", (2000, 4000, 20_000))
    _, designs = plan_designs(command.args(*flags, "--milestones", "BabyLM,4K,1K"), silent)
    assert designs.milestones == (1000, 2000, 4000)


def test_milestones_are_not_set_on_text_without_spaces(command, tmp_path):
    """Chinese is not parted by white space: its lines are not its words. Without --milestones it is
    a corpus like others."""
    lines = ["\u732b\u770b\u89c1\u4e86\u4e00\u53ea\u5c0f\u72d7\u3002" * 4] * 400
    (tmp_path / "zh.txt").write_text("\n".join(f"{line}{n}" for n, line in enumerate(lines)))
    flags = ("--lr", "1e-3", "--epochs", "2", "--corpus", str(tmp_path / "zh.txt"))
    with pytest.raises(ValueError, match="words are counted between white space"):
        plan_designs(command.args(*flags, "--milestones", "100"), silent)
    _, designs = plan_designs(command.args(*flags), silent)
    assert designs.milestones == ()


def test_dry_run_prints_each_part(command, capsys):
    """One row for each trial length of each design, a branch at the cost of its own steps only."""
    assert run_epoch_study(command.args("--dry-run", "--lr", "3e-3", "--epochs", "2", *ALL)) == 0
    output = capsys.readouterr().out
    flops = dict(re.findall(r"│ (\w+ \d epochs?).* (\S+) │\s+\S+ │\s+\S+ │$", output, re.MULTILINE))
    assert list(flops) == [
        *("trajectory 2 epochs", "independent 1 epoch", "branch 2 epochs", "branch 1 epoch")
    ]
    steps = {part: float(value) / float(flops["branch 2 epochs"]) for part, value in flops.items()}
    assert steps["independent 1 epoch"] == pytest.approx(1 / 2, rel=0.01)
    assert steps["branch 1 epoch"] == pytest.approx((32 - 20) / 64, rel=0.01)
    assert not (command.storage / "study").exists()


def test_what_several_seeds_found_is_told(command, tmp_path):
    """Intervals, agreement of designs, diverged and stopped trials, milestones; an old seed counts
    along, and the tokens are those of seeds with all lengths."""
    write_blimp(tmp_path / "data" / "blimp_fast")
    flags = ("--lr", "1e-3", "--horizons", "2", "3", "--benchmarks", str(tmp_path / "data"))
    args = command.args(*flags, *ALL[:1], *ALL[2:], "--milestones", "1K", "2K")
    setup, designs = plan_designs(args, silent)
    plan = plan_epochs(setup, designs)
    for seed, offset in enumerate((0.0, 0.1, 0.3)):
        for design, horizon, bits in (
            ("branch", 2, [1.5, 1.11 + offset]),
            ("branch", 3, [1.5, 1.2, 1.2 + offset]),
            ("independent", 2, [1.5, 1.1 + offset]),
            ("independent", 3, [1.5, 1.2, 1.4 + offset]),
        ):
            spec = designs.spec(design, horizon).replace(seed=seed)
            lost = design == "independent" and horizon == 3 and seed
            end(plan.folder, spec, bits[:-1] if lost else bits, ENDS[seed] if lost else "finished")
            if horizon == 3 and design == "branch":
                scores = {"benchmarks": {"blimp": 60.0 + seed}, "macro": None}
                report = MilestoneReport(2.0, 1.5 + seed, scores)
                TrialFolder.of(plan.folder, spec).keep_milestone(1000, report)
    tracker = Tracker.open(plan.tracking_uri, tmp_path, plan.study, plan.bases.values(), plan.kind)
    console = Console(file=io.StringIO(), width=200)
    show_epochs(plan, designs, tracker, console)
    output = console.file.getvalue()
    for line in (
        "branch: best after 2 epochs, 1.2433 bits/byte (the 95 % interval holds no other; "
        "bootstrap over 3 seeds, which is too narrow with so few).",
        # The third seed was stopped before its last epoch.
        "independent: best after 2 epochs, 1.1500 bits/byte (the 95 % interval holds no other; "
        "bootstrap over 2 seeds, which is too narrow with so few).",
        "branch minus independent: +0.0100 to +0.0100 bits/byte; within two standard "
        "deviations of independent's seeds at ",
        "branch after 1,000 words: 2.5000 ± 1.0000 bits/byte, blimp 61.0 ± 1.0 "
        "(± standard deviation over seeds)",
        "independent after 1,000 words: not measured: the trials ended before it was asked for",
    ):
        assert line in output, output
    assert re.search(r"independent │ +3 │ +2 │ +- │ +- │ .* 1 diverged", output), output
    assert "longest" not in output
    assert faults(texts_of_output(output)) == []


@pytest.fixture(scope="module")
def whole_study(whole_sweep, tmp_path_factory):
    """The three designs in the study of a finished sweep."""
    command = EpochCommand(whole_sweep.text, tmp_path_factory.mktemp("epochs"))
    shutil.copytree(whole_sweep.storage / "study", command.storage / "study")
    (command.storage / "output.txt").write_text(command.run(*ALL))
    return command


def trials_of(command, **fields):
    """Folders of the trials whose spec has these values, by epochs."""
    folders = [TrialFolder(p.parent) for p in command.storage.glob("study/trials/*/spec.json")]
    wanted = [f for f in folders if all(getattr(f.spec, k) == v for k, v in fields.items())]
    return {folder.spec.epochs: folder for folder in wanted}


@pytest.mark.slow
def test_designs_take_the_rate_and_the_trials_of_the_sweep(whole_sweep, whole_study):
    """The rate is the sweep's best; its trial of three epochs is the longest of two designs."""
    (parent,) = whole_sweep.runs("sweep")
    lr = parent.data.metrics["best/lr"]
    storages = str(whole_sweep.storage), str(whole_study.storage)
    before = whole_sweep.checkpoint_times()
    kept = {path.replace(*storages): written for path, written in before.items()}
    assert kept.items() < whole_study.checkpoint_times().items()
    assert sorted(trials_of(whole_study, schedule="wsd", lr=lr)) == [1, 2, 3]
    assert sorted(trials_of(whole_study, schedule="linear", lr=lr)) == [1, 2, 3]
    runs = whole_study.runs()
    assert len(runs) == 3 + 3  # the sweep's other rate has no run in this store
    names = [run.data.tags["mlflow.runName"] for run in whole_study.runs("sweep")]
    assert names.count("epoch study lstm mini 2 epochs") == 2


@pytest.mark.slow
def test_results_are_printed_and_stored(whole_study):
    """The best horizon of each design, what each took, the table and the picture."""
    output = (whole_study.storage / "output.txt").read_text()
    for design in ("trajectory", "independent", "branch"):
        assert re.search(
            rf"^{design}: best after \d epochs?, .* one seed: the spread", output, re.M
        )
    assert "branch minus independent" in output
    assert (whole_study.storage / "study" / "epoch_curve.png").read_bytes()[:4] == b"\x89PNG"
    for run in whole_study.runs("sweep"):
        names = {file.path for file in whole_study.client.list_artifacts(run.info.run_id)}
        assert {"epoch_table.csv", "epoch_curve.png"} <= names


@pytest.mark.slow
def test_tokens_spent_are_those_of_the_steps_taken(whole_study):
    """A branch records no step of the trunk, and the printed tokens are those that it took."""
    branches = trials_of(whole_study, schedule="wsd")
    taken = 0
    for epochs, folder in branches.items():
        (run,) = [
            r for r in whole_study.runs() if r.data.tags["babysweep.spec_hash"] == folder.path.name
        ]
        first = whole_study.history(run, "train/loss")[0].step
        assert first == (1 if epochs == 3 else folder.began + LOG_EVERY - folder.began % LOG_EVERY)
        taken += epochs * 32 - folder.began
    assert 0 < branches[1].began < branches[2].began
    output = (whole_study.storage / "output.txt").read_text()
    assert f"branch: {taken * 4 * 64:,} training tokens for 1 seed" in output
    assert f"independent: {6 * 32 * 4 * 64:,} training tokens for 1 seed, 1.00 times" in output
    assert f"trajectory: {3 * 32 * 4 * 64:,} training tokens for 1 seed, 0.50 times" in output


@pytest.mark.slow
def test_branches_are_bitwise_trials_of_their_own(whole_study, tmp_path):
    """A branch's figures and parameters are those of its spec trained from the first step."""
    for branch in trials_of(whole_study, schedule="wsd").values():
        spec = branch.spec
        tracker = Tracker.open(empty_store(tmp_path), tmp_path, "alone", [spec])
        (corpus,) = (f.parent for f in whole_study.storage.glob("corpora/**/corpus.json"))
        alone = run_trial(
            spec, RuntimeConfig(tmp_path, corpus, None, tracker), lambda metrics: None
        )
        assert branch.outcome is not None
        ours, theirs = branch.outcome.history, alone.history
        assert [(e.step, e.val_loss, e.train_loss) for e in ours] == [
            (e.step, e.val_loss, e.train_loss) for e in theirs
        ]
        files = (branch.best_checkpoint, TrialFolder.of(tmp_path, spec).best_checkpoint)
        assert_same(*(load_file(path / "model.safetensors") for path in files))


@pytest.mark.slow
def test_killed_study_continues_to_the_same_result(whole_study, command):
    """kill -9 of the command in the trunk and in a branch, and again: as if never interrupted, and
    the rerun of the finished study trains nothing."""
    lr = str(next(iter(trials_of(whole_study, schedule="wsd").values())).spec.lr)
    flags = ("--designs", "branch", "--lr", lr, "--max-concurrent", "1")
    for pattern in ("epoch 2/3", "epoch 1/2"):
        process = command.start(*flags)
        wait_for(process, pattern)
        process.kill()
        process.wait()
        process.stdout.close()
    command.run(*flags)
    reference = whole_study.results()
    assert len(command.results()) == 3
    assert command.results() == {trial: reference[trial] for trial in command.results()}
    for run in command.runs():
        for name in FIGURES:
            steps = [point.step for point in command.history(run, name)]
            assert len(steps) == len(set(steps)) > 0, name
    began = {folder.spec.epochs: folder.began for folder in trials_of(command).values()}
    assert began == {
        folder.spec.epochs: folder.began
        for folder in trials_of(whole_study, schedule="wsd").values()
    }
    written = command.checkpoint_times()
    command.run(*flags)
    assert command.checkpoint_times() == written
