"""Reading a study, and which of its trials belong together."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from analysis.benchmarks import Benchmark, Item, Suite
from analysis.epochs import best_horizon
from analysis.reporting.sections.epoch_study import epoch_study_data
from analysis.study import (
    OldScoresError,
    Study,
    chance_of_macro,
    compared,
    final_scores,
    is_plain,
    setting,
)
from sweeps.findings import common
from tests.made_study import MadeStudy, base_spec, made_scores, suite
from trainables.checkpoint import TrialFolder

LRS, SEEDS = (3e-3, 1e-2, 3e-2), (0, 1)
TEACHER = {"teacher": "abcd", "teacher_name": "hgrn2 version 1", "alpha": 0.5}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A sweep of two architectures, branches of three lengths, and students."""
    made = MadeStudy(tmp_path_factory.mktemp("study"))
    made.sweep(["mamba", "hgrn2"], LRS, SEEDS)
    branch = {"schedule": "wsd", "warmup_steps": 10}
    branches = [base_spec(seed=s, epochs=e, **branch) for e in (1, 2, 4) for s in SEEDS]
    made.add(branches, kind="epoch study")
    made.add([base_spec(seed=seed, **TEACHER) for seed in SEEDS], kind="distillation")
    return Study.open(made.uri, "study", "http://127.0.0.1:5000/")


def test_the_sweep_is_what_compares_the_most(study: Study) -> None:
    """Neither branches nor students enter the comparison of architectures and rates."""
    sweep = compared(study.trials)
    assert len(study.trials) == 12 + 6 + 2
    assert len(sweep) == 12
    assert set(sweep["schedule"]) == {"linear"}
    assert (~is_plain(study.trials)).sum() == 2


def test_tokens_and_hours_are_counted_by_epoch(study: Study) -> None:
    """After two of three epochs: two thirds of all steps, each of batch times context tokens."""
    run_id = compared(study.trials)["run_id"].iloc[0]
    mine = study.epochs[study.epochs["run_id"] == run_id].set_index("epoch")
    assert mine.loc[2, "tokens"] == 2 * 100 * 32 * 64
    assert mine.loc[2, "hours"] == pytest.approx(2 * 12 / 3600)


def test_scores_are_read_with_their_items(study: Study) -> None:
    """The scores after an epoch come from the run's artifacts; of an epoch that was not, none."""
    run_id = compared(study.trials)["run_id"].iloc[0]
    scores = study.scores(run_id, 3)
    assert scores is not None
    assert scores["items"].keys() == scores["outcomes"].keys()
    assert study.scores(run_id, 7) is None


def test_epochs_are_studied_by_each_design(study: Study) -> None:
    """Branches stand for their own length, the longest whole trial for each of its epochs."""
    found = epoch_study_data(study)
    assert found is not None
    counts = found.scores.groupby("design")["horizon"].unique().map(sorted).to_dict()
    assert counts == {"branch": [1, 2, 4], "trajectory": [1, 2, 3]}
    assert set(found.trials["lr"]) == {1e-2}
    at = found.scores.set_index(["design", "horizon", "seed"])
    trial = found.trials[(found.trials["epochs"] == 4) & (found.trials["seed"] == 1)].iloc[0]
    of_trial = study.epochs[study.epochs["run_id"] == trial["run_id"]].set_index("epoch")
    assert at.loc[("branch", 4, 1), "bits_per_byte"] == of_trial.loc[4, "bits_per_byte"]


def test_links_lead_to_the_run(study: Study) -> None:
    """The address is that of MLflow's page of the run."""
    assert study.link("abc") == (
        f"http://127.0.0.1:5000/#/experiments/{study.experiment_id}/runs/abc?workflowType=machine_learning"
    )


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    """No such study, and a study without trials: each error says what there is, or what to do."""
    made = MadeStudy(tmp_path)
    made.tracker([base_spec()])
    with pytest.raises(ValueError, match="no study 'other' in .*study"):
        Study.open(made.uri, "other", "")
    with pytest.raises(ValueError, match=r"study 'study' in .* has no trial yet: run .*lr_sweep"):
        Study.open(made.uri, "study", "")


def test_a_server_that_is_not_there_is_said_to_be_so() -> None:
    """The message names the store, in seconds."""
    with pytest.raises(ValueError, match=r"store http://127.0.0.1:9 cannot be used") as caught:
        Study.open("http://me:secret@127.0.0.1:9", "study", "")
    assert "secret" not in str(caught.value)


def test_trials_older_than_a_parameter_belong_with_the_new_ones(tmp_path: Path) -> None:
    """A parameter that a version added, at its default, does not take a sweep apart."""
    made = MadeStudy(tmp_path, suite=None)
    old = made.add([base_spec("mamba", seed=seed) for seed in SEEDS])
    made.add([base_spec("mamba", seed=2)])
    later = "('warmup_steps', 'decay', 'revision', 'teacher', 'alpha', 'reverse_kl', 'init')"
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        store.executemany(
            f"DELETE FROM params WHERE run_uuid = ? AND key IN {later}", [(it,) for it in old]
        )
    trials = Study.open(made.uri, "study", "").trials
    assert len(trials) == 3
    assert setting(trials).nunique() == 1


