"""`python sweeps/promote.py`: which run it takes, what it registers, moves, and refuses."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from rich.console import Console
from transformers import AutoTokenizer

import models
from analysis.benchmarks import BenchmarkSource, load_suite
from analysis.command_line import parse
from sweeps.arguments import PromoteArgs
from sweeps.findings.promote import Promotion, show_promotion
from sweeps.promote import run_promotion
from sweeps.stored.model_names import resolve_model
from tests.analysis.benchmark_files import write_blimp
from tests.empty_store import empty_store
from tests.sweeps.conftest import ROOT, environment
from tests.tiny_text import write_tiny_text
from trainables.checkpoint import TrialFolder
from trainables.corpus import Corpus, prepare_corpus
from trainables.corpus.tokenizer import tokenizer_hash
from trainables.finetune_spec import model_hash
from trainables.spec import TrialSpec
from trainables.tracking import Tracker
from trainables.trainer import RuntimeConfig
from trainables.trial import run_trial


@dataclass(frozen=True)
class Studies:
    """Trials of mini LSTMs in one storage folder, with their MLflow store.

    Study `good` has two learning rates with two seeds each; `bad` one diverged trial and one that
    never ended; `other` one trial on another corpus; `mixed` a trial of `good` and that of `other`.
    """

    storage: Path
    corpus: Corpus
    other: Corpus
    benchmarks: Path

    @property
    def uri(self) -> str:
        return empty_store(self.storage)

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    def spec(self, lr: float, seed: int = 0, **changes: Any) -> TrialSpec:
        return TrialSpec(
            arch="lstm",
            size="mini",
            corpus=self.corpus.name,
            corpus_hash=self.corpus.hash,
            benchmarks_hash=load_suite(self.benchmarks, "2024").hash,
            context=64,
            batch_size=4,
            lr=lr,
            epochs=2,
            seed=seed,
        ).replace(**changes)

    def tracker(self, study: str, spec: TrialSpec) -> Tracker:
        return Tracker.open(self.uri, self.storage / "artifacts" / study, study, [spec])

    def train(self, study: str, spec: TrialSpec, **changes: Any) -> TrialFolder:
        """Bring a trial to its end, or record one that is there already."""
        corpus = self.other if spec.corpus_hash == self.other.hash else self.corpus
        folder = self.storage / study
        source, tracker = BenchmarkSource(str(self.benchmarks)), self.tracker(study, spec)
        run_trial(
            spec,
            RuntimeConfig(folder, corpus.directory, source, tracker, **changes),
            lambda _: None,
        )
        return TrialFolder.of(folder, spec)

    def copy(self, folder: TrialFolder, study: str) -> TrialFolder:
        """The trial in another study, recorded there without training."""
        target = self.storage / study / "trials" / folder.path.name
        shutil.copytree(folder.path, target)
        return self.train(study, folder.spec)

    def run_id(self, study: str, folder: TrialFolder) -> str:
        experiment = self.client.get_experiment_by_name(study)
        tag = f"tags.`babysweep.spec_hash` = '{folder.spec.hash}'"
        (run,) = self.client.search_runs([experiment.experiment_id], tag)
        return run.info.run_id

    def folders(self) -> list[TrialFolder]:
        """The trials of `good`, the lowest loss first."""
        paths = (self.storage / "good" / "trials").iterdir()
        return sorted(map(TrialFolder, paths), key=lambda folder: folder.outcome.score)

    def best(self) -> TrialFolder:
        """The trial of `good` to promote: the first seed of the rate with the better mean."""
        by_rate: dict[float, dict[int, TrialFolder]] = {}
        for folder in self.folders():
            by_rate.setdefault(folder.spec.lr, {})[folder.spec.seed] = folder
        seeds = min(
            by_rate.values(), key=lambda seeds: fmean(f.outcome.score for f in seeds.values())
        )
        return seeds[0]

    def promote(self, *flags: str) -> int:
        words = ["--arch", "lstm", "--storage", str(self.storage), *flags]
        return run_promotion(parse(PromoteArgs, words, None))

    def version(self, name: str):
        """What the alias of this registered model points to."""
        return self.client.get_model_version_by_alias(name, "teacher")

    def versions(self, name: str) -> int:
        return len(self.client.search_model_versions(f"name = '{name}'"))


@pytest.fixture(autouse=True)
def _own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Studies:
    """The studies, trained for seconds."""
    folder = tmp_path_factory.mktemp("promotion")
    corpora = []
    for name in ("text", "other"):
        (folder / name).mkdir()
        write_tiny_text(folder / name)
        if name == "other":
            with (folder / name / "talk.train").open("a") as file:
                file.write("the old dog sees the small cat\n")
        cache = folder / "storage" / "corpora"
        corpora.append(prepare_corpus(str(folder / name), vocab_size=280, cache=cache))
    write_blimp(folder / "data" / "blimp_fast")
    studies = Studies(folder / "storage", *corpora, folder / "data")
    for lr in (1e-3, 1e-2):
        for seed in (0, 1):
            trial = studies.train("good", studies.spec(lr, seed))
    studies.train("bad", studies.spec(1e6, warmup=0.0))
    unfinished = studies.spec(1e-3)
    TrialFolder.of(studies.storage / "bad", unfinished)
    studies.tracker("bad", unfinished).trial(unfinished, {}, folder)
    other = studies.spec(1e-2, corpus="other", corpus_hash=studies.other.hash)
    for ended in (studies.train("other", other), trial):
        studies.copy(ended, "mixed")
    return studies


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The message of a refusal, in one line."""
    error = " ".join(capsys.readouterr().err.split())
    assert error.startswith("error: ")
    return error


