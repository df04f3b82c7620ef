"""Models and figures after so many words, and branches whose best epoch another trial took."""

from __future__ import annotations

import contextlib
import gc
import json
import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from test_trial import (
    Killed,
    assert_same,
    final_parameters,
    kill_at,
    train,
    train_until_killed,
)

import models
from analysis.benchmarks import load_suite
from analysis.schema.milestone import MilestoneReport
from analysis.schema.typed import typed
from tests.made_study import made_scores
from trainables.checkpoint import TrialFolder
from trainables.corpus import Corpus
from trainables.milestones import (
    BABYLM,
    milestone_step,
    revision_of,
    steps_between,
    words_of,
    words_of_revision,
)
from trainables.trainer import Trainer, World
from trainables.trial import run_trial


def milestone_points(runtime, metric="blimp"):
    """(words, value) of every point of a metric of milestones in the one run."""
    (run,) = runtime.tracker.trial_runs()
    points = runtime.tracker.client.get_metric_history(run.info.run_id, f"milestone/{metric}")
    return sorted((point.step, point.value) for point in points)


def test_a_milestone_is_the_first_step_that_has_seen_the_words(tiny_spec, tiny_corpus):
    """One step fewer has not seen them, at the corpus's own words a token. Of a training that ends
    a little before it is the last step: batches leave words over."""
    words_a_step = 4 * 64 * tiny_corpus.train_words / tiny_corpus.train_tokens
    for words in (1, 500, 1000, 2500):
        step = milestone_step(tiny_spec, tiny_corpus, words, 64)
        assert (step - 1) * words_a_step < words <= step * words_a_step
    end = int(64 * words_a_step)
    assert milestone_step(tiny_spec, tiny_corpus, int(1.009 * end), 64) == 64
    assert milestone_step(tiny_spec, tiny_corpus, int(1.02 * end), 64) > 64


def test_a_milestone_at_an_epochs_end_is_measured_with_it(tiny_spec, tiny_corpus):
    """All others are measured besides, two after one step once, what is not reached never."""
    words_a_step = 4 * 64 * tiny_corpus.train_words / tiny_corpus.train_tokens
    words = [int(step * words_a_step) for step in (10, 32, 50, 64, 70)]
    steps = steps_between(tiny_spec, tiny_corpus, [words[0] - 1, *words], 64)
    assert steps == [10, 50]


def test_milestones_are_measured_once_and_change_nothing(
    tiny_spec, tiny_corpus, make_runtime, monkeypatch
):
    """Killed behind one milestone and run again, each is measured and recorded once, at its number
    of words, with the figures of a training that was not killed; also with dropout it ends with the
    bits, and the losses, of one without any."""
    spec, given = tiny_spec.replace(dropout=0.1), {"milestones": (2500, 1000)}
    plain, _, parameters = train(spec, make_runtime(spec, "plain"))
    whole, runtime = make_runtime(spec, "whole", **given), make_runtime(spec, "killed", **given)
    train(spec, whole)
    step = milestone_step(spec, tiny_corpus, 1000, 64)
    train_until_killed(spec, runtime, step + 2, monkeypatch)
    first = TrialFolder.of(runtime.study, spec).milestones
    scored = count_scorings(monkeypatch)
    outcome, _, resumed = train(spec, runtime)
    assert_same(resumed, parameters)
    assert [e.train_loss for e in outcome.history] == [e.train_loss for e in plain.history]
    kept = TrialFolder.of(runtime.study, spec).milestones
    assert (list(first), list(kept)) == ([1000], [1000, 2500])
    assert kept[1000] == first[1000]
    assert kept == TrialFolder.of(whole.study, spec).milestones
    assert scored == [milestone_step(spec, tiny_corpus, 2500, 64), 32, 64]
    assert milestone_points(runtime) == [
        (words, report.scores["benchmarks"]["blimp"]) for words, report in kept.items()
    ]
    for metric in ("val_loss", "bits_per_byte"):
        expected = [(words, getattr(report, metric)) for words, report in kept.items()]
        assert milestone_points(runtime, metric) == expected
    (run,) = runtime.tracker.trial_runs()
    figures = {words: report.bits_per_byte for words, report in kept.items()}
    assert runtime.tracker.milestones(run) == figures