def test_only_trials_that_differ_in_length_are_one_design(tmp_path: Path) -> None:
    """Beside linear trials of three lengths a cosine one, and beside branches those of another
    warm-up, are no second trial of the same seed and length."""
    made = MadeStudy(tmp_path, suite=None)
    branch = {"schedule": "wsd", "warmup_steps": 10}
    others = [base_spec(epochs=3, schedule="cosine"), base_spec(epochs=2, warmup=0.1)]
    others += [base_spec(epochs=e, schedule="wsd", warmup_steps=20) for e in (2, 4)]
    made.add([base_spec(epochs=epochs, seed=s) for epochs in (1, 2, 3) for s in SEEDS])
    made.add([base_spec(epochs=e, **branch) for e in (1, 2, 4)], kind="epoch study")
    ours = set(Study.open(made.uri, "study", "").trials["run_id"])
    made.add(others, kind="other")
    found = epoch_study_data(Study.open(made.uri, "study", ""))
    assert found is not None
    assert set(found.trials["run_id"]) == ours
    counts = found.scores.groupby("design")["horizon"].unique().map(sorted).to_dict()
    assert counts == {"branch": [1, 2, 4], "independent": [1, 2, 3], "trajectory": [1, 2, 3]}
    assert all(best_horizon(found.scores, design).horizon for design in counts)


def piqa_suite(protocol: str) -> Suite:
    """Benchmarks of two options, and of four: of the macro of 2026, by half."""
    four = tuple(Item("en", tuple(f"{n} {option}" for option in range(4))) for n in range(40))
    pairs = suite({"blimp": {"binding": 40}}).benchmarks
    return Suite((*pairs, Benchmark("global_piqa_parallel", four)), protocol)


def test_the_macros_chance_is_that_of_its_benchmarks(tmp_path: Path) -> None:
    """By the protocol's weights; by stored scores of every version that tell of chance. The report
    and the pictures in MLflow draw the same."""
    for protocol, level in (("2024", 50.0), ("2026", (50 + 25 / 2) / 1.5)):
        made = MadeStudy(tmp_path / protocol, suite=piqa_suite(protocol))
        spec = base_spec()
        made.add([spec])
        study = Study.open(made.uri, "study", "")
        assert chance_of_macro(study.client, study.trials) == pytest.approx(level)
        folder = TrialFolder.of(tmp_path / protocol / "study", spec)
        folder.finish(folder.outcome_of("finished", [made.report(spec, 1, 0.0)], ""))
        plan: Any = SimpleNamespace(folder=tmp_path / protocol / "study", bases={"hgrn2": spec})
        assert common.macro_chance_of(plan) == pytest.approx(level)


def test_the_macros_chance_in_scores_of_older_versions(tmp_path: Path) -> None:
    """Those without protocol and items are of the first macro; some tell nothing of chance."""
    made = MadeStudy(tmp_path, suite=piqa_suite("2024"))
    made.add([base_spec(epochs=1)])
    study = Study.open(made.uri, "study", "")
    file = next(tmp_path.rglob("scores/epoch-001.json"))
    scores = json.loads(file.read_text())
    for gone in ("items", "protocol"):
        del scores[gone]
        file.write_text(json.dumps(scores))
        assert chance_of_macro(study.client, study.trials) == 50.0
    del scores["chance"]
    file.write_text(json.dumps(scores))
    assert chance_of_macro(study.client, study.trials) is None
    assert chance_of_macro(study.client, study.trials.assign(macro=None)) is None


def test_scores_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """A torn file, and one of an older version: the message has the run, and which file."""
    made = MadeStudy(tmp_path)
    run_id = made.add([base_spec()])[0]
    study = Study.open(made.uri, "study", "")
    file = next(tmp_path.rglob("scores/epoch-002.json"))
    file.write_text("{}")
    with pytest.raises(OldScoresError, match=run_id):
        study.scores(run_id, 2)
    file.write_text('{"items"')
    with pytest.raises(ValueError, match=f"scores/epoch-002.json of run {run_id} cannot be read"):
        study.scores(run_id, 2)


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ({"zero_shot": {**made_scores(), "macro": "x"}}, "zero_shot.macro is a text"),
        ({"glue": {"rte": {"score": 50.0, "error": 1.0}}}, "glue.rte: a score without its base"),
    ],
)
@pytest.mark.parametrize("file", ["final.json", "eval/scores.json"])
def test_damaged_final_scores_are_named(
    tmp_path: Path, file: str, content: dict[str, Any], place: str
) -> None:
    """With their run, the file and the place in it."""
    made = MadeStudy(tmp_path)
    client = made.tracker([]).client
    run_id = made.add([base_spec()])[0]
    client.log_dict(run_id, content, file)
    with pytest.raises(ValueError, match=f"{file} of run {run_id} is damaged: {place}"):
        final_scores(client, run_id)
