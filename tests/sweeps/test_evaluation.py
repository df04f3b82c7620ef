"""`python sweeps/evaluate.py`: what it scores, writes and records, and what it refuses."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from rich.console import Console
from transformers import AutoModelForCausalLM, BertConfig, GPT2Config, PreTrainedConfig

import models
from analysis import store
from analysis.benchmarks import load_suite
from analysis.command_line import parse
from analysis.errors import EXIT_FAILED, without_secrets
from sweeps.arguments import EvaluateArgs
from sweeps.engine.scoring import workers
from sweeps.engine.scoring.workers import Scoring
from sweeps.engine.watch import RayDied
from sweeps.evaluate import run_evaluation
from sweeps.plans import evaluate as planning
from sweeps.plans.evaluate import plan_evaluation
from sweeps.running import evaluation
from tests.analysis.benchmark_files import write_blimp, write_supplement
from tests.empty_store import empty_store
from tests.processes import exit_status
from tests.tiny_text import write_tiny_text
from trainables.corpus import prepare_corpus
from trainables.launches import ScoringWork

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained mini transformer with a context of 16 tokens, saved like a checkpoint."""
    folder = tmp_path_factory.mktemp("evaluation")
    (folder / "text").mkdir()
    write_tiny_text(folder / "text")
    corpus = prepare_corpus(str(folder / "text"), vocab_size=280, cache=folder / "corpora")
    tokenizer = corpus.tokenizer()
    torch.manual_seed(0)
    config = models.build_config(
        "transformer",
        "mini",
        vocab_size=corpus.vocab_size,
        context=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    models.build_model(config).save_pretrained(folder / "checkpoint")
    tokenizer.save_pretrained(folder / "checkpoint")
    return folder / "checkpoint"


@pytest.mark.parametrize("words", [["--tasks", "rte"], ["--eval-workers", "2"], []])
def test_a_cluster_that_is_not_there(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is said before anything is scored, wherever its address comes from, if it is needed."""
    write_blimp(tmp_path / "blimp_fast")
    (tmp_path / "glue_filtered").mkdir()
    for part in ("train", "valid"):
        (tmp_path / "glue_filtered" / f"rte.{part}.jsonl").write_text("")
    flags = ["--model", str(tmp_path / "none"), "--storage", str(tmp_path / "storage")]
    args = parse(EvaluateArgs, [*flags, "--benchmarks", str(tmp_path), *words], None)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(
        ValueError, match="no Ray cluster answers at 127.0.0.1:1" if words else "none"
    ):
        plan_evaluation(args)


def test_the_death_of_ray(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Is named, with the way to go on."""

    def die(*args: object) -> None:
        raise RayDied("Ray's process raylet was killed")

    monkeypatch.setattr(planning, "plan_evaluation", lambda args: None)
    monkeypatch.setattr(evaluation, "evaluate", die)
    monkeypatch.setattr(os, "environ", {**os.environ})
    assert run_evaluation(EvaluateArgs(model="x", benchmarks="hub")) == EXIT_FAILED
    said = capsys.readouterr()
    assert "Ray's process raylet was killed" in said.err
    assert "Stopped. To continue, run it again:" in said.out


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """BLiMP, EWoK with one text of more than 16 tokens, and BEAR's layout."""
    folder = tmp_path / "data"
    write_blimp(folder / "blimp_fast")
    (folder / "ewok_fast").mkdir()
    row = {
        "Domain": "space",
        "Context1": "the cat " * 10 + "runs here .",
        "Target1": "the dog runs .",
        "Target2": "the dog sees .",
    }
    (folder / "ewok_fast" / "space.jsonl").write_text(json.dumps(row) + "\n")
    return folder


def arguments(checkpoint: Path, data: Path, tmp_path: Path, *extra: str) -> EvaluateArgs:
    words = ["--model", str(checkpoint), "--benchmarks", str(data)]
    words += ["--storage", str(tmp_path / "storage"), "--output", str(tmp_path / "out")]
    words += ["--device", "cpu", "--cpus", "1"]
    return parse(EvaluateArgs, [*words, *extra], None)


def scores_of(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "out" / "scores.json").read_text())


def test_scores_and_answers_are_written(checkpoint, data, tmp_path, capsys) -> None:
    """The files hold what the suite gives for the model, an answer per item, and no sentence."""
    args = arguments(checkpoint, data, tmp_path, "--tasks", "blimp")
    assert run_evaluation(args) == 0
    suite = load_suite(data, "2024", ["blimp"])
    plan = plan_evaluation(args)
    expected = suite.evaluate(models.load(checkpoint), plan.tokenizer)
    written = scores_of(tmp_path)["zero_shot"]
    assert written["outcomes"] == expected.outcomes
    assert written["macro"] == pytest.approx(expected.macro)
    answers = [json.loads(x) for x in (tmp_path / "out" / "answers.jsonl").open()]
    values = [value for task in expected.outcomes["blimp"].values() for value in task]
    assert [answer["value"] for answer in answers] == pytest.approx(values)
    assert "cat" not in (tmp_path / "out" / "answers.jsonl").read_text()
    assert f"{expected.benchmarks['blimp']:.2f}" in capsys.readouterr().out


def test_long_texts_are_refused_or_counted(checkpoint, data, tmp_path, capsys) -> None:
    """A text beyond the context is an error that names it; or its last tokens are scored."""
    assert run_evaluation(arguments(checkpoint, data, tmp_path)) == 2
    message = capsys.readouterr().err
    assert "2 texts are longer than the model's context of 16 tokens" in message
    assert "ewok space, item 0, option 0" in message
    assert "--long-texts truncate" in message
    truncate = arguments(checkpoint, data, tmp_path, "--long-texts", "truncate")
    assert run_evaluation(truncate) == 0
    assert scores_of(tmp_path)["truncated"] == 2
    assert scores_of(tmp_path)["zero_shot"]["num_items"] == {"blimp": 5, "ewok": 1}
    assert "2 texts were longer" in capsys.readouterr().out


def altered(checkpoint: Path, tmp_path: Path, layer: Callable, value: float) -> Path:
    """A copy of the checkpoint in which all weights of a layer have one value."""
    folder = tmp_path / "altered"
    shutil.copytree(checkpoint, folder)
    model = models.load(checkpoint)
    with torch.no_grad():
        layer(model).weight.fill_(value)
    model.save_pretrained(folder)
    return folder


def test_a_model_of_nan_is_reported(checkpoint, data, tmp_path, capsys) -> None:
    """Non-finite scores are wrong answers, and the table says how many there were."""
    broken = altered(checkpoint, tmp_path, lambda model: model.get_input_embeddings(), math.nan)
    assert run_evaluation(arguments(broken, data, tmp_path, "--tasks", "blimp")) == 0
    zero_shot = scores_of(tmp_path)["zero_shot"]
    assert (zero_shot["benchmarks"], zero_shot["non_finite"]) == ({"blimp": 0.0}, {"blimp": 5})
    assert zero_shot["ties"] == {"blimp": 0}
    table = capsys.readouterr().out.split("chance")[1]
    row = next(line for line in table.splitlines() if "blimp_fast" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        *("blimp", "blimp_fast", "0.00", "16.67", "50.00", "5", "0", "5"),
    ]


def test_a_blind_model_is_reported(checkpoint, data, tmp_path, capsys) -> None:
    """Constant logits: exactly 50 % on pairs of whatever lengths, and the report says why."""
    blind = altered(checkpoint, tmp_path, lambda model: model.get_output_embeddings(), 0.0)
    flags = ("--long-texts", "truncate")
    assert run_evaluation(arguments(blind, data, tmp_path, *flags)) == 0
    zero_shot = scores_of(tmp_path)["zero_shot"]
    assert zero_shot["benchmarks"] == {"blimp": 50.0, "ewok": 50.0}
    assert zero_shot["ties"] == {"blimp": 5, "ewok": 1}
    assert "ewok: all were ties" in capsys.readouterr().out


def test_no_text_of_a_benchmark_is_shown_or_kept(checkpoint, data, tmp_path, capsys) -> None:
    """Neither the output nor the files nor the MLflow run hold a word of EWoK."""
    file = data / "ewok_fast" / "space.jsonl"
    file.write_text(file.read_text().replace("runs here", "xylophone"))
    client = MlflowClient(empty_store(tmp_path / "storage"))
    place = (tmp_path / "artifacts").as_uri()
    run = client.create_run(client.create_experiment("e", artifact_location=place))
    flags = ("--long-texts", "truncate", "--run-id", run.info.run_id)
    assert run_evaluation(arguments(checkpoint, data, tmp_path, *flags)) == 0
    shown = capsys.readouterr()
    assert "xylophone" not in shown.out + shown.err
    written = [p for p in tmp_path.rglob("*") if p.is_file() and data not in p.parents]
    assert len(written) > 4
    assert not [path for path in written if b"xylophone" in path.read_bytes()]


def test_figures_and_files_are_logged_to_a_run(checkpoint, data, tmp_path) -> None:
    """With --run-id the MLflow run has the figures as metrics, and the files."""
    client = MlflowClient(empty_store(tmp_path / "storage"))
    place = (tmp_path / "artifacts").as_uri()
    run = client.create_run(client.create_experiment("e", artifact_location=place))
    flags = ("--tasks", "blimp", "--run-id", run.info.run_id)
    assert run_evaluation(arguments(checkpoint, data, tmp_path, *flags)) == 0
    metrics = client.get_run(run.info.run_id).data.metrics
    assert metrics["eval/blimp"] == scores_of(tmp_path)["zero_shot"]["benchmarks"]["blimp"]
    assert "eval/macro" in metrics
    logged = {file.path for file in client.list_artifacts(run.info.run_id, "eval")}
    assert logged == {"eval/scores.json", "eval/answers.jsonl"}


def test_an_mlflow_that_is_gone_at_the_end_is_said(
    checkpoint, data, tmp_path, capsys, monkeypatch
) -> None:
    """At once, with the place of the scores; what it does not take is an error in a line."""
    client = MlflowClient(empty_store(tmp_path / "storage"))
    run = client.create_run(client.create_experiment("e", (tmp_path / "artifacts").as_uri()))
    args = arguments(checkpoint, data, tmp_path, "--tasks", "blimp", "--run-id", run.info.run_id)
    left = [2]
    log_batch = MlflowClient.log_batch

    def away(self: MlflowClient, *args: object) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise MlflowException("API request failed: Caused by X('host: Connection refused')")
        log_batch(self, *args)

    monkeypatch.setattr(MlflowClient, "log_batch", away)
    monkeypatch.setattr(store.time, "sleep", lambda seconds: None)
    assert run_evaluation(args) == 0
    said = capsys.readouterr().out
    assert "MLflow does not answer" in said
    assert f"The scores are in {tmp_path / 'out'}; MLflow is tried again for an hour" in said
    assert "answers again" in said
    assert len(client.get_metric_history(run.info.run_id, "eval/blimp")) == 1
    client.delete_run(run.info.run_id)
    monkeypatch.setattr(store, "PATIENCE_SECONDS", -1)
    for left[0] in (0, 9):  # it does not take them, and does not come back
        assert run_evaluation(args) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: --run-id: the results could not be recorded in MLflow: ")
        assert error.endswith(f"The scores are in {tmp_path / 'out'}\n")


def test_a_registered_model_is_copied_once(checkpoint, data, tmp_path) -> None:
    """models:/NAME@ALIAS and models:/NAME/VERSION score like the folder they stand for."""
    uri = empty_store(tmp_path / "storage")
    client = MlflowClient(uri)
    client.create_registered_model("hgrn2")
    version = client.create_model_version("hgrn2", source=checkpoint.as_uri()).version
    client.set_registered_model_alias("hgrn2", "teacher", version)
    found = []
    for name in ("models:/hgrn2@teacher", f"models:/hgrn2/{version}"):
        args = arguments(Path("x"), data, tmp_path, "--tasks", "blimp", "--model", name)
        assert run_evaluation(args) == 0
        found.append(scores_of(tmp_path)["zero_shot"]["outcomes"])
        copies = list((tmp_path / "storage" / "models").rglob("model.safetensors"))
        assert len(copies) == 1
    assert run_evaluation(arguments(checkpoint, data, tmp_path, "--tasks", "blimp")) == 0
    assert found == [scores_of(tmp_path)["zero_shot"]["outcomes"]] * 2


def test_submission_has_the_challenges_layout(checkpoint, data, tmp_path) -> None:
    """predictions.json maps UIDs to the chosen texts, in the folders that the pipeline reads."""
    write_supplement(data / "supplement_filtered")
    flags = ("--tasks", "blimp", "supplement", "--submission", "--long-texts", "truncate")
    assert run_evaluation(arguments(checkpoint, data, tmp_path, *flags)) == 0
    folder = tmp_path / "out" / "zero_shot" / "causal" / "blimp"
    blimp = json.loads((folder / "blimp_fast" / "predictions.json").read_text())
    assert sorted(blimp) == ["adverb", "agreement", "order"]
    first = blimp["agreement"]["predictions"][0]
    assert first["id"] == "agreement_0"
    outcome = scores_of(tmp_path)["zero_shot"]["outcomes"]["blimp"]["agreement"][0]
    assert first["pred"] == ("the cat sleeps ." if outcome else "the cat sleep .")
    assert (folder / "supplement_filtered" / "predictions.json").is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--benchmarks", "no/such"], r"--benchmarks no/such cannot be read \(no such file or"),
        (["--tasks", "blimp_old"], "unknown task 'blimp_old': choose a kind of benchmark"),
        (["--tasks", "rte"], "no files of glue in "),
        (["--tasks", "bear"], "no bear benchmark in .*it has blimp_fast, ewok_fast"),
        (["--tasks", "blimp", "--model", "no/such/model"], "no model at no/such/model"),
        (["--tasks", "blimp", "--model", "models:/none@teacher"], "none@teacher: no results in"),
        (["--tasks", "blimp", "--model", "models:/none"], "is not models:/NAME@ALIAS"),
        (["--tasks", "blimp", "--run-id", "gone"], "--run-id: no results in"),
        (["--tasks", "blimp", "--device", "cuda"], "PyTorch sees no GPU here"),
        (
            ["--tasks", "blimp", "--eval-workers", "0"],
            "--eval-workers must be from 1 to 4096, not 0",
        ),
    ],
)
def test_bad_arguments_are_explained(checkpoint, data, tmp_path, capsys, flags, message) -> None:
    """The error names the value and what to do, without a traceback; status 2."""
    given = (checkpoint, data, tmp_path, *flags)
    assert exit_status(lambda: run_evaluation(arguments(*given))) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert error.startswith("error: ")
    assert re.search(message, error), error