def count_scorings(monkeypatch):
    """The steps after which the benchmarks are scored from now on."""
    steps, original = [], Trainer.score

    def counted(self):
        steps.append(self.progress.step)
        return original(self)

    monkeypatch.setattr(Trainer, "score", counted)
    return steps


def test_a_milestone_at_the_end_of_an_epoch_is_the_epoch(
    tiny_spec, tiny_corpus, make_runtime, monkeypatch
):
    """Its figures are the epoch's, scored once; its model is that of the epoch's checkpoint."""
    spec = tiny_spec.replace(epochs=1)
    words = tiny_corpus.train_words * 32 * 4 * 64 // tiny_corpus.train_tokens
    assert milestone_step(spec, tiny_corpus, words, 32) == 32
    runtime = make_runtime(spec, milestones=(words,))
    scored = count_scorings(monkeypatch)
    outcome, _, parameters = train(spec, runtime)
    assert scored == [32]
    folder, (epoch,) = TrialFolder.of(runtime.study, spec), outcome.history
    (report,) = folder.milestones.values()
    assert (report.val_loss, report.bits_per_byte) == (epoch.val_loss, epoch.bits_per_byte)
    assert report.scores["benchmarks"] == epoch.scores["benchmarks"]
    assert_same(load_file(folder.models[words] / "model.safetensors"), parameters)


def test_what_is_kept_of_a_milestone(tiny_spec, make_runtime, tiny_benchmark):
    """All but the values of items; of each group of tasks the standard error over its items, which
    is that of a benchmark of these alone. MLflow has the same in a file."""
    spec = tiny_spec.replace(epochs=1)
    runtime = make_runtime(spec, milestones=(1000,))
    train(spec, runtime)
    report = TrialFolder.of(runtime.study, spec).milestones[1000]
    assert not {"items", "outcomes"} & report.scores.keys()
    (run,) = runtime.tracker.trial_runs()
    file = runtime.tracker.client.download_artifacts(run.info.run_id, "scores/words-1000.json")
    assert typed(json.loads(Path(file).read_text()), MilestoneReport) == report
    suite = load_suite(tiny_benchmark, "2024")
    model = models.load(TrialFolder.of(runtime.study, spec).models[1000])
    scores = suite.evaluate(model, Corpus.open(runtime.corpus).tokenizer())
    assert scores.groups == report.scores["groups"]
    blimp = next(each for each in suite.benchmarks if each.name == "blimp")
    values = [value for task in scores.outcomes["blimp"].values() for value in task]
    for grouping, groups in scores.groups["blimp"].items():
        for group in groups:
            chosen = [i for i, item in enumerate(blimp.items) if (grouping, group) in item.groups]
            expected = blimp.part(chosen).error([values[i] for i in chosen])
            assert report.group_errors["blimp"][grouping][group] == pytest.approx(expected)


def test_an_older_versions_milestones_are_read(tiny_spec, tmp_path):
    """They were the scores alone."""
    folder, scores = TrialFolder.of(tmp_path, tiny_spec), made_scores()
    (folder.path / "milestones.json").write_text(json.dumps({"1000": scores}))
    folder.keep_milestone(500, MilestoneReport(2.0, 1.0))
    expected = {500: MilestoneReport(2.0, 1.0), 1000: MilestoneReport(scores=scores)}
    assert TrialFolder.of(tmp_path, tiny_spec).milestones == expected


def test_a_milestone_without_a_finite_loss_ends_nothing(tiny_spec, make_runtime, monkeypatch):
    """It has no figures; a training without milestones would go on, and so does this one."""
    spec = tiny_spec.replace(epochs=1)
    original = Trainer.validate
    monkeypatch.setattr(
        Trainer,
        "validate",
        lambda self: original(self) if self.progress.step == 32 else (math.nan, math.nan),
    )
    runtime = make_runtime(spec, milestones=(1000,))
    outcome, _, _ = train(spec, runtime)
    folder = TrialFolder.of(runtime.study, spec)
    assert (outcome.kind, folder.milestones, [*folder.models]) == ("finished", {}, [1000])


