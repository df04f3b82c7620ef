"""What a dry run says of a GPU; of a CPU see the tests of the commands."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from sweeps.engine.tuning import Resources
from sweeps.plans import dry_run
from sweeps.plans.common import SweepPlan
from sweeps.plans.dry_run import Cost
from tests.trainables.test_spec import SPEC

COST = Cost(
    part="hgrn2",
    params=1_000_000,
    non_embedding=900_000,
    flops_per_token=6e6,
    epochs=5,
    trials=4,
    flops=1e15,
    step_seconds=(0.25,),
    trial_seconds=3600.0,
    seconds=3600.0,
    mfu=0.41,
)


def plan(gpus):
    return SimpleNamespace(resources=Resources(1, gpus, 1, "inline"))


def printed(costs):
    console = Console(width=120)
    with console.capture() as capture:
        console.print(dry_run._table(costs))
    return capture.get()


def test_the_share_of_the_peak_stands_where_it_is_known():
    """A column of its own, "?" for a step that could not be measured, and no column on a CPU."""
    unknown = replace(
        COST, part="lstm", step_seconds=(None,), trial_seconds=None, seconds=None, mfu=None
    )
    table = printed([COST, unknown])
    assert "MFU" in table
    assert "41%" in table
    assert "?" in table
    assert "MFU" not in printed([unknown])


def test_the_disk_is_that_of_all_trials_to_come():
    """Four trials of a million parameters, of 20 bytes each, of 8 where only the best are kept; a
    trunk's checkpoints have 16, a milestone's model 4."""

    def disk(*costs, keep="newest", milestones=(), **shared_steps):
        plan = SimpleNamespace(keep=keep, milestones=milestones, shared_steps=shared_steps)
        return dry_run._disk(plan, costs)

    assert disk(COST).startswith("About 80 MB on disk")
    assert disk(COST, replace(COST, params=10**9)).startswith("About 80 GB")
    assert disk(COST, keep="best", **{COST.part: 5}).startswith("About 32 MB")
    assert disk(COST, **{COST.part: 5}).startswith("About 0.1 GB")
    with_milestones = disk(COST, keep="best", milestones=(10**6, 2 * 10**6, 10**7))
    assert with_milestones.startswith("About 80 MB on disk")
    assert "its models after 3 milestones" in with_milestones


def test_scorings_of_the_longest_trial_are_counted():
    """A milestone at an epoch's end adds none: its figures are the epoch's; two of one step one."""
    base = SPEC.replace(epochs=2, batch_size=4, context=10)
    corpus = SimpleNamespace(train_words=400, train_tokens=400)  # 10 steps of 40 words an epoch

    def scorings(*milestones, benchmarks="folder"):
        made = SimpleNamespace(benchmarks=benchmarks, num_items=1200, bases={"part": base})
        made.num_blocks, made.corpus, made.milestones = 40, corpus, milestones
        return dry_run._scorings(made)

    assert scorings(benchmarks=None) == "none"
    assert scorings() == scorings(400, 800) == "1,200 items, scored after 2 epochs of a trial"
    expected = "1,200 items, scored after 2 epochs and 2 milestones of a trial"
    assert scorings(39, 40, 100, 400) == expected


def test_every_batch_size_and_optimizer_is_measured(monkeypatch):
    """The time is the mean over them; what one step costs does not stand for another's."""
    values = {"lr": [1e-3, 1e-2], "batch_size": [4, 8], "optimizer": ["adamw", "muon"]}
    grid = SimpleNamespace(values=values, remaining=lambda: 8)
    made = SimpleNamespace(
        bases={"part": SPEC.replace(epochs=1)}, plans={"part": grid}, shared_steps={}, num_blocks=64
    )
    monkeypatch.setattr(dry_run, "_model_counts", lambda *_: (1, 1, 1.0))
    monkeypatch.setattr(dry_run, "_peak", lambda *_: None)
    seconds = {(4, "adamw"): 1.0, (4, "muon"): 2.0, (8, "adamw"): 3.0, (8, "muon"): 4.0}

    def measure(_, spec):
        return seconds[spec.batch_size, spec.optimizer]

    cost = dry_run._cost(made, "part", 2, measure)
    assert cost.step_seconds == (1.0, 2.0, 3.0, 4.0)
    assert cost.seconds == 4 * (16 * 1.0 + 16 * 2.0 + 8 * 3.0 + 8 * 4.0) / 4
    assert "1.000, 2.000, 3.000, 4.000" in printed([cost])
    assert dry_run._cost(made, "part", 2, lambda *_: None).seconds is None


