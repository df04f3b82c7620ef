"""`python sweeps/submit.py`: the challenge's layout, each model scored once, what is missing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pytest
from rich.console import Console

from analysis.benchmarks.kinds import ALL_KINDS
from analysis.errors import EXIT_FAILED
from sweeps.arguments import EvaluateArgs, SubmitArgs
from sweeps.engine.scoring.workers import Scoring
from sweeps.findings.submit import show_submission
from sweeps.plans import submit as planning
from sweeps.plans.milestones import ended_without
from sweeps.plans.submit import plan_submission
from sweeps.running import submission as running
from sweeps.submit import main, run_submission
from tests.analysis.benchmark_files import write_blimp
from tests.contracts.benchmark_folders import write_folder
from tests.tiny_text import write_tiny_text
from tests.trainables.conftest import runtime_in, spec_of
from trainables.checkpoint import TrialFolder
from trainables.corpus import Corpus, prepare_corpus
from trainables.trial import run_trial

KINDS = {kind.name: kind for kind in ALL_KINDS}
FAST = {"blimp": "blimp_fast", "supplement": "supplement_fast", "ewok": "ewok_fast"}
FULL = {name: folder.replace("fast", "filtered") for name, folder in FAST.items()}
BOTH = {
    "wug": "wug_adj_nominalization",
    "wug_past": "wug_past_tense",
    "reading": "reading",
    "global_piqa_parallel": "global_piqa_parallel",
    "global_piqa_nonparallel": "global_piqa_nonparallel",
}
FOLDERS = {
    "fast_eval": {**FAST, **BOTH, "entity_tracking": "entity_tracking_fast"},
    "full_eval": {**FULL, **BOTH, "entity_tracking": "entity_tracking", "comps": "comps"},
}
"""By folder and kind of benchmark: what the challenges of 2025 and 2026 call it."""
NOTHING = {"input_prefix": "zebra", "options": [" a", " nothing."], "numops": 1}
OF_A_YEAR = {
    "2025": {"wug_adj/wug_adj_nominalization", "wug_past/wug_past_tense"},
    "2026": {f"global_piqa_{way}/global_piqa_{way}" for way in ("parallel", "nonparallel")},
}
GLUE = {"boolq", "mnli", "mrpc", "multirc", "qqp", "rte", "wsc"}


def looked_for(protocol: str, *, is_main: bool) -> set[str]:
    """What the challenge's reader looks for of a model (babylm-org/babylm-eval, strict/
    evaluation_pipeline/collate_preds.py, `_check_validity_of_dir` and `collate_full_eval_preds`; of
    2025 as commit 45fe2c1 still has it, of 2026 as of a66e05d)."""
    end = "filtered" if is_main else "fast"
    tasks = {f"blimp/blimp_{end}", f"blimp/supplement_{end}", f"ewok/ewok_{end}", "reading"}
    tasks.add(f"entity_tracking/entity_tracking{'' if is_main else '_fast'}")
    tasks |= OF_A_YEAR[protocol] | ({"comps/comps"} if is_main else set())
    files = {f"zero_shot/causal/{task}/predictions.json" for task in tasks}
    if is_main:
        files |= {f"finetune/{task}/predictions.json" for task in GLUE}
        files.add("zero_shot/causal/AoA_word/surprisal.json")
    if is_main and protocol == "2026":
        files.add("zero_shot/causal/AoA_word/aoa_score.json")
    return files


def possible(kind: str, file: Path, row: dict[str, Any]) -> tuple[str, list[str]] | None:
    """Key and texts of one of which a row's prediction is, by the reader of 2026 (a66e05d, besides
    the above sentence_zero_shot/read_files.py); None for a row that it leaves out."""
    if kind in ("blimp", "supplement"):
        return file.stem, [row["sentence_good"], row["sentence_bad"]]
    if kind == "ewok":
        return file.stem, [f"{row[side]} {row['Target1']}" for side in ("Context1", "Context2")]
    if kind == "comps":
        subset = {"comps_base": "base", "comps_wugs_dist-before": "wugs_dist_before"}[file.stem]
        sides = [row[f"prefix_{side}"] for side in ("acceptable", "unacceptable")]
        return subset, [f"{side} {row['property_phrase']}" for side in sides]
    if kind == "entity_tracking":
        if any("nothing" in option for option in row["options"]):
            return None
        return f"{file.stem}_{row['numops']}_ops", row["options"]
    solutions = range(4 if kind == "global_piqa_parallel" else 2)
    return row["example_id"], [row[f"solution{n}"] for n in solutions]


def check_as_in_2026(predictions: Path, kind: str, data: Path) -> None:
    """Every key is there and no other, with a prediction for each row, which it has."""
    found = json.loads(predictions.read_text())
    if kind == "reading":
        (file,) = data.glob("*.csv")
        entries = found.pop("reading")["predictions"]
        assert not found
        assert [each["id"] for each in entries] == list(range(len(pd.read_csv(file))))
        assert all(each["pred"] > 0 for each in entries)
        return
    expected: dict[str, list[list[str]]] = {}
    for file in data.glob("*.jsonl"):
        for line in file.read_text().splitlines():
            if wanted := possible(kind, file, json.loads(line)):
                expected.setdefault(wanted[0], []).append([text.strip() for text in wanted[1]])
    assert found.keys() == expected.keys()
    for key, rows in expected.items():
        entries = found[key]["predictions"]
        assert [each["id"] for each in entries] == [f"{key}_{n}" for n in range(len(rows))]
        for each, texts in zip(entries, rows, strict=True):
            assert each["pred"].strip() in texts


WORDS = {"zebra": [{"context": "a"}, {"context": "the small"}], "x": [{"context": "a"}]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with one trial that kept its model after 1,000 and 2,500 words."""
    folder = tmp_path_factory.mktemp("submission")
    (folder / "text").mkdir()
    write_tiny_text(folder / "text")
    write_blimp(folder / "data" / "blimp_fast")
    corpus = prepare_corpus(str(folder / "text"), vocab_size=280, cache=folder / "corpora")
    spec = spec_of(corpus, folder / "data")
    runtime = runtime_in(folder, corpus, folder / "data", spec, milestones=(1000, 2500))
    run_trial(spec, runtime, lambda metrics: None)
    return folder


