"""Two runs beside each other."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from analysis import compare
from analysis.benchmarks import Suite
from analysis.inference import difference
from analysis.samples import sample
from analysis.study import Study
from tests.made_study import MadeStudy, base_spec, suite


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeStudy:
    """Two architectures at one rate, a shorter trial that an earlier version gave the name of
    another, and one that diverged before its first epoch."""
    study = MadeStudy(tmp_path_factory.mktemp("made"))
    study.sweep(["mamba", "hgrn2"], (1e-2,), (0, 1))
    (shorter,) = study.add([base_spec("hgrn2", epochs=2)], kind="epoch study")
    MlflowClient(study.uri).set_tag(shorter, "mlflow.runName", "hgrn2 lr=1e-2 seed=0")
    study.add([base_spec("lstm")], outcome=None)
    return study


def compared(made: MadeStudy, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What the command prints."""
    assert compare.main([*words, "--storage", str(made.storage)]) == 0
    return capsys.readouterr().out


def test_settings_and_scores_stand_beside_each_other(
    made: MadeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only what differs in the spec, both figures, and the difference with its interval."""
    study = Study.open(made.uri, "study", "")
    runs = study.trials[study.trials["seed"] == 1].set_index("arch")["run_id"]
    output = compared(made, capsys, runs["mamba"], runs["hgrn2"][:10])
    settings = output[: output.index("At the epoch")]
    assert "arch" in settings
    assert not any(name in settings for name in ("batch_size", "params", "spec_hash", "hardware"))
    scores = [study.scores(runs[arch], 3) for arch in ("mamba", "hgrn2")]
    expected = difference(*(sample([found], "blimp", "all") for found in scores if found))
    assert f"{expected.mean:+.2f}" in output
    assert f"{expected.low:+.2f} to {expected.high:+.2f}" in output


def test_a_trial_is_known_by_its_folder_too(
    made: MadeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its hash is what checkpoints' paths show."""
    trials = Study.open(made.uri, "study", "").trials.set_index(["arch", "seed"])
    hashes = [trials.loc[(arch, 1), "spec_hash"] for arch in ("mamba", "hgrn2")]
    ids = [trials.loc[(arch, 1), "run_id"] for arch in ("mamba", "hgrn2")]
    by_hash = compared(made, capsys, hashes[0], hashes[1][:12])
    assert by_hash == compared(made, capsys, *ids)


def test_the_held_out_items_can_be_asked_for(
    made: MadeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    """The figures are those of the part that is named."""
    names = "mamba lr=1e-2 seed=0", "mamba lr=1e-2 seed=1"
    output = compared(made, capsys, *names, "--part", "held_out")
    study = Study.open(made.uri, "study", "")
    found = study.epochs.query("arch == 'mamba' and seed == 0 and epoch == 3")
    assert "Scores on held-out items" in output
    assert f"{found['held_out_blimp'].iloc[0]:.2f}" in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("hgrn2 lr=1e-2 seed=0", "nothing"), "2 trials are 'hgrn2 lr=1e-2 seed=0': "),
        (("lstm lr=1e-2 seed=0", "nothing"), "has not ended with a finished epoch"),
        (("mamba lr=1e-2 seed=0", "nothing"), "no trial 'nothing'; give more of the id"),
        (("mamba lr=1e-2 seed=0", "mamba lr=1e-2 seed=0"), "are the same run: give two"),
        (("mamba lr=1e-2 seed=0", "lstm lr=1e-2 seed=0"), "has not ended with a finished epoch"),
        (("a", "b", "--study", "other"), "no study 'other'"),
    ],
)
def test_errors_say_which_run_is_meant(
    made: MadeStudy, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    """Nothing, several, the same, or an unfinished run: the message says what to give."""
    assert compare.main([*words, "--storage", str(made.storage)]) == 2
    assert message in capsys.readouterr().err


def test_what_tells_trials_of_one_name_apart_is_named(
    made: MadeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the beginning of the id to give for each, which is enough."""
    words = ["hgrn2 lr=1e-2 seed=0", "mamba lr=1e-2 seed=0", "--storage", str(made.storage)]
    assert compare.main(words) == 2
    said = " ".join(capsys.readouterr().err.split())
    found = re.findall(r"(\w{8}) \(epochs (\d)\)", said)
    assert sorted(epochs for _, epochs in found) == ["2", "3"]
    for start, _ in found:
        assert compare.main([start, *words[1:]]) == 0


def test_trials_of_several_studies_are_told_apart_by_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("first", "second"):
        MadeStudy(tmp_path, name=name, suite=None).sweep(["mamba"], (1e-2,), (0,))
    words = ["mamba lr=1e-2 seed=0", "x", "--storage", str(tmp_path)]
    assert compare.main(words) == 2
    said = capsys.readouterr().err
    assert "(study first)" in said
    assert "(study second)" in said


def test_other_items_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scores on other items have no difference, and of a run without scores that is said."""
    first = MadeStudy(tmp_path)
    first.add([base_spec("mamba")])
    MadeStudy(tmp_path, suite=suite({"blimp": {"a": 10}})).add([base_spec("hgrn2")])
    MadeStudy(tmp_path, suite=None).add([base_spec("lstm")])
    names = [f"{arch} lr=1e-2 seed=0" for arch in ("mamba", "hgrn2", "lstm")]
    assert "scored on different items" in compared(first, capsys, *names[:2])
    assert "No benchmark scores of lstm" in compared(first, capsys, *names[1:])


def test_correlations_stand_without_an_interval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A benchmark that is no mean over items has both figures and their difference."""
    blimp, wug = suite({"blimp": {"a": 40}, "wug": {"adj": 40}}).benchmarks
    rated = tuple(replace(item, human=index % 7) for index, item in enumerate(wug.items))
    made = MadeStudy(tmp_path, suite=Suite((blimp, replace(wug, items=rated)), "2024"))
    runs = made.sweep(["mamba", "hgrn2"], (1e-2,), (0,))
    output = compared(made, capsys, *runs)
    study = Study.open(made.uri, "study", "")
    left, right = (study.epochs.query("run_id == @it and epoch == 3")["wug"].item() for it in runs)
    row = next(line for line in output.splitlines() if "wug" in line)
    assert [word for word in row.split() if word not in "│┃|"] == (
        ["wug", f"{left:.2f}", f"{right:.2f}", f"{left - right:+.2f}", *"----"]
    )


def test_a_store_without_trials_is_said_to_be_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No trial in the study, or in any: there is nothing to find."""
    made = MadeStudy(tmp_path)
    made.tracker([base_spec()])
    words = ["a", "b", "--storage", str(tmp_path)]
    assert compare.main(words) == 2
    assert "no trial in any study of the store yet" in capsys.readouterr().err
    assert compare.main([*words, "--study", "study"]) == 2
    assert "no trial in study 'study' yet" in capsys.readouterr().err


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The message lists the parts there are."""
    with pytest.raises(SystemExit, match="2"):
        compare.main(["a", "b", "--part", "half"])
    assert "held_out" in capsys.readouterr().err