def test_a_bad_line_is_found_before_the_model_is_opened(data, tmp_path, capsys) -> None:
    """File and line are named, although the model does not exist either."""
    with (data / "blimp_fast" / "order.jsonl").open("a") as file:
        file.write("{]\n")
    assert run_evaluation(arguments(tmp_path / "none", data, tmp_path, "--tasks", "blimp")) == 2
    assert "order.jsonl, line 3: not valid JSON" in " ".join(capsys.readouterr().err.split())


def test_a_tokenizer_without_bos_is_refused(checkpoint, data, tmp_path, capsys) -> None:
    """Protocol 2024 has nothing to condition on; the message names protocol 2025."""
    bare = tmp_path / "bare"
    shutil.copytree(checkpoint, bare)
    file = bare / "tokenizer_config.json"
    config = json.loads(file.read_text())
    special = [name for name in config if name.endswith("_token")]
    file.write_text(json.dumps({k: v for k, v in config.items() if k not in special}))
    (bare / "special_tokens_map.json").unlink(missing_ok=True)
    assert run_evaluation(arguments(bare, data, tmp_path, "--tasks", "blimp")) == 2
    assert "use protocol 2025" in " ".join(capsys.readouterr().err.split())
    flags = ("--tasks", "blimp", "--protocol", "2025")
    assert run_evaluation(arguments(bare, data, tmp_path, *flags)) == 0