def test_the_best_run_is_registered_with_its_lineage(studies, capsys) -> None:
    """The version's run, figures and hashes are those of the best trial."""
    best = studies.best()
    run_id = studies.run_id("good", best)
    studies.client.log_metric(run_id, "final/rte", 61.5)
    assert studies.promote("--study", "good", "--name", "lineage") == 0
    version = studies.version("lineage")
    assert version.run_id == run_id
    tags = {key.removeprefix("babysweep."): value for key, value in version.tags.items()}
    assert TrialSpec.from_dict({"corpus": best.spec.corpus, **json.loads(tags["spec"])}) == (
        best.spec
    )
    assert float(tags["bits_per_byte"]) == best.outcome.score
    report = min(best.outcome.history, key=lambda report: report.val_loss)
    assert int(tags["epoch"]) == report.epoch
    assert float(tags["macro"]) == float(tags["zero_shot/blimp"]) == report.macro
    assert tags["final/rte"] == "61.5"
    assert tags["model_hash"] == model_hash(best.best_checkpoint)
    assert tags["tokenizer_hash"] == tokenizer_hash(studies.corpus.directory)
    assert (tags["corpus_hash"], tags["study"]) == (studies.corpus.hash, "good")
    run = studies.client.get_run(version.run_id)
    assert tags.get("commit", "") == run.data.tags["mlflow.source.git.commit"]
    assert not {"teacher", "init"} & set(tags)
    output = capsys.readouterr().out
    assert "models:/lineage@teacher is version 1 now" in output
    assert version.run_id in output


def test_the_promoted_model_is_the_checkpoint(studies, tmp_path) -> None:
    """Opened here by the alias, or with MLflow alone in another process, it has bitwise the
    checkpoint's parameters, and its tokenizer."""
    assert studies.promote("--study", "good", "--name", "opened") == 0
    checkpoint = studies.best().best_checkpoint
    expected = models.load(checkpoint).state_dict()
    code = "import sys, mlflow; print(mlflow.artifacts.download_artifacts(sys.argv[1]))"
    command = [sys.executable, "-c", code, "models:/opened@teacher"]
    theirs = {**environment(), "MLFLOW_TRACKING_URI": studies.uri}
    process = subprocess.run(
        command, cwd=tmp_path, env=theirs, stdout=subprocess.PIPE, text=True, check=True
    )
    ours = resolve_model("models:/opened@teacher", studies.uri, tmp_path)
    for folder in (Path(ours), Path(process.stdout.strip())):
        found = models.load(folder).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        text = "the old cat sees"
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer(text) == AutoTokenizer.from_pretrained(checkpoint)(text)
        assert (folder / "spec.json").is_file()
        assert not (folder / "optimizer.safetensors").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "digests.json"])