@pytest.mark.parametrize("loss", ["validation", "training", "parameters"])
def test_a_milestone_at_an_epoch_that_diverged_keeps_its_model(
    loss, tiny_spec, tiny_corpus, make_runtime, monkeypatch
):
    """As one within an epoch does, unless its parameters are no numbers; the trial's end is as
    without it."""
    spec = tiny_spec.replace(epochs=1)
    words = tiny_corpus.train_words * 32 * 4 * 64 // tiny_corpus.train_tokens
    step = Trainer.step

    def diverged(self):
        nats, norm = step(self)
        if loss == "parameters" and self.progress.step == 32:
            with torch.no_grad():
                next(self.model.parameters())[0] = math.nan
        return (nats * math.nan if self.progress.step == 32 else nats), norm

    if loss != "validation":
        monkeypatch.setattr(Trainer, "step", diverged)
    else:
        monkeypatch.setattr(Trainer, "validate", lambda self: (math.nan, math.nan))
    runtime = make_runtime(spec, milestones=(words,))
    outcome = run_trial(spec, runtime, lambda metrics: None)
    folder = TrialFolder.of(runtime.study, spec)
    assert (outcome.kind, folder.milestones) == ("diverged", {})
    assert [*folder.models] == ([] if loss == "parameters" else [words])


def files_of(folder: TrialFolder) -> dict[int, dict[str, bytes]]:
    """By words: the bytes of each file of the model that was kept, but for what tells of time."""
    return {
        words: {file.name: file.read_bytes() for file in path.iterdir() if file.name in BITS}
        for words, path in folder.models.items()
    }


BITS = ("model.safetensors", "config.json", "tokenizer.json", "spec.json")