def test_the_command_runs_as_a_script() -> None:
    """From its former place, too."""
    for script in ("sweeps/evaluate.py", "analysis/evaluate.py"):
        done = subprocess.run(
            [sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        for flag in ("--model", "--benchmarks", "--tasks", "--eval-workers", "--run-id"):
            assert flag in done.stdout


def test_a_broken_model_submits_nothing(checkpoint, data, tmp_path, capsys) -> None:
    """Without finite scores there is no prediction: the right answer is not put in their place."""
    broken = altered(checkpoint, tmp_path, lambda model: model.get_input_embeddings(), math.nan)
    args = arguments(broken, data, tmp_path, "--tasks", "blimp", "--submission")
    assert run_evaluation(args) == 2
    assert "blimp has 5 scores not finite" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("predictions.json"))


def test_what_cannot_be_submitted_is_said_before_any_scoring(
    checkpoint, data, tmp_path, capsys
) -> None:
    """GlobalPIQA without what its predictions are filed under; alone it may be scored."""
    (data / "global_piqa_parallel").mkdir()
    row = {"prompt": "the cat", "solution0": "sleeps .", "solution1": "sleep .", "label": 0}
    (data / "global_piqa_parallel" / "eng_latn.jsonl").write_text(json.dumps(row))
    flags = ("--protocol", "2026", "--tasks", "global_piqa_parallel")
    assert run_evaluation(arguments(checkpoint, data, tmp_path, *flags, "--submission")) == 2
    assert "global_piqa_parallel: 1 row has no 'example_id'" in capsys.readouterr().err
    assert not (tmp_path / "out" / "scores.json").exists()
    assert run_evaluation(arguments(checkpoint, data, tmp_path, *flags)) == 0


def test_passwords_are_not_shown(data, tmp_path) -> None:
    """Neither in the arguments as text nor in the command that says how to go on."""
    args = arguments(tmp_path, data, tmp_path, "--ewok-password", "open sesame")
    assert args.ewok_password == "open sesame"
    assert "sesame" not in repr(args)
    words = ["x.py", "--ewok-password", "open sesame", "--ewok-password=sesame", "--tasks", "ewok"]
    shown = ["x.py", "--ewok-password", "***", "--ewok-password=***", "--tasks", "ewok"]
    assert without_secrets(words) == shown
    assert without_secrets(["--ewok_password", "sesame"]) == ["--ewok_password", "***"]
    assert without_secrets(["--ui", "http://me:sesame@host/x"]) == ["--ui", "http://host/x"]


def test_other_results_go_to_another_folder(checkpoint, data, tmp_path) -> None:
    """Scores of other tasks, or under another protocol, do not overwrite each other."""
    folders = set()
    for flags in (["--tasks", "blimp"], ["--tasks", "blimp", "--protocol", "2025"]):
        words = ["--model", str(checkpoint), "--benchmarks", str(data), *flags]
        args = parse(EvaluateArgs, [*words, "--storage", str(tmp_path / "storage")], None)
        folders |= {plan_evaluation(args).output}
    assert len(folders) == 2


def test_what_the_overall_score_of_2026_lacks_is_said(checkpoint, data, tmp_path, capsys) -> None:
    """Its macro is of one of eight benchmarks here; the rest, GLUE and the age of acquisition are
    named with what scores them."""
    flags = ("--protocol", "2026", "--tasks", "blimp")
    assert run_evaluation(arguments(checkpoint, data, tmp_path, *flags)) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "macro, 1 of 8" in said
    assert (
        "The overall score of 2026's leaderboard, which is of the full sets, is of more than this: "
        "also of supplement, "
        "ewok, entity_tracking, comps, reading, global_piqa_parallel, global_piqa_nonparallel, "
        "glue (--tasks all glue), and of the age of acquisition, which takes the checkpoints of a "
        "training (submit)."
    ) in said
    written = scores_of(tmp_path)["zero_shot"]
    assert written["protocol"] == "2026"
    assert written["macro"] == written["benchmarks"]["blimp"]


def test_a_language_that_is_named_must_be_there(tmp_path: Path) -> None:
    """Before anything runs; each, though another one is there."""
    place = tmp_path / "nl" / "sib200"
    place.mkdir(parents=True)
    (place / "sib200_nl.train.jsonl").write_text("")
    words = ["--model", "none", "--benchmarks", str(tmp_path), "--storage", str(tmp_path / "s")]
    words += ["--tasks", "multilingual_en", "multilingual_nl"]
    with pytest.raises(ValueError, match="no files of multilingual_en in"):
        plan_evaluation(parse(EvaluateArgs, words, None))


def other_model(checkpoint: Path, tmp_path: Path, config: PreTrainedConfig) -> Path:
    """A folder with an untrained model of this config and the checkpoint's tokenizer."""
    folder = tmp_path / "other"
    shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def test_a_model_that_sees_later_tokens_is_refused(checkpoint, data, tmp_path, capsys) -> None:
    """BERT opens as a causal language model; nothing is scored."""
    bert = BertConfig(vocab_size=280, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    folder = other_model(checkpoint, tmp_path, bert)
    assert run_evaluation(arguments(folder, data, tmp_path, "--tasks", "blimp")) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert error.startswith("error: the model (BertLMHeadModel) sees later tokens")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["commands"]


@pytest.mark.slow
def test_ray_workers_refuse_it_in_a_line_too(checkpoint, data, tmp_path, capsys) -> None:
    """Without the worker's traceback."""
    bert = BertConfig(vocab_size=280, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    folder = other_model(checkpoint, tmp_path, bert)
    flags = ("--tasks", "blimp", "--eval-workers", "2")
    assert run_evaluation(arguments(folder, data, tmp_path, *flags)) == 2
    error = capsys.readouterr().err
    assert "error: the model (BertLMHeadModel) sees later tokens" in error
    assert "Traceback" not in error


def test_a_tokenizer_of_another_model_is_refused(checkpoint, data, tmp_path, capsys) -> None:
    """Before the model is opened: text and token are named, and what to do."""
    small = GPT2Config(vocab_size=100, n_embd=16, n_layer=1, n_head=2)
    folder = other_model(checkpoint, tmp_path, small)
    (folder / "model.safetensors").unlink()
    assert run_evaluation(arguments(folder, data, tmp_path, "--tasks", "blimp")) == 2
    error = " ".join(capsys.readouterr().err.split())
    pattern = r"\(blimp \w+, item \d, option \d\): the tokenizer gives token \d+, the model knows"
    assert re.search(pattern, error), error


def test_a_folder_without_a_tokenizer_is_refused(checkpoint, data, tmp_path, capsys) -> None:
    """GPT-2's type would get an empty vocabulary, in which no text has a token."""
    small = GPT2Config(vocab_size=280, n_embd=16, n_layer=1, n_head=2)
    folder = other_model(checkpoint, tmp_path, small)
    for file in folder.glob("*token*"):
        file.unlink()
    assert run_evaluation(arguments(folder, data, tmp_path, "--tasks", "blimp")) == 2
    assert "no tokenizer in" in " ".join(capsys.readouterr().err.split())


def test_a_worker_keeps_to_its_share_of_the_gpu(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As whoever scores in this process; on the CPU there is none."""
    told = []
    monkeypatch.setattr(workers, "pick_device", lambda gpus: torch.device("cpu"))
    monkeypatch.setattr(
        workers, "set_up_device", lambda threads, device, *, gpus: told.append((threads, gpus))
    )
    Scoring(str(checkpoint), cpus=2, gpus=0.25).load()
    assert told == [(2, 0.25)]


def test_kernels_of_workers_are_built_before_them(
    checkpoint, data, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the precision that is scored in; of models of others there are none."""
    done: list[object] = []

    def start(works: list[ScoringWork], gpus: float, users: str) -> Any:
        done.extend((work.precision, gpus, users) for work in works)
        return SimpleNamespace(wait=lambda console: done.append("waited"))

    monkeypatch.setattr(evaluation, "start_building", start)
    monkeypatch.setattr(evaluation, "ray_cluster", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(evaluation, "score_on_ray", lambda *_: done.append("scored"))
    flags = ("--tasks", "blimp", "--eval-workers", "2", "--precision", "bf16")
    plan = plan_evaluation(arguments(checkpoint, data, tmp_path, *flags))
    shared = replace(plan, scoring=replace(plan.scoring, gpus=0.5))
    evaluation._log_probs(shared, Console(file=io.StringIO()))
    assert done == [("bf16", 0.5, "workers"), "waited", "scored"]
    GPT2Config().save_pretrained(tmp_path / "other")
    assert Scoring(str(tmp_path / "other")).works == []


@pytest.mark.slow
def test_too_many_workers_are_refused(checkpoint, data, tmp_path, capsys) -> None:
    """Workers that no node has room for would be waited for without end."""
    flags = ("--tasks", "blimp", "--eval-workers", "2", "--cpus", "100")
    assert run_evaluation(arguments(checkpoint, data, tmp_path, *flags)) == 2
    assert "2 workers of 100 CPU need 200, the cluster has" in capsys.readouterr().err


@pytest.mark.slow
def test_workers_share_an_evaluation(checkpoint, data, tmp_path) -> None:
    """Two Ray workers give the answers of one process: log-probabilities equal to 1e-4."""

    def answers() -> list[list[float]]:
        lines = (tmp_path / "out" / "answers.jsonl").open()
        return [json.loads(line)["log_probs"] for line in lines]

    assert run_evaluation(arguments(checkpoint, data, tmp_path, "--tasks", "blimp")) == 0
    alone = answers()
    flags = ("--tasks", "blimp", "--eval-workers", "2")
    assert run_evaluation(arguments(checkpoint, data, tmp_path, *flags)) == 0
    for one, two in zip(alone, answers(), strict=True):
        assert one == pytest.approx(two, abs=1e-4)