@pytest.fixture
def evaluation_data(tmp_path: Path) -> Path:
    """The challenge's folders, small."""
    for depth, folders in FOLDERS.items():
        place = tmp_path / "evaluation_data" / depth
        place.mkdir(parents=True)
        for name, folder in folders.items():
            write_folder(KINDS[name], place).rename(place / folder)
            (place / folder / "nld_latn.jsonl").unlink(missing_ok=True)
            if name == "entity_tracking":
                with (place / folder / "regular.jsonl").open("a") as file:
                    file.write(json.dumps(NOTHING) + "\n")
    learned = tmp_path / "evaluation_data" / "full_eval" / "aoa"
    learned.mkdir()
    (learned / "cdi_childes.json").write_text(json.dumps(WORDS))
    ages = {str(age): [0.05 * (age - 15)] for age in range(16, 31)}
    pd.DataFrame({"word": ["zebra"], **ages}).to_csv(learned / "cdi_human.csv", index=False)
    return tmp_path / "evaluation_data"


@pytest.fixture
def args(
    trained: Path, evaluation_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SubmitArgs:
    """Of a submission without GLUE, for a challenge that asks for models after fewer words."""
    monkeypatch.setattr(planning, "BABYLM", (1000, 2500, 4000, 10**6))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (trial,) = (trained / "study" / "trials").iterdir()
    return SubmitArgs(
        run=trial.name,
        folder=tmp_path / "results",
        benchmarks=str(evaluation_data),
        name="mine",
        glue=False,
        storage=trained,
    )


@pytest.mark.parametrize("protocol", ["2025", "2026"])
def test_files_lie_as_the_challenges_pipeline_leaves_them(
    protocol: Literal["2025", "2026"],
    args: SubmitArgs,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of each model in its revision's folder; what is missing is told, and a status of its own.
    What is there is not made again, and with the rest nothing is missing."""
    args = replace(args, protocol=protocol)
    assert run_submission(args) == EXIT_FAILED
    said = capsys.readouterr().out
    place = args.folder / "mine"
    assert {path.name for path in place.iterdir()} == {"main", "chck_1K", "chck_2500"}
    plan = plan_submission(args)
    assert plan.missing("chck_1K") == plan.missing("chck_2500") == []
    of_glue = [Path("finetune") / task / "predictions.json" for task in sorted(GLUE)]
    assert plan.missing("main") == of_glue
    for revision in ("main", "chck_1K", "chck_2500"):
        written = (place / revision).rglob("zero_shot/**/*.json")
        files = {file.relative_to(place / revision) for file in written}
        files |= set(of_glue if revision == "main" else ())
        assert set(map(str, files)) == looked_for(protocol, is_main=revision == "main")
        assert {str(file) for file in plan.wanted(revision)} == set(map(str, files))
    assert f"Challenge of {protocol}, track strict-small" in said
    assert "finetune/wsc" in said
    assert "Not kept on the way: 1 model." in said
    assert "chck_4K" in said
    assert "chck_1M" not in said  # so many words were not seen
    assert "The training saw 6,9" in said
    assert "The challenge allows" not in said
    show_submission(replace(plan, epochs=11), (), Console(width=1000))
    assert "The challenge allows 10 epochs of its corpus, these are 11" in capsys.readouterr().out
    assert "1 model that the track asks for come later" in said
    does = {"2025": "wants all", "2026": "then leaves out the surprisals of all words"}
    assert f"collate_preds {does[protocol]}, unless" in " ".join(said.split())
    reading = json.loads((place / "chck_1K/zero_shot/causal/reading/predictions.json").read_text())
    assert len(reading["reading"]["predictions"]) == 40
    for file in of_glue:
        (place / "main" / file).parent.mkdir(parents=True)
        (place / "main" / file).write_text("{}")
    monkeypatch.setattr(planning, "BABYLM", (1000, 2500))
    monkeypatch.setattr("sweeps.evaluate.run_evaluation", None)  # nothing is scored any more
    assert run_submission(args) == 0
    assert capsys.readouterr().out.count("done, nothing has changed") == 3


def test_predictions_are_those_that_the_reader_of_2026_wants(args: SubmitArgs) -> None:
    """Each key of each file, of the best model and of one on the way."""
    run_submission(args)
    for revision, depth in (("main", "full_eval"), ("chck_1K", "fast_eval")):
        place = args.folder / "mine" / revision / "zero_shot/causal"
        for kind, folder in FOLDERS[depth].items():
            task = {"supplement": "blimp", "reading": "."}.get(kind, kind)
            if not kind.startswith("wug"):
                file = place / task / folder / "predictions.json"
                check_as_in_2026(file, kind, Path(args.benchmarks) / depth / folder)
    score = args.folder / "mine/main/zero_shot/causal/AoA_word/aoa_score.json"
    assert json.loads(score.read_text()) == {"aoa": 0.0}  # of one word


def test_every_word_has_a_surprisal_by_every_model(args: SubmitArgs) -> None:
    """From that which has seen least, with the words that it has seen."""
    run_submission(args)
    file = args.folder / "mine/main/zero_shot/causal/AoA_word/surprisal.json"
    entries = json.loads(file.read_text())["results"]
    assert [(e["step"], e["word_count"], e["context_id"]) for e in entries] == [
        *(("chck_1K", 1000, number) for number in (0, 1)),
        *(("chck_2500", 2500, number) for number in (0, 1)),
    ]
    assert all(entry["surprisal"] > 0 for entry in entries)
    assert len({entry["surprisal"] for entry in entries}) == 4


class Evaluations:
    """In place of the command that scores a model: writes one prediction, or fails."""

    def __init__(self, *statuses: int) -> None:
        self.asked: list[str] = []
        self._statuses = list(statuses)

    def __call__(self, evaluation: EvaluateArgs) -> int:
        assert evaluation.output is not None
        self.asked.append(evaluation.output.name)
        if status := self._statuses.pop(0) if self._statuses else 0:
            return status
        file = evaluation.output / "zero_shot/causal/reading/predictions.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
        return 0


ALL = ["main", "chck_1K", "chck_2500"]


def test_a_model_is_scored_again_where_anything_is_another(args: SubmitArgs) -> None:
    """The flags, the benchmarks, or predictions that are gone; else not."""
    evaluate = Evaluations()
    assert running.submit(args, evaluate) == EXIT_FAILED
    assert evaluate.asked == ALL
    running.submit(args, evaluate)
    assert evaluate.asked == ALL
    args = replace(args, precision="bf16")
    running.submit(args, evaluate)
    assert evaluate.asked == ALL * 2
    (args.folder / "mine/chck_1K/zero_shot/causal/reading/predictions.json").unlink()
    running.submit(args, evaluate)
    assert evaluate.asked == [*ALL * 2, "chck_1K"]
    (Path(args.benchmarks) / "fast_eval" / "blimp_fast" / "more.jsonl").write_text("{}")
    running.submit(args, evaluate)
    assert evaluate.asked == [*ALL * 2, "chck_1K", "chck_1K", "chck_2500"]


def test_flags_of_a_stopped_evaluation_are_not_forgotten(args: SubmitArgs) -> None:
    """Predictions by other flags that were begun, and not finished, stand in the way of "done"."""
    evaluate = Evaluations()
    running.submit(args, evaluate)
    assert running.submit(replace(args, precision="bf16"), Evaluations(130)) == 130
    running.submit(args, evaluate)
    assert evaluate.asked == [*ALL, "main"]


def test_what_another_model_said_goes(args: SubmitArgs, trained: Path) -> None:
    """Under the same name; but nothing that this command did not make."""
    place = args.folder / "mine" / "main"
    running.submit(args, Evaluations())
    old = place / "finetune" / "wsc" / "predictions.json"
    old.parent.mkdir(parents=True)
    old.write_text("{}")
    mark = json.loads((place / "scored.json").read_text())
    (place / "scored.json").write_text(json.dumps({**mark, "model": "another", "inputs": "others"}))
    running.submit(args, Evaluations())
    assert not old.exists()
    (place / "scored.json").unlink()
    assert running.submit(args, Evaluations()) == 2
    assert (place / "zero_shot").exists()


def test_another_years_submission_is_refused(
    args: SubmitArgs, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whichever model's it is, before any scoring; nothing of it is touched."""
    running.submit(args, Evaluations())
    mark = args.folder / "mine" / "chck_1K" / "scored.json"
    before = mark.read_text()
    evaluate = Evaluations()
    assert running.submit(replace(args, protocol="2025"), evaluate) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "holds a submission to the challenge of 2026, not of 2025: give another DIR" in said
    assert "or --protocol 2026" in said
    assert evaluate.asked == []
    assert mark.read_text() == before


def test_benchmarks_that_are_not_there_are_named(
    args: SubmitArgs, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that the year asks for, no others: GlobalPIQA comes by a download of its own."""
    for folder in ("fast_eval/global_piqa_parallel", "full_eval/comps", "full_eval/wug_past_tense"):
        shutil.rmtree(Path(args.benchmarks) / folder)
    (Path(args.benchmarks) / "full_eval" / "aoa" / "cdi_human.csv").unlink()
    running.submit(args, Evaluations())
    said = " ".join(capsys.readouterr().out.split())
    assert "fast_eval/global_piqa_parallel, full_eval/comps. The README" in said
    assert "wug" not in said
    assert "No score of the age of acquisition" in said


def test_a_failed_evaluation_keeps_no_other_from_its_turn(
    args: SubmitArgs, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told, and comes again; what would be wrong with all of them ends it."""
    evaluate = Evaluations(EXIT_FAILED)
    assert running.submit(args, evaluate) == EXIT_FAILED
    assert evaluate.asked == ALL
    assert "its evaluation failed, see above" in " ".join(capsys.readouterr().out.split())
    running.submit(args, evaluate)
    assert evaluate.asked == [*ALL, "main"]
    evaluate = Evaluations(2)
    assert running.submit(replace(args, precision="bf16"), evaluate) == 2
    assert evaluate.asked == ["main"]


def test_surprisals_of_a_model_are_kept(args: SubmitArgs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are many, and words, too: only a missing one's are made anew."""
    running.submit(args, Evaluations())
    file = args.folder / "mine/main/zero_shot/causal/AoA_word/surprisal.json"
    before = json.loads(file.read_text())
    (args.folder / "mine" / "chck_1K" / "words.json").unlink()
    loaded: list[str] = []
    load = Scoring.load
    monkeypatch.setattr(
        Scoring, "load", lambda self: (loaded.append(Path(self.model).name), load(self))[1]
    )
    running.submit(args, Evaluations())
    assert loaded == ["chck_1K"]
    assert json.loads(file.read_text()) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "hgrn2-v1.0"}, "--name is of letters, digits, - and _, not 'hgrn2-v1.0'"),
        ({"run": "0123456789abcdef"}, "RUN: no run or trial is called '0123456789abcdef'"),
        ({"run": "nothing"}, "RUN: no run or trial is called 'nothing'"),
        ({"benchmarks": "full_eval"}, "has no fast_eval/ in it: give the challenge's"),
        ({"storage": Path("nowhere")}, "nowhere"),
    ],
)
def test_what_cannot_be_is_refused(
    change: dict, message: str, args: SubmitArgs, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what to give instead; status 2."""
    if "benchmarks" in change:
        change = {"benchmarks": f"{args.benchmarks}/{change['benchmarks']}"}
    assert run_submission(replace(args, **change)) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_sweeps_own_run_is_refused(
    args: SubmitArgs, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has no model."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{trained / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("study")
    (parent,) = client.search_runs([experiment.experiment_id], "tags.`babysweep.kind` = 'sweep'")
    words = [parent.info.run_id, str(args.folder), "--benchmarks", args.benchmarks]
    assert main([*words, "--storage", str(trained)]) == 2
    assert "is no trial's run" in capsys.readouterr().err


def test_trials_that_ended_without_a_milestone_are_found(args: SubmitArgs, trained: Path) -> None:
    """Those that came to it; also where it lies a little beyond their end."""
    trial = TrialFolder(trained / "study" / "trials" / args.run)
    (place,) = (trained / "corpora").glob("*/corpus.json")
    corpus = Corpus.open(place.parent)
    for milestones, lacks in (((1000, 2500), False), ((1000, 4000), True), ((10**6,), False)):
        assert ended_without([trial], corpus, milestones) == ([trial] if lacks else [])
    assert ended_without([trial], corpus, [7000]) == [trial]


def test_the_name_is_the_trials_by_default(args: SubmitArgs, trained: Path) -> None:
    plan = plan_submission(replace(args, name=None))
    assert plan.place.name == f"lstm-{args.run}"