def test_models_of_milestones_are_those_of_an_uninterrupted_training(
    tiny_spec, tiny_corpus, make_runtime, monkeypatch
):
    """To the bit: killed between two of them, and just after one; also without benchmarks, and in
    whichever order they are named. What is not the best epoch goes, they stay."""
    spec = tiny_spec.replace(benchmarks_hash="")
    given = {"milestones": (2500, 1000, 4000), "benchmarks": None}
    whole = make_runtime(spec, "whole", **given)
    train(spec, whole)
    expected = files_of(TrialFolder.of(whole.study, spec))
    assert [*expected] == [1000, 2500, 4000]
    figures = TrialFolder.of(whole.study, spec).milestones
    assert all(report.scores is None and report.val_loss > 0 for report in figures.values())
    assert all({*files} == {*BITS} for files in expected.values())
    assert len({files["model.safetensors"] for files in expected.values()}) == 3
    runtime = make_runtime(spec, "killed", **given)
    folder = TrialFolder.of(runtime.study, spec)
    first, second = (milestone_step(spec, tiny_corpus, words, 64) for words in (1000, 2500))
    train_until_killed(spec, runtime, (first + second) // 2, monkeypatch)
    assert [*folder.models] == [1000]
    train_until_killed(spec, runtime, second, monkeypatch)
    train(spec, runtime)
    folder.keep_best_only()
    assert files_of(folder) == expected
    assert folder.milestones == figures
    model = models.load(folder.models[1000])
    assert not list(folder.models[1000].glob("optimizer*"))
    assert all(torch.isfinite(each).all() for each in model.parameters())


def test_a_milestone_that_was_passed_is_told(tiny_spec, make_runtime, monkeypatch, caplog):
    """Asked for when the training is beyond it: there is no way back but from the start."""
    train_until_killed(tiny_spec, make_runtime(tiny_spec), 40, monkeypatch)
    train(tiny_spec, make_runtime(tiny_spec, milestones=(1000,)))
    told = caplog.text
    assert "was trained beyond chck_1K before these milestones were asked for" in told
    assert told.count("--study") == 1


@pytest.mark.parametrize(
    ("words", "name"),
    [(1, "1"), (1500, "1500"), (2000, "2K"), (10**6, "1M"), (10**9, "1000M"), (250_000, "250K")],
)
def test_models_are_called_as_the_challenge_calls_them(words, name):
    """In millions as far as they are whole; the name says the words."""
    assert revision_of(words) == f"chck_{name}"
    assert words_of_revision(f"chck_{name}") == words_of(name) == words


@pytest.mark.parametrize(
    ("text", "words"), [("1000000", 10**6), ("1M", 10**6), ("2.5k", 2500), ("1B", 10**9)]
)
def test_numbers_of_words(text, words):
    """Plain, or with K, M or B."""
    assert words_of(text) == words


@pytest.mark.parametrize("name", ["step-00000100", "chck_", "chck_M", "chck_0M", "chck_1T"])
def test_other_folders_are_no_milestones(name):
    assert words_of_revision(name) is None


def test_the_challenge_asks_for_28_checkpoints():
    """1 to 10, to 100, and to 1,000 million words, each by its tenth."""
    assert [words // 10**6 for words in BABYLM] == [
        *range(1, 10),
        *range(10, 100, 10),
        *range(100, 1001, 100),
    ]


def test_milestones_are_recorded_again_in_an_empty_store(tiny_spec, make_runtime, monkeypatch):
    """An ended trial whose run was deleted gets its milestones back from its folder."""
    spec = tiny_spec.replace(epochs=1)
    runtime = make_runtime(spec, milestones=(1000,))
    train(spec, runtime)
    before = milestone_points(runtime)
    (run,) = runtime.tracker.trial_runs()
    runtime.tracker.client.delete_run(run.info.run_id)
    kill_at(monkeypatch, 0)
    train(spec, runtime)
    assert milestone_points(runtime) == before != []


@pytest.mark.slow
def test_a_branch_keeps_the_best_epoch_of_its_trunk(tiny_spec, make_runtime, monkeypatch):
    """Where no epoch of its own is better, the best checkpoint is the one that a trial trained from
    the start would have."""
    losses = {32: 1.0, 64: 2.0, 96: 3.0}
    monkeypatch.setattr(Trainer, "validate", lambda self: (losses[self.progress.step],) * 2)
    long = tiny_spec.replace(schedule="wsd", warmup_steps=5, decay=0.2, epochs=3)
    short = long.replace(epochs=2)
    alone = make_runtime(short, "alone")
    train(short, alone)
    runtime = make_runtime(long, "shared", trunk_steps=(50,))
    train(long, runtime)
    runtime = make_runtime(short, "shared")
    outcome, _, parameters = train(short, runtime)
    folder = TrialFolder.of(runtime.study, short)
    assert (folder.began, outcome.checkpoint) == (50, "step-00000032")
    assert_same(parameters, final_parameters(short, alone))
    expected = TrialFolder.of(alone.study, short).best_checkpoint / "model.safetensors"
    assert (folder.best_checkpoint / "model.safetensors").read_bytes() == expected.read_bytes()


def test_a_branch_killed_and_run_again_began_where_it_did(tiny_spec, make_runtime, monkeypatch):
    """What a trial took over is noted once; the trial that left it took all of its own steps."""
    long = tiny_spec.replace(schedule="wsd", warmup_steps=5, decay=0.2, epochs=3)
    runtime = make_runtime(long, trunk_steps=(20, 40))
    train_until_killed(long, runtime, 45, monkeypatch)
    train(long, runtime)
    assert TrialFolder.of(runtime.study, long).began == 0
    short = long.replace(epochs=1)
    train(short, make_runtime(short))
    assert TrialFolder.of(runtime.study, short).began == 20


def share(rank: int, rendezvous: str, last_step: int, spec, runtime):
    """Train as one of two workers, to the end or until a kill."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, last_step)
        with contextlib.suppress(Killed):
            run_trial(spec, runtime, lambda metrics: None, World(rank, 2))
    gc.collect()
    dist.destroy_process_group()


@pytest.mark.slow
def test_workers_measure_a_milestone_together(tiny_spec, tiny_corpus, make_runtime, tmp_path):
    """Killed behind it, all of them go past it again, and none waits for another; the figures are
    those of one worker but for rounding."""
    spec, given = tiny_spec.replace(epochs=1), {"milestones": (1000, 2000)}
    alone, shared = make_runtime(spec, "alone", **given), make_runtime(spec, "shared", **given)
    train(spec, alone)
    folders = [TrialFolder.of(runtime.study, spec) for runtime in (alone, shared)]
    kills = (milestone_step(spec, tiny_corpus, 1000, 32) + 1, 10**6)
    for kill in kills:
        rendezvous = (tmp_path / f"rendezvous-{kill}").as_uri()
        torch.multiprocessing.spawn(share, (rendezvous, kill, spec, shared), nprocs=2)
        assert [*folders[1].milestones] == ([1000] if kill == kills[0] else [1000, 2000])
    expected, found = (folder.milestones for folder in folders)
    for words, report in found.items():
        assert report.val_loss == pytest.approx(expected[words].val_loss, rel=1e-5)
