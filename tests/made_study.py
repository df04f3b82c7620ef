"""Studies for tests: recorded as trials record themselves, with figures that are made up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest

from analysis.benchmarks import Answer, Benchmark, Item, Suite
from analysis.schema.milestone import MilestoneReport
from tests.empty_store import empty_store
from trainables.milestones import milestone_report
from trainables.progress import EpochReport
from trainables.progress import TrialOutcome as End
from trainables.spec import TrialSpec
from trainables.tracking import Tracker

SKILL = {"transformer": 0.0, "lstm": -0.03, "xlstm": 0.02, "mamba": 0.03, "hgrn2": 0.05}
BEST_LR = {"transformer": 3e-3, "lstm": 3e-2, "xlstm": 1e-2, "mamba": 1e-2, "hgrn2": 1e-2}
BATCH, CONTEXT, STEPS = 32, 64, 100


def base_spec(arch: str = "hgrn2", **changes: Any) -> TrialSpec:
    """A spec with the settings that all made-up trials share."""
    values: dict[str, Any] = {
        **{"arch": arch, "size": "mini", "corpus": "tiny", "corpus_hash": "c0ffee"},
        **{"context": CONTEXT, "batch_size": BATCH, "lr": 1e-2, "epochs": 3, "seed": 0},
        "benchmarks_hash": "beef",
    }
    return TrialSpec(**{**values, **changes})


def suite(items: dict[str, dict[str, int]] | None = None) -> Suite:
    """A suite with so many items by benchmark and task, of two options (of "bear" five)."""
    items = items or {
        "blimp": {"agreement": 60, "binding": 60, "islands": 60},
        "supplement": {"turn_taking": 40, "hypernym": 40},
        "ewok": {"spatial": 50, "social": 50},
        "bear": {"P19": 40},
    }
    return Suite(
        tuple(Benchmark(name, _items(name, tasks)) for name, tasks in items.items()), "2024"
    )


def _items(name: str, tasks: dict[str, int]) -> tuple[Item, ...]:
    options = 5 if name == "bear" else 2
    return tuple(
        Item(
            task,
            tuple(f"{task} {index} {option}" for option in range(options)),
            groups=(("linguistics_term", f"{task}_term"),) if name == "blimp" else (),
            cluster=f"{task} {index // 2}" if name == "ewok" else "",
        )
        for task, count in tasks.items()
        for index in range(count)
    )


def draw_nothing(patch: pytest.MonkeyPatch) -> None:
    """From now on reports have pictures with nothing in them: to draw takes half of their time."""

    def save(figure: object, folder: Path, stem: str) -> None:
        (folder / f"{stem}.svg").touch()

    patch.setattr("analysis.plots.inline_svg", lambda figure, *, name, alt: "<svg/>")
    patch.setattr("analysis.plots.save", save)


def made_scores() -> dict[str, Any]:
    """Scores of four items, in the form that is stored."""
    right = Answer(1.0, 0, False, (-1.0, -2.0))
    return suite({"blimp": {"agreement": 4}}).summarize({"blimp": [right] * 4}).to_dict()


@dataclass
class MadeStudy:
    """Records trials in the MLflow store of a storage folder, and a study's name in it.

    `bits_per_byte` and the items' values follow from architecture, rate, epoch and seed.
    """

    storage: Path
    name: str = "study"
    uri: str = ""
    suite: Suite | None = field(default_factory=suite)

    def __post_init__(self) -> None:
        self.storage.mkdir(parents=True, exist_ok=True)
        if not self.uri:
            self.uri = empty_store(self.storage)

    def tracker(self, specs: Iterable[TrialSpec], kind: str = "lr sweep") -> Tracker:
        """Of the study, with a parent run for each setting."""
        bases = {spec.setting.hash: spec for spec in specs}
        return Tracker.open(
            self.uri, self.storage / "artifacts" / self.name, self.name, bases.values(), kind
        )

    def add(
        self,
        specs: Sequence[TrialSpec],
        *,
        kind: str = "lr sweep",
        outcome: str | None = "finished",
        bonus: float = 0.0,
        milestones: Sequence[int] = (),
    ) -> list[str]:
        """Record trials that end so (None: they go on); returns their run ids.

        `bonus` is added to the skill, and so taken off the bits/byte. `milestones` are numbers of
        words after which they are measured, too.
        """
        tracker = self.tracker(specs, kind)
        run_ids = []
        for spec in specs:
            run = tracker.trial(spec, _facts(spec), self.storage)
            epochs = 1 if outcome in (None, "diverged") else spec.epochs
            history = [self.report(spec, epoch, bonus) for epoch in range(1, epochs + 1)]
            for report in history:
                run.log_step(report.step, {"loss": report.train_loss})
                run.log_epoch(report)
            for place, words in enumerate(milestones):
                run.log_milestone(words, self.milestone(spec, place))
            if outcome is not None:
                reason = "loss nan at step 120" if outcome == "diverged" else ""
                run.finish(End(outcome, tuple(history), None, reason), None)
            run_ids.append(run.run_id)
        tracker.close("FINISHED")
        return run_ids

    def sweep(
        self, archs: Sequence[str], lrs: Sequence[float], seeds: Sequence[int], epochs: int = 3
    ) -> list[str]:
        """Record a finished sweep."""
        return self.add(
            [
                base_spec(arch, lr=lr, seed=seed, epochs=epochs)
                for arch in archs
                for lr in lrs
                for seed in seeds
            ]
        )

    def milestone(self, spec: TrialSpec, place: int) -> MilestoneReport:
        """Of a model that at first guesses, and then is better by a step at each place."""
        skill = SKILL[spec.arch] - 0.2 + 0.15 * place
        scores = None if self.suite is None else self._scores(spec, place, skill)
        return milestone_report(3 - 3 * skill, 1 - skill, self.suite, scores)

    def report(self, spec: TrialSpec, epoch: int, bonus: float) -> EpochReport:
        noise = np.random.default_rng([spec.seed, epoch, crc32(_kind(spec).encode())])
        away = math.log10(spec.lr / BEST_LR[spec.arch]) ** 2
        away += math.log10(spec.weight_decay / 0.1) ** 2
        skill = SKILL[spec.arch] - 0.1 * away - 0.05 / epoch + bonus + noise.normal(0, 0.005)
        bits_per_byte = 1.0 - skill + noise.normal(0, 0.002)
        return EpochReport(
            epoch=epoch,
            step=STEPS * epoch,
            tokens=STEPS * epoch * BATCH * CONTEXT,
            train_loss=bits_per_byte * 3,
            val_loss=bits_per_byte * 3,
            bits_per_byte=bits_per_byte,
            seconds=12.0,
            train_seconds=10.0,
            scores=None if self.suite is None else self._scores(spec, epoch, skill),
        )

    def _scores(self, spec: TrialSpec, epoch: int, skill: float) -> dict[str, Any]:
        assert self.suite is not None
        outcomes = {}
        for number, benchmark in enumerate(self.suite.benchmarks):
            difficulty = np.random.default_rng(number).uniform(-0.2, 0.2, len(benchmark))
            luck = np.random.default_rng([spec.seed, epoch, number, crc32(_kind(spec).encode())])
            chance = 1 / len(benchmark.items[0].options)
            right = luck.random(len(benchmark)) < chance + 0.2 + skill + difficulty
            outcomes[benchmark.name] = [
                Answer(float(value), 0, False, (-1.0, -2.0)) for value in right
            ]
        return self.suite.summarize(outcomes).to_dict()


def _kind(spec: TrialSpec) -> str:
    """What makes a trial's luck its own, whatever its seed."""
    decay = "" if spec.weight_decay == 0.1 else f" {spec.weight_decay}"
    return f"{spec.arch} {spec.lr} {spec.schedule} {spec.epochs} {spec.teacher}{decay}"


def _facts(spec: TrialSpec) -> dict[str, Any]:
    return {
        "total_steps": STEPS * spec.epochs,
        "params": 1_000_000,
        "params_non_embedding": 450_000,
        "vocab_size": 2048,
        "train_tokens": STEPS * BATCH * CONTEXT,
        "train_words": 150_000,
        "tokenizer_hash": "70ce",
        "flops_per_token": 3_000_000,
        "began_step": 0,
        "hardware": "1 thread of a made-up processor",
        "software": "python 3.11",
    }