def test_a_damaged_copy_of_a_version_is_copied_again(studies, tmp_path, caplog, name) -> None:
    """Damaged in the registry, too, it is refused, and nothing of it is left."""
    alone = Studies(tmp_path / "alone", studies.corpus, studies.other, studies.benchmarks)
    alone.copy(studies.folders()[0], "alone")
    assert alone.promote() == 0
    copy = Path(resolve_model("models:/lstm@teacher", alone.uri, tmp_path))
    whole = {file.name: file.read_bytes() for file in copy.iterdir()}
    damages = [lambda file: file.write_bytes(b"half")]
    if name == "config.json":
        damages.append(Path.unlink)
    for damage in damages:
        damage(copy / name)
        assert resolve_model("models:/lstm@teacher", alone.uri, tmp_path) == str(copy)
        assert {file.name: file.read_bytes() for file in copy.iterdir()} == whole
        assert "it is copied again" in caplog.messages[-1]
    assert len(list((tmp_path / "models").glob("damaged-*"))) == len(damages)

    shutil.rmtree(tmp_path / "models")
    (artifact,) = (alone.storage / "artifacts").rglob(name)
    artifact.write_bytes(b"half")
    for _ in range(2):
        with pytest.raises(ValueError, match="lstm version 1 is no model that can be opened: "):
            resolve_model("models:/lstm@teacher", alone.uri, tmp_path)
        assert list((tmp_path / "models").iterdir()) == []


def test_promoting_again_changes_nothing(studies, capsys) -> None:
    """The second time there is one version still, untouched, and the command says so."""
    flags = ("--study", "good", "--name", "again")
    assert studies.promote(*flags) == 0
    before = studies.client.get_registered_model("again")
    capsys.readouterr()
    assert studies.promote(*flags) == 0
    assert "is this checkpoint already: nothing changed" in capsys.readouterr().out
    after = studies.client.get_registered_model("again")
    assert after.last_updated_timestamp == before.last_updated_timestamp
    assert studies.versions("again") == 1


def test_a_worse_run_needs_force_and_the_best_comes_back(studies, capsys) -> None:
    """Higher bits per byte are refused; forced, they get a version; the old version is reused."""
    name = ("--name", "worse")
    assert studies.promote("--study", "good", *name) == 0
    worst = studies.folders()[-1]
    run_id = studies.run_id("good", worst)
    assert studies.promote("--run-id", run_id, *name) == 2
    assert f"is better: {studies.best().outcome.score:.4f} bits" in error_of(capsys)
    assert (int(studies.version("worse").version), studies.versions("worse")) == (1, 1)
    assert studies.promote("--run-id", run_id, *name, "--force") == 0
    output = capsys.readouterr().out
    assert "before: version 1" in output
    assert "now: version 2" in output
    assert studies.version("worse").run_id == run_id
    assert studies.promote("--study", "good", *name) == 0
    assert "is version 1 now, registered earlier" in capsys.readouterr().out
    assert (int(studies.version("worse").version), studies.versions("worse")) == (1, 2)


def test_another_corpus_needs_force(studies, capsys) -> None:
    """Figures of two corpora are not compared, whichever is lower; --force replaces the teacher."""
    assert studies.promote("--study", "good", "--name", "moved") == 0
    assert studies.promote("--study", "other", "--name", "moved") == 2
    assert "validated on another corpus" in error_of(capsys)
    assert studies.promote("--study", "other", "--name", "moved", "--force") == 0
    tags = studies.version("moved").tags
    assert tags["babysweep.corpus_hash"] == studies.other.hash


