"""What a sweep says in the end: which architecture, how sure that is, and how to go on."""

from __future__ import annotations

import io
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from analysis.arguments import ReportArgs
from analysis.command_line import parse
from analysis.reporting.sections.architectures import architectures
from analysis.reporting.sections.common import ReportContext
from analysis.study import Study
from sweeps.arguments import LrSweepArgs
from sweeps.findings.common import show_ways_on
from sweeps.findings.lr_sweep import show_results
from sweeps.plans.common import SweepPlan
from sweeps.plans.lr_sweep import plan_sweep
from sweeps.plans.spaces import SweepSearch
from tests.empty_store import empty_store
from tests.made_study import MadeStudy
from tests.notation import faults, texts_of_output
from tests.tiny_text import write_tiny_text
from trainables.checkpoint import TrialFolder
from trainables.progress import TrialOutcome
from trainables.tracking import Tracker

GUESSING = -0.5
"""Skill that takes a model's scores to chance."""


@dataclass(frozen=True)
class Ended:
    """A sweep whose trials have ended, with made-up figures, in a storage with a space in it."""

    text: Path
    storage: Path
    bonus: float = 0.0
    lrs: tuple[float, ...] = (1e-2, 3e-2)

    def plan(self, *archs: str) -> SweepPlan:
        words = ["--arch", *archs, "--corpus", str(self.text), "--vocab-size", "280"]
        words += ["--context", "64", "--batch-size", "4", "--epochs", "2", "--seeds", "0", "1"]
        words += ["--lrs", *map(str, self.lrs), "--study", "my study"]
        args = parse(LrSweepArgs, [*words, "--storage", str(self.storage)], None)
        return plan_sweep(args, lambda text: None)

    def end(self, *archs: str, width: int = 120, terminal: bool = False) -> str:
        """Let the sweep of these architectures end; returns what it prints."""
        empty_store(self.storage)
        plan = self.plan(*archs)
        tracker = Tracker.open(
            plan.tracking_uri, self.storage, plan.study, plan.bases.values(), plan.kind
        )
        made = MadeStudy(self.storage, plan.study, plan.tracking_uri)
        for base in plan.bases.values():
            for lr in self.lrs:
                for seed in (0, 1):
                    spec = base.replace(lr=lr, seed=seed)
                    folder = TrialFolder.of(plan.folder, spec)
                    run = tracker.trial(spec, {"params": 1000}, folder.path)
                    history = tuple(made.report(spec, epoch, self.bonus) for epoch in (1, 2))
                    for each in history:
                        run.log_epoch(each)
                    outcome = TrialOutcome("finished", history, "step-1")
                    folder.finish(outcome)
                    run.finish(outcome, None)
        tracker.close("FINISHED")
        return self.show(plan, tracker, width, terminal)

    def show(self, plan: SweepPlan, tracker: Tracker, width: int, terminal: bool) -> str:
        output = io.StringIO()
        console = Console(file=output, width=width, force_terminal=terminal, color_system=None)
        search = SweepSearch({})
        show_results(plan, tracker, search, console)
        show_ways_on(plan, tracker, search, console)
        return output.getvalue()

    def answer(self) -> str:
        """The report's."""
        study = Study.open(f"sqlite:///{self.storage / 'mlflow.db'}", "my study", "http://ui")
        part = architectures(ReportContext(study, "val_loss", self.storage))
        assert part is not None
        return part.answers[0]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    write_tiny_text(folder)
    return folder


@pytest.fixture(scope="module")
def two(text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Ended, str]:
    """Of two architectures that are better than chance, and what it printed in a pipe."""
    ended = Ended(text, tmp_path_factory.mktemp("storage") / "my runs")
    return ended, ended.end("lstm", "hgrn2")


def test_two_architectures_get_the_reports_verdict(two: tuple[Ended, str]) -> None:
    """Word for word, in a line, and after all that is said of one."""
    ended, output = two
    lines = output.splitlines()
    verdict = ended.answer()
    assert verdict.startswith("hgrn2 scores best: macro ")
    assert "95 % interval" in verdict
    assert lines.index(verdict) > max(n for n, line in enumerate(lines) if "Picture" in line)
    assert "above chance" not in output


def test_the_last_lines_can_be_pasted(two: tuple[Ended, str]) -> None:
    """The report's command is one that it understands; below it what shows MLflow's pages, and the
    address of the study's."""
    ended, output = two
    *_, report, ui, page = output.splitlines()
    python, script, *words = shlex.split(report.removeprefix("Report "))
    assert [python, script] == ["python", "analysis/report.py"]
    args = parse(ReportArgs, words, None)
    assert (args.study, args.storage) == ("my study", ended.storage)
    assert shlex.split(ui.removeprefix("Browse ")) == ["make", "ui", f"STORAGE={ended.storage}"]
    assert re.fullmatch(r" +http://127\.0\.0\.1:5000/#/experiments/\d+/runs\S+", page)


def test_a_terminal_of_80_columns_breaks_no_word(two: tuple[Ended, str]) -> None:
    """Outside of the tables: all words of a pipe's lines are there, and the commands whole."""
    ended, output = two
    plan = ended.plan("lstm", "hgrn2")
    tracker = Tracker.open(
        plan.tracking_uri, ended.storage, plan.study, plan.bases.values(), plan.kind
    )
    narrow = ended.show(plan, tracker, 80, terminal=True)
    assert words_of(narrow) == words_of(output)
    assert set(output.splitlines()[-3:]) <= set(narrow.splitlines())
    labels = ("Report", "Browse", "Checkpoint", "Picture", "    ")
    sentences = [line for line in narrow.splitlines() if not line.startswith(labels)]
    assert max(map(len, sentences)) <= 80


def test_there_is_one_notation(two: tuple[Ended, str]) -> None:
    """Of learning rates, losses and spreads, and no plural of one."""
    assert faults(texts_of_output(two[1])) == []
    assert "± standard deviation over seeds" in two[1]
    assert "(± standard error over items)" in two[1]


def words_of(output: str) -> list[str]:
    return [word for line in output.splitlines() if "│" not in line for word in line.split()]


def test_the_second_of_two_sweeps_answers(text: Path, tmp_path: Path) -> None:
    """One architecture alone is not compared; the next, in the same study, is. That guessing
    reaches a macro is said of each, and that it names no winner."""
    ended = Ended(text, tmp_path / "runs", GUESSING, lrs=(1e-2,))
    first = ended.end("lstm")
    assert "By validation loss" not in first
    assert re.search(r"lstm: zero-shot macro [\d.]+ ± [\d.]+ \(not above chance: 95 % of", first)
    second = ended.end("hgrn2")
    verdict = ended.answer()
    assert "above chance" in verdict
    assert "names no best architecture" in verdict
    assert verdict in second.splitlines()
