"""MLflow's pages of a study, served as `make ui` does and opened in a browser."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from mlflow.entities import Run
from rich.console import Console

from analysis.command_line import parse
from sweeps.arguments import LrSweepArgs
from sweeps.findings.common import describe_study, show_ways_on
from sweeps.findings.lr_sweep import show_results
from sweeps.plans.common import SweepPlan
from sweeps.plans.lr_sweep import plan_sweep
from sweeps.plans.spaces import SweepSearch
from tests.processes import serve_mlflow
from tests.tiny_text import write_tiny_text
from trainables.checkpoint import TrialFolder
from trainables.mlflow_pages import TRIALS
from trainables.mlflow_pages import page as page_of
from trainables.progress import EpochReport, TrialOutcome
from trainables.spec import TrialSpec
from trainables.tracking import Tracker

pytestmark = pytest.mark.slow

expect = pytest.importorskip("playwright.sync_api").expect
expect.set_options(timeout=30_000)  # ms; MLflow's pages are large

LRS = {1e-3: 1.5, 3e-3: 1.2, 1e-2: 1.1, 3e-2: math.inf}
"""Bits per byte of the LSTM after its last epoch; the other architecture is a little better."""


@dataclass(frozen=True)
class Study:
    """A study in MLflow, and a server that shows it.

    Attributes:
        printed: what the sweep printed in the end.
        notes: all descriptions, the first time that its results were shown and the second.
        server: its address.
    """

    tracker: Tracker
    printed: str
    notes: list[list[str]]
    server: str

    @property
    def page(self) -> str:
        """The address of the study's page that the sweep printed, on this server."""
        (path,) = re.findall(r"^ +http://127\.0\.0\.1:5000/(\S+)", self.printed, re.MULTILINE)
        return self.server + path

    def runs(self, arch: str, kind: str) -> list[Run]:
        """The sweep, or the trials, of an architecture."""
        condition = f"tags.`babysweep.kind` = '{kind}' and params.arch = '{arch}'"
        return list(self.tracker.client.search_runs([self.tracker.experiment_id], condition))

    def trial(self, name: str) -> Run:
        """The trial of this name."""
        return next(run for run in self.tracker.trial_runs() if run.info.run_name == name)


def end_trial(plan: SweepPlan, tracker: Tracker, spec: TrialSpec, bits: float) -> None:
    """Record a trial as its own process does, without the training."""
    history = tuple(
        report(spec, epoch, bits + 0.1 * (spec.epochs - epoch) + 0.01 * spec.seed)
        for epoch in range(1, spec.epochs + 1)
        if math.isfinite(bits)
    )
    run = tracker.trial(spec, {"params": 1000}, plan.folder)
    for step in range(0, 60, 10):
        run.log_step(step, {"loss": 5 - step / 50, "grad_norm": 1.0})
    for each in history:
        run.log_epoch(each)
    reason = "" if history else "the loss is not finite at step 12"
    outcome = TrialOutcome("finished" if history else "diverged", history, "step-1", reason)
    TrialFolder.of(plan.folder, spec).finish(outcome)
    run.finish(outcome, None)


def report(spec: TrialSpec, epoch: int, bits: float) -> EpochReport:
    scores = {
        "benchmarks": {"blimp": 90 - 20 * bits, "ewok": 60.0},
        "errors": {"blimp": 0.5, "ewok": 0.7},
        "selection": {"blimp": 61.0},
        "held_out": {"blimp": 62.0},
        "macro": (150 - 20 * bits) / 2,
        "macro_error": 0.4,
        "ties": {"blimp": 0, "ewok": 0},
        "non_finite": {"blimp": 0, "ewok": 0},
    }
    return EpochReport(epoch, 20 * epoch, 5120 * epoch, bits * 2, bits * 2, bits, 1.5, 1.0, scores)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    """Two architectures, four learning rates, two seeds; the highest rate diverged."""
    folder = tmp_path_factory.mktemp("text")
    write_tiny_text(folder)
    words = ["--arch", "lstm", "hgrn2", "--corpus", str(folder), "--vocab-size", "280"]
    words += ["--context", "64", "--batch-size", "4", "--epochs", "3", "--seeds", "0", "1"]
    words += ["--study", "study", "--storage", str(tmp_path_factory.mktemp("storage")), "--lrs"]
    args = parse(LrSweepArgs, [*words, *map(str, LRS)], None)
    plan = plan_sweep(args, lambda text: None)
    artifacts = plan.storage / "artifacts" / plan.study
    tracker = Tracker.open(plan.tracking_uri, artifacts, plan.study, plan.bases.values(), plan.kind)
    for better, base in enumerate(plan.bases.values()):
        for lr, bits in LRS.items():
            for seed in args.seeds:
                end_trial(plan, tracker, base.replace(lr=lr, seed=seed), bits - 0.02 * better)
    tracker.close("FINISHED")
    search, notes = SweepSearch({}), []
    for _ in range(2):  # as if the command was run again
        console = Console(file=io.StringIO(), width=120)
        show_results(plan, tracker, search, console)
        describe_study(plan, tracker)
        show_ways_on(plan, tracker, search, console)
        notes.append(descriptions(tracker))
    with serve_mlflow(plan.storage) as server:
        yield Study(tracker, console.file.getvalue(), notes, server)