def test_a_version_of_unknown_origin_needs_force(studies, capsys) -> None:
    """What was registered by hand has no figure to compare with."""
    studies.client.create_registered_model("by hand")
    folder = studies.folders()[-1]
    source = folder.best_checkpoint.as_uri()
    version = studies.client.create_model_version("by hand", source).version
    studies.client.set_registered_model_alias("by hand", "teacher", version)
    assert studies.promote("--study", "good", "--name", "by hand") == 2
    assert "no tags to compare with" in error_of(capsys)
    assert studies.promote("--study", "good", "--name", "by hand", "--force") == 0
    assert studies.version("by hand").run_id == studies.run_id("good", studies.best())


def test_a_students_teacher_is_in_its_lineage(studies) -> None:
    """The tags of a distilled model name the teacher, and what it started from."""
    teacher = studies.best().best_checkpoint
    key = model_hash(teacher)
    spec = studies.spec(1e-2, teacher=key, teacher_name="mine", alpha=0.5, init=key)
    studies.train("students", spec, teachers=(teacher,), init=teacher)
    assert studies.promote("--study", "students", "--name", "student") == 0
    tags = studies.version("student").tags
    assert tags["babysweep.teacher"] == tags["babysweep.init"] == key
    assert tags["babysweep.teacher_name"] == "mine"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), r"there are \d studies: choose --study bad, good, mixed, other"),
        (("--study", "none"), "no study 'none' in"),
        (("--study", "good", "--arch", "mamba"), "no finished run of mamba: it has runs of lstm."),
        (("--study", "bad"), "no finished run of lstm: it has 1 diverged, 1 unfinished."),
        (("--study", "mixed"), "are of 2 corpora"),
        (("--run-id", "gone"), "no MLflow run 'gone'"),
        (("--study", "good", "--name", "a/b"), "--name 'a/b' cannot be used"),
        (("--study", "good", "--alias", "v1"), "--alias 'v1' cannot be used"),
        (("--study", "good", "--alias", "Latest"), "--alias 'Latest' cannot be used"),
    ],
)
def test_bad_arguments_are_explained(studies, capsys, flags, message) -> None:
    """The error names the value and what there is; status 2, and nothing is registered."""
    assert studies.promote("--name", "refused", *flags) == 2
    error = error_of(capsys)
    assert re.search(message, error), error
    assert not studies.client.search_registered_models("name = 'refused'")


def test_a_named_run_must_have_finished(studies, capsys) -> None:
    """A diverged, an unfinished, another architecture's and another study's run are refused."""
    specs = [studies.spec(1e6, warmup=0.0), studies.spec(1e-3)]
    for spec, message in zip(specs, ("diverged: only a finished", "is unfinished"), strict=True):
        run_id = studies.run_id("bad", TrialFolder.of(studies.storage / "bad", spec))
        assert studies.promote("--run-id", run_id, "--name", "refused") == 2
        assert message in error_of(capsys)
    run_id = studies.run_id("good", studies.folders()[0])
    assert studies.promote("--run-id", run_id, "--arch", "hgrn2", "--name", "refused") == 2
    assert "is of lstm, not of hgrn2: add --arch lstm" in error_of(capsys)
    assert studies.promote("--run-id", run_id, "--study", "bad", "--name", "refused") == 2
    assert "is no trial of study 'bad'" in error_of(capsys)


