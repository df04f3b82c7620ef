"""Scores after so many words, and branches whose best epoch another trial took."""

from __future__ import annotations

import pytest
from test_trial import assert_same, final_parameters, kill_at, train, train_until_killed

from trainables.checkpoint import TrialFolder
from trainables.trainer import Trainer
from trainables.trial import milestone_step


def milestone_points(runtime):
    """(words, score) of every point of the one benchmark in the one run."""
    (run,) = runtime.tracker.trial_runs()
    points = runtime.tracker.client.get_metric_history(run.info.run_id, "milestone/blimp")
    return sorted((point.step, point.value) for point in points)


def test_a_milestone_is_the_first_step_that_has_seen_the_words(tiny_spec, tiny_corpus):
    """One step fewer has not seen them, at the corpus's own words a token."""
    words_a_step = 4 * 64 * tiny_corpus.train_words / tiny_corpus.train_tokens
    for words in (1, 500, 1000, 2500):
        step = milestone_step(tiny_spec, tiny_corpus, words)
        assert (step - 1) * words_a_step < words <= step * words_a_step


def test_milestones_are_scored_once_and_change_nothing(
    tiny_spec, tiny_corpus, make_runtime, monkeypatch
):
    """Killed behind one milestone and run again, each is recorded once, at its number of words, and
    the training ends with the bits, and the losses, of one without any."""
    plain, _, parameters = train(tiny_spec, make_runtime(tiny_spec, "plain"))
    runtime = make_runtime(tiny_spec, "milestones", milestones=(2500, 1000))
    step = milestone_step(tiny_spec, tiny_corpus, 1000)
    train_until_killed(tiny_spec, runtime, step + 2, monkeypatch)
    outcome, _, resumed = train(tiny_spec, runtime)
    assert_same(resumed, parameters)
    assert [e.train_loss for e in outcome.history] == [e.train_loss for e in plain.history]
    kept = TrialFolder.of(runtime.study, tiny_spec).milestones
    assert list(kept) == [1000, 2500]
    assert milestone_points(runtime) == [
        (words, scores["benchmarks"]["blimp"]) for words, scores in kept.items()
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