def descriptions(tracker: Tracker) -> list[str]:
    experiment = tracker.client.get_experiment(tracker.experiment_id)
    runs = tracker.client.search_runs([tracker.experiment_id], order_by=["attributes.run_id ASC"])
    holders = [experiment.tags, *(run.data.tags for run in runs)]
    return [tags["mlflow.note.content"] for tags in holders if "mlflow.note.content" in tags]


def assert_sound(opened, study) -> None:
    """Nothing but what MLflow says of any study is an error, and nothing comes from elsewhere."""
    own = ("/users/current", "ResizeObserver loop")  # no login; a chart changed its size
    assert not [error for error in opened.errors if not any(name in error for name in own)]
    addresses = [address for address in opened.requests if not address.startswith("data:")]
    assert not [address for address in addresses if not address.startswith(study.server)]


def row(page, run):
    """The cells of a run's row, which are in several containers."""
    return page.locator(f'[row-id="{run.info.run_id}"]')


def cell(page, run, column: str):
    return row(page, run).locator(f'[col-id="{column}"]')


def test_trials_are_nested_under_their_sweep(study, open_page):
    """At the address that the sweep printed there are the two sweeps; one unfolds into its own
    trials. Sweeps and trials have figures in the same columns, and a description of one line."""
    opened = open_page(study.page, width=1900)
    page = opened.page
    lstm, hgrn2 = (study.runs(arch, "sweep")[0] for arch in ("lstm", "hgrn2"))
    trials = study.runs("lstm", "trial")
    expect(row(page, lstm).first).to_contain_text("lr sweep lstm mini 3 epochs")
    expect(row(page, hgrn2).first).to_be_visible()
    expect(row(page, trials[0])).to_have_count(0)
    row(page, lstm).get_by_role("button").first.click()
    for trial in trials:
        expect(row(page, trial).first).to_contain_text(trial.info.run_name)
    expect(row(page, study.runs("hgrn2", "trial")[0])).to_have_count(0)
    best, bad = study.trial("lstm lr=1e-2 seed=0"), study.trial("lstm lr=3e-2 seed=0")
    for run, bits, lr, epoch in ((lstm, "1.105", "0.01", "3"), (best, "1.1", "0.01", "3")):
        expect(cell(page, run, "metrics.`best/bits_per_byte`")).to_have_text(bits)
        expect(cell(page, run, "metrics.`best/lr`")).to_have_text(lr)
        expect(cell(page, run, "metrics.`best/epoch`")).to_have_text(epoch)
    expect(cell(page, bad, "tags.`babysweep.outcome`")).to_have_text("diverged")
    expect(cell(page, lstm, "attributes.`Description`")).to_contain_text("lstm: 1e-2 is ahead of")
    expect(page.get_by_text("hgrn2, lstm trained on")).to_be_visible()
    assert_sound(opened, study)


def test_a_sweeps_page_shows_what_it_found(study, open_page):
    """The description is rendered: the answer, one table with a row for each learning rate, the
    curve as a picture that was loaded, a link to the best trial's page."""
    opened = open_page(study.page)
    page = opened.page
    page.get_by_role("link", name="lr sweep lstm mini 3 epochs").click()
    page.get_by_text("Show more").click()
    expect(page.get_by_text(re.compile(r"^lstm: 1e-2 is ahead of 3e-3"))).to_be_visible()
    table = page.locator("table").filter(has_text="bits/byte")
    expect(table).to_have_count(1)
    expect(table.locator("tr")).to_have_count(1 + len(LRS))
    expect(table).to_contain_text("2 diverged")
    picture = page.locator("img[src*='lr_curve']")
    picture.scroll_into_view_if_needed()
    page.wait_for_function("image => image.complete", arg=picture.element_handle())
    assert 500 < picture.evaluate("image => image.naturalWidth") < 900  # wider ones are cut
    link = page.get_by_role("link", name="lstm lr=1e-2 seed=0").first
    page.goto(study.server + link.get_attribute("href"))
    expect(page.get_by_role("heading", name="lstm lr=1e-2 seed=0")).to_be_visible()
    expect(page.get_by_text("finished; best after epoch 3 of 3: 1.1000 bits/byte")).to_be_visible()
    assert_sound(opened, study)


def test_charts_show_all_trials(study, open_page):
    """The other view lists the trials, the best first, and draws a line for each one's epochs,
    under a title that can be read."""
    opened = open_page(study.server + page_of(study.tracker.experiment_id, TRIALS, charts=True))
    page = opened.page
    best = study.trial("hgrn2 lr=1e-2 seed=0")
    expect(row(page, best).first).to_have_attribute("row-index", "0")
    for title in ("val/bits_per_byte", "zero_shot/macro"):  # what is further down is not there yet
        heading = page.get_by_text(title, exact=True).first
        heading.scroll_into_view_if_needed()
        assert heading.evaluate("it => it.scrollWidth <= it.clientWidth"), f"{title} is cut"
    chart = page.locator(".js-plotly-plot").first
    finished = 2 * 2 * sum(map(math.isfinite, LRS.values()))
    page.wait_for_function(
        "([chart, count]) => new Set((chart.data || []).map(line => line.name)).size == count",
        arg=[chart.element_handle(), finished],
    )
    assert_sound(opened, study)


def test_the_same_again_changes_no_description(study):
    """Of neither study, sweeps nor trials; each has one."""
    first, second = study.notes
    assert first == second
    assert len(first) == 1 + 2 + 2 * 2 * len(LRS)