def test_a_run_is_named_by_its_trials_hash_too(studies, capsys) -> None:
    """Which is the same in every store; a trial of several studies needs one of them."""
    both = TrialFolder.of(studies.storage / "mixed", studies.spec(1e-2, 1))
    named = ("--run-id", both.spec.hash, "--name", "by-hash")
    assert studies.promote(*named) == 2
    runs = {study: studies.run_id(study, both) for study in ("good", "mixed")}
    error = error_of(capsys)
    assert all(f"{run} of '{study}'" in error for study, run in runs.items())
    assert studies.promote(*named, "--study", "mixed") == 0
    assert studies.version("by-hash").run_id == runs["mixed"]
    assert studies.promote("--run-id", "0123456789abcdef") == 2
    assert "no MLflow run '0123456789abcdef'" in error_of(capsys)


def test_a_promotion_is_recorded_with_what_it_chose(studies) -> None:
    """On the run that was promoted, by what names it in every store; not if nothing changed."""
    for _ in range(2):
        assert studies.promote("--study", "other", "--name", "recorded", "--force") == 0
    version = studies.version("recorded")
    lines = studies.client.get_run(version.run_id).data.tags["babysweep.command"].splitlines()
    (trial,) = (studies.storage / "other" / "trials").iterdir()
    named = f"--study other --run-id {trial.name}"
    commands = [line.partition("  # ")[0] for line in lines]
    assert [command for command in commands if "recorded" in command] == [  # others promoted it too
        f"python sweeps/promote.py --name recorded --arch lstm {named} --force"
    ]


def test_lost_files_are_named_and_can_be_restored(studies, tmp_path, capsys) -> None:
    """The only study is the default; then files vanish from MLflow, and from the trial's folder.

    What MLflow lost comes back as the message says: as a new version, since the old one is broken.
    """
    alone = Studies(tmp_path / "alone", studies.corpus, studies.other, studies.benchmarks)
    folder = alone.copy(studies.folders()[0], "alone")
    assert alone.promote() == 0
    first = alone.version("lstm")
    (artifact,) = (alone.storage / "artifacts").rglob("model.safetensors")
    artifact.write_bytes(b"half")
    assert alone.promote() == 2
    assert f"the artifact `model` of run {first.run_id} lacks model.safetens" in error_of(capsys)
    alone.client.delete_run(first.run_id)
    alone.train("alone", folder.spec)
    assert alone.promote() == 0
    assert alone.version("lstm").run_id == alone.run_id("alone", folder) != first.run_id
    assert alone.versions("lstm") == 2
    capsys.readouterr()

    (folder.best_checkpoint / "tokenizer.json").unlink()
    assert alone.promote() == 2
    assert "lacks tokenizer.json: restore it from the artifact" in error_of(capsys)
    (folder.path / "outcome.json").unlink()
    assert alone.promote() == 2
    assert "has no outcome.json: run its sweep again" in error_of(capsys)
    shutil.rmtree(folder.path)
    assert alone.promote() == 2
    assert "give the --storage of its sweep" in error_of(capsys)


def test_help_needs_no_heavy_import() -> None:
    """The script's --help names every flag; importing it loads neither torch nor MLflow."""
    command = [sys.executable, "sweeps/promote.py", "--help"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for flag in ("--arch", "--study", "--name", "--alias", "--run-id", "--force", "--storage"):
        assert flag in output
    code = "import sys, sweeps.promote; sys.exit(bool({'torch', 'mlflow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_two_versions_fit_a_terminal(tmp_path) -> None:
    """Side by side in 80 columns, each run's id whole; below them what shows MLflow's pages."""
    before, after = (
        ModelVersion("lstm", str(number), 0, run_id=str(number) * 32) for number in (1, 2)
    )
    output = io.StringIO()
    console = Console(file=output, width=80, force_terminal=True, color_system=None)
    show_promotion(Promotion(before, after, is_new=True), "teacher", tmp_path, console)
    lines = output.getvalue().splitlines()
    assert any(before.run_id in line and after.run_id in line for line in lines)
    assert "models:/lstm@teacher is version 2 now, a new version." in lines
    assert lines[-2:] == [
        f"Browse      make ui STORAGE={tmp_path}",
        "            http://127.0.0.1:5000/#/models/lstm",
    ]