def test_kernels_are_those_of_every_kind_of_trial():
    """Of each part every batch size, with and without dropout where its values or its range say so,
    and of a range both ends; not of what changes no kernel."""
    bases = {"lstm": SPEC.replace(arch="lstm"), "mamba": SPEC.replace(arch="mamba")}
    asked = {"lr": (1e-3, 1e-2), "dropout": (0.0, 0.2), "batch_size": (4, 8)}
    corpus = SimpleNamespace(vocab_size=300)
    made = SimpleNamespace(bases=bases, asked=asked, corpus=corpus, micro_batch=None, teachers=())
    made.resources = Resources(1, 1, 1, "inline")
    works = SweepPlan.works.fget(made)
    found = {(w.spec.arch, w.spec.batch_size, w.spec.dropout, w.vocab_size) for w in works}
    expected = product(("lstm", "mamba"), (4, 8), (0.0, 0.2), (300,))
    assert (found, len(works)) == ({*expected}, 8)
    made.asked = {"lr": (1e-3, 1e-2)}
    assert [work.spec for work in SweepPlan.works.fget(made)] == [*bases.values()]
    made.resources = Resources(1, 1, 2, "train")
    assert {w.spec.batch_size for w in SweepPlan.works.fget(made)} == {SPEC.batch_size // 2}


def test_parts_share_the_places():
    """A part begins where the one before leaves a place: six of two trials, four at once, take
    three rounds; and no trial is shorter than itself."""
    half = replace(COST, trials=2, trial_seconds=600.0)
    assert dry_run._total(plan(1), [half] * 6, at_once=4).startswith("About 30:00 of training")
    longest = replace(COST, trials=1, trial_seconds=7200.0)
    assert dry_run._total(plan(1), [half, longest], at_once=4).startswith("About 2:00:00 ")
    assert dry_run._total(plan(1), [replace(half, trials=5)], at_once=4).startswith("About 20:00 ")


def test_what_the_time_does_not_hold_is_said():
    """On a GPU the kernels, with several workers their exchange; and how many trials shared one."""
    text = dry_run._total(plan(0.25), [COST], at_once=4)
    assert text.startswith(
        "About 1:00:00 of training, measured with 4 trials on a GPU (evaluation, "
    )
    assert "building of kernels" in text
    assert "measured" not in dry_run._total(plan(1), [COST], at_once=4)
    alone = dry_run._total(plan(0), [COST], at_once=4)
    assert "(evaluation and points beyond the grid not counted)" in alone
    two = SimpleNamespace(resources=Resources(1, 1, 2, "train"))
    assert "the exchange of gradients between workers" in dry_run._total(two, [COST], at_once=1)


@pytest.mark.parametrize(
    ("gpus", "workers", "at_once", "expected"),
    [(0.25, 1, 4, 4), (0.25, 1, 8, 4), (0.3, 1, 8, 3), (0.25, 1, 2, 2), (0.5, 2, 1, 2)]
    + [(1, 1, 4, 1), (2, 1, 2, 1), (0, 1, 4, 1)],
)
def test_a_step_is_measured_beside_those_that_will_share_its_gpu(
    gpus, workers, at_once, expected, monkeypatch
):
    """As many processes as there will be on one GPU, each with its share; alone in this one."""
    asked = []

    class Processes:
        def __init__(self, number):
            self.number = number
            self.is_closed = False

        def seconds(self, setting):
            asked.append((self.number, setting.gpus, setting.threads, setting.spec.batch_size))
            return 0.5

        def close(self):
            self.is_closed = True

    def alone(setting):
        asked.append((1, setting.gpus, setting.threads, setting.spec.batch_size))
        return setting

    monkeypatch.setattr(dry_run, "SideBySide", Processes)
    monkeypatch.setattr(dry_run.StepSetting, "trainer", alone)
    monkeypatch.setattr(dry_run, "step_seconds", lambda trainer: 0.5)
    made = SimpleNamespace(resources=Resources(3, gpus, workers, "auto"), teachers=())
    made.corpus, made.micro_batch = SimpleNamespace(directory=Path("corpus")), "auto"
    made.works, built = ["work"], []
    monkeypatch.setattr(dry_run, "build_kernels", lambda works, _: built.append(works))
    with dry_run._StepTimer(made, at_once, Console()) as timer:
        assert timer("part", SPEC.replace(batch_size=4)) == 0.5
    assert asked == [(expected, gpus, 3, 4 // workers)]
    assert timer._processes.is_closed
    assert built == ([["work"]] if gpus else [])  # before, side by side


def test_the_share_of_the_peak_is_that_of_all_on_the_gpu(monkeypatch):
    """Four trials side by side reach four times what the step of one does."""
    grid = SimpleNamespace(values={}, remaining=lambda: 4)
    found = {}
    for share in (1, 0.25):
        made = SimpleNamespace(bases={"part": SPEC}, plans={"part": grid}, shared_steps={})
        made.num_blocks, made.resources = 64, Resources(1, share, 1, "inline")
        monkeypatch.setattr(dry_run, "_model_counts", lambda *_: (1, 1, 1e9))
        monkeypatch.setattr(dry_run, "_peak", lambda *_: 1e15)
        found[share] = dry_run._cost(made, "part", 4, lambda *_: 2.0).mfu
    assert found[0.25] == pytest.approx(4 * found[1])


def test_the_peak_is_that_of_all_workers_in_bf16(monkeypatch):
    """None in float32 and on the CPU."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    two = SimpleNamespace(resources=Resources(1, 1, 2, "train"))
    bf16 = SPEC.replace(precision="bf16")
    assert dry_run._peak(two, bf16) == 2 * 989e12
    assert dry_run._peak(two, SPEC.replace(precision="fp32")) is None
    assert dry_run._peak(plan(0), bf16) is None
