"""The report of a study, in every state that a study can be in."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from analysis import report
from analysis.arguments import ReportArgs
from analysis.errors import without_secret
from analysis.reporting.page import Page
from analysis.reporting.writing import write_report
from analysis.study import Study, compared
from tests.made_study import SKILL, MadeStudy, base_spec, draw_nothing, suite
from tests.notation import faults, texts_of_page

ROOT = Path(__file__).resolve().parents[2]
TEACHER = {"teacher": "abcd", "teacher_name": "hgrn2 version 1", "alpha": 0.5}
LRS = (3e-3, 1e-2, 3e-2)

pytestmark = pytest.mark.usefixtures("empty_pictures")


class Text(HTMLParser):
    """The visible text of a page, and where its links lead."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.links: list[str] = []
        self._hidden = False
        self.feed(html)
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden = tag in ("script", "style")
        self.links += [value or "" for name, value in attrs if tag == "a" and name == "href"]

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words.append(data)


def written(made: MadeStudy, *words: str) -> Text:
    """Run the command; returns the page that it wrote."""
    assert report.main(["--storage", str(made.storage), *words]) == 0
    html = (made.storage / made.name / "report" / "report.html").read_text()
    return Text(html)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> MadeStudy:
    """A sweep with a diverged rate, branches, and students with their controls."""
    made = MadeStudy(tmp_path_factory.mktemp("whole"))
    made.sweep(["mamba", "hgrn2"], LRS, (0, 1, 2))
    made.add([base_spec("mamba", lr=1e-1)], outcome="diverged")
    branch = {"schedule": "wsd", "warmup_steps": 10}
    branches = [base_spec(seed=s, epochs=e, **branch) for e in (1, 2, 3) for s in (0, 1, 2)]
    made.add(branches, kind="epoch study")
    made.add([base_spec(seed=s, **TEACHER) for s in (0, 1, 2)], kind="distillation", bonus=0.02)
    return made


@pytest.fixture(scope="module")
def report_page(whole: MadeStudy) -> Page:
    """Its report, written to its folder."""
    args = ReportArgs(storage=whole.storage, ui="https://mlflow.example.org/base/")
    page, _ = write_report(args, lambda text: None)
    return page


@pytest.fixture(scope="module")
def page(whole: MadeStudy, report_page: Page) -> Text:
    """What is to be read of it."""
    return Text((whole.storage / "study" / "report" / "report.html").read_text())


@pytest.fixture
def folder(whole: MadeStudy, page: Text) -> Path:
    """Where that was written."""
    return whole.storage / "study" / "report"


def test_there_is_one_notation(report_page: Page) -> None:
    """Of learning rates, losses and spreads, in sentences, tables and pictures; and no plural of
    one."""
    assert faults(texts_of_page(report_page)) == []


def test_every_question_is_answered(page: Text) -> None:
    """Architecture, rate, epochs and distillation each have a sentence with its uncertainty."""
    for answer in (
        r"macro",
        "Best learning rate by validation loss: hgrn2 1e-2, mamba 1e-2.",
        "branch: best after 3 epochs",
        "hgrn2 taught by hgrn2 version 1 (alpha 0.5, T 1): the teacher gains",
        "paired over 3 seeds",
        "Diverged: mamba lr=1e-1 seed=0.",
    ):
        assert answer in page.text


def test_every_figure_leads_to_its_run(page: Text, folder: Path) -> None:
    """All runs of the study are linked, under the address that was asked for, and every table of
    figures leads to those it is of."""
    runs = [link for link in page.links if "/runs/" in link]
    assert len(set(runs)) >= 19 + 9 + 3
    assert all(link.startswith("https://mlflow.example.org/base/#/experiments/") for link in runs)
    for name in ("leaderboard", "benchmarks", "pairs", "seeds", "optima", "rates", "epochs"):
        assert (folder / "tables" / f"{name}.csv").read_text().count("/runs/") > 1, name
    for name in ("distillation", "phenomena", "optimism", "published_best", "trials"):
        assert (folder / "tables" / f"{name}.csv").read_text().count("/runs/") > 1, name


def test_the_leaderboard_has_the_held_out_figures(whole: MadeStudy, folder: Path) -> None:
    """Its macro is the mean over seeds of what the trials recorded on the held-out items at their
    best epoch, and beside it stands that on all items."""
    study = Study.open(whole.uri, "study", "")
    best = study.trials.rename(columns={"best_epoch": "epoch"})[["run_id", "epoch"]]
    at_best = study.epochs.merge(best, on=["run_id", "epoch"])
    board = pd.read_csv(folder / "tables" / "leaderboard.csv").set_index("architecture")
    each = pd.read_csv(folder / "tables" / "benchmarks.csv").set_index("architecture")
    for arch in ("mamba", "hgrn2"):
        of_sweep = compared(study.trials)
        runs = of_sweep[(of_sweep["arch"] == arch) & (of_sweep["lr"] == 1e-2)]["run_id"]
        mine = at_best[at_best["run_id"].isin(runs)]
        assert len(mine) == 3
        assert board.loc[arch, "macro"] == pytest.approx(mine["held_out_macro"].mean())
        assert board.loc[arch, "macro, all items"] == pytest.approx(mine["macro"].mean())
        assert board.loc[arch, "macro"] != pytest.approx(board.loc[arch, "macro, all items"])
        assert each.loc[arch, "bear"] == pytest.approx(mine["held_out_bear"].mean())


def test_the_gain_is_control_minus_student_by_seed(whole: MadeStudy, folder: Path) -> None:
    """Each student stands against the trial of its own seed that differs in the teacher only."""
    study = Study.open(whole.uri, "study", "")
    trials = study.trials[(study.trials["arch"] == "hgrn2") & (study.trials["schedule"] != "wsd")]
    trials = trials[trials["lr"] == 1e-2]
    taught = trials["teacher"] != ""
    figures = [t.set_index("seed")["bits_per_byte"] for t in (trials[~taught], trials[taught])]
    gain = pd.read_csv(folder / "tables" / "distillation.csv")["gain"].iloc[0]
    assert gain == pytest.approx((figures[0] - figures[1]).mean())


def test_other_settings_are_not_compared_in_silence(tmp_path: Path) -> None:
    """An architecture that was trained otherwise is named, with what differs."""
    made = MadeStudy(tmp_path)
    made.sweep(["mamba"], LRS, (0,), epochs=3)
    made.sweep(["hgrn2"], LRS[:2], (0,), epochs=2)
    page = written(made)
    assert "2 trials of hgrn2 cannot be compared with the others" in page.text
    assert "epochs 2, not 3" in page.text


def test_precisions_are_not_mixed(tmp_path: Path) -> None:
    """Of trials that differ in precision only the more numerous are compared."""
    made = MadeStudy(tmp_path)
    made.sweep(["mamba"], LRS, (0,))
    made.add([base_spec("mamba", lr=lr, precision="bf16") for lr in LRS[:2]])
    page = written(made)
    rates = pd.read_csv(tmp_path / "study" / "report" / "tables" / "rates.csv")
    assert list(rates["seeds"]) == [1, 1, 1]
    assert "precision bf16, not fp32" in page.text


def test_tables_and_pictures_stand_beside_the_page(folder: Path) -> None:
    """CSV, LaTeX, PNG and SVG of what the page shows; the CSV has the figures in full."""
    board = pd.read_csv(folder / "tables" / "leaderboard.csv")
    assert set(board["architecture"]) == {"hgrn2", "mamba"}
    assert len(f"{board['bits/byte'].iloc[0]}") > 8
    for name in ("leaderboard", "rates", "epochs", "gains", "phenomena", "cost"):
        assert (folder / "pictures" / f"{name}.png").stat().st_size > 10_000
        assert "<svg" in (folder / "pictures" / f"{name}.svg").read_text()
    assert "\\toprule" in (folder / "tables" / "pairs.tex").read_text()


def test_published_figures_stand_beside_ours(folder: Path) -> None:
    """HGRN2's and Mamba's published macro, their epochs, and the distilled HGRN2."""
    best = pd.read_csv(folder / "tables" / "published_best.csv").set_index("architecture")
    assert best.loc["hgrn2", "macro, published"] == 57.54
    assert 50 < best.loc["hgrn2", "macro, ours"] < 100
    assert len(pd.read_csv(folder / "tables" / "published_epochs.csv")) == 3
    distilled = pd.read_csv(folder / "tables" / "published_distillation.csv")
    assert len(distilled) == 2 * 4  # BLiMP, supplement, EWoK and BEAR, without and with a teacher
    assert distilled["published"].iloc[0] == 69.4


def test_final_scores_stand_with_chance_and_constant_answers(tmp_path: Path) -> None:
    """BEAR and GLUE of a best checkpoint: within chance, or no better than a constant, is said."""
    made = MadeStudy(tmp_path)
    made.sweep(["mamba"], (1e-2,), (0, 1))
    client = made.tracker([]).client
    run_id = made.add([base_spec("hgrn2")])[0]
    report_of_epoch = made.report(base_spec("hgrn2"), 3, 0.0)
    assert report_of_epoch.scores is not None
    scores = {**report_of_epoch.scores, "benchmarks": {"bear": 21.0}}
    glue = {
        "rte": {"score": 50.0, "error": 1.0, "baseline": 54.0},
        "mrpc": {"score": 81.5, "error": 1.0, "baseline": 79.0},
    }
    client.log_dict(run_id, {"zero_shot": scores, "glue": glue}, "eval/scores.json")
    client.log_metric(run_id, "eval/bear", 21.0)
    page = written(made)
    table = pd.read_csv(tmp_path / "study" / "report" / "tables" / "finals.csv")
    assert list(table["model"]) == ["hgrn2 lr=1e-2 seed=0"]
    assert table["bear mark"].iloc[0] == "chance"
    assert table["rte mark"].iloc[0] == "no better than constant"
    assert (table["mrpc"].iloc[0], table["mrpc constant"].iloc[0]) == (81.5, 79.0)
    assert "1 model was scored once more at the best checkpoint, on bear, rte, mrpc." in page.text


@pytest.mark.parametrize(
    "select", ["selection-split", pytest.param("macro", marks=pytest.mark.slow)]
)
def test_choosing_is_apart_from_reporting(whole: MadeStudy, tmp_path: Path, select: str) -> None:
    """Each rule stands with its figures, and the macro's own is warned of."""
    words = ("--select", select, "--output", str(tmp_path))
    assert report.main(["--storage", str(whole.storage), *words]) == 0
    page = Text((tmp_path / "report.html").read_text())
    table = pd.read_csv(tmp_path / "tables" / "optimism.csv")
    assert len(table) == 2 * 3
    usual = table[table["chosen by"] == "macro on all items"].set_index("architecture")
    for row in table.to_dict("records"):
        gap = usual.loc[row["architecture"], "all items"] - row["held out"]
        assert row["usual minus held out"] == pytest.approx(gap)
    assert ("it is optimistic" in page.text) == (select == "macro")


def test_one_seed_is_warned_of(tmp_path: Path) -> None:
    """Nothing is claimed about other seeds from one."""
    made = MadeStudy(tmp_path)
    made.sweep(["mamba", "lstm"], (3e-3, 1e-2, 3e-2), (0,))
    page = written(made)
    assert "nothing is known of the spread over seeds" in page.text
    assert "says nothing of other seeds" in page.text


@pytest.fixture(scope="module")
def guessing(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Two architectures, two seeds, four rates: both answer by luck, and HGRN2's bits/byte are
    less. The text of its report, and the folder of its tables."""
    made = MadeStudy(tmp_path_factory.mktemp("guessing"))
    for arch, better in (("lstm", 0.0), ("hgrn2", 0.03)):
        specs = [base_spec(arch, lr=lr, seed=seed) for lr in (*LRS, 1e-1) for seed in (0, 1)]
        made.add(specs, bonus=better - 0.19 - SKILL[arch])
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        text = written(made).text
    return text, made.storage / "study" / "report" / "tables"


def test_scores_within_chance_name_no_winner(guessing: tuple[str, Path]) -> None:
    """The first answer says that no score is above chance, and leads on by validation loss; the
    table puts the least loss first and calls nobody best."""
    text, tables = guessing
    assert "No score is above chance (macro " in text
    assert "so the macro names no best architecture. By validation loss, hgrn2 is best" in text
    assert "scores best" not in text
    assert "beats" not in text
    board = pd.read_csv(tables / "leaderboard.csv")
    assert list(board["architecture"]) == ["hgrn2", "lstm"]
    assert list(board["architecture mark"].fillna("")) == ["least loss", ""]
    assert board["bits/byte"].is_monotonic_increasing
    assert (board["macro mark"] == "chance").all()
    signal = pd.read_csv(tables / "signal_to_noise.csv")
    assert (signal["above chance"] == 0).all()


def test_intervals_of_two_seeds_say_something(guessing: tuple[str, Path]) -> None:
    """Each of eight points tells how much seeds vary: no interval is from 0 to 100, and the report
    says what the spread was learnt from."""
    text, tables = guessing
    board = pd.read_csv(tables / "leaderboard.csv")
    widths = board["macro, 95 % interval high"] - board["macro, 95 % interval"]
    assert (widths < 30).all()
    assert "How much seeds vary is learnt from all 8 points" in text


def test_a_rate_beyond_that_has_begun_is_named(tmp_path: Path) -> None:
    """While a grid is extended the last rate that ended is not called the last one tried."""
    made = MadeStudy(tmp_path)
    made.sweep(["lstm"], (3e-3, 1e-2, 3e-2), (0,))
    assert "lstm: the best learning rate, 3e-2, is the highest tried" in written(made).text
    made.add([base_spec("lstm", lr=1e-1)], outcome=None)
    text = written(made).text
    assert "3e-2, is the highest that has ended; 1e-1, begun and not ended yet, may be" in text
    assert "the highest tried" not in text


def test_a_trajectory_that_is_best_at_its_end_is_warned_of(tmp_path: Path) -> None:
    """As a branch or a rate at its edge is; not where branches answer how many epochs are best."""
    made = MadeStudy(tmp_path, suite=None)
    made.sweep(["hgrn2"], (1e-2,), range(5))
    warning = "hgrn2: its last epoch is its best; the optimum may lie beyond."
    text = written(made).text
    assert "trajectory: best after 3 epochs" in text
    assert warning in text
    branch = {"schedule": "wsd", "warmup_steps": 10}
    made.add([base_spec(epochs=e, **branch) for e in (1, 2, 3)], kind="epoch study")
    text = written(made).text
    assert "hgrn2, branch: that is the longest horizon tried" in text
    assert warning not in text


def test_a_half_finished_study_says_what_is_missing(tmp_path: Path) -> None:
    """Trials that go on are counted, and the report is of the others."""
    made = MadeStudy(tmp_path)
    made.sweep(["mamba"], (3e-3, 1e-2), (0,))
    made.add([base_spec("mamba", lr=3e-2), base_spec("hgrn2")], outcome=None)
    page = written(made)
    assert "2 trials have not ended, of 4" in page.text
    assert "Only mamba has finished trials in the setting that is compared." in page.text


@pytest.mark.parametrize("outcome", [None, "diverged"])
def test_nothing_finished_is_a_report_that_says_so(tmp_path: Path, outcome: str | None) -> None:
    """All trials go on, or all diverged: no figure is made up."""
    made = MadeStudy(tmp_path)
    made.add([base_spec("mamba", lr=lr) for lr in LRS], outcome=outcome)
    page = written(made)
    assert "No trial has finished yet, so there is nothing to compare." in page.text
    expected = "Every learning rate diverged" if outcome else "3 trials have not ended, of 3"
    assert expected in page.text


def test_without_benchmarks_the_loss_is_reported(tmp_path: Path) -> None:
    """A study without scores has no empty tables of them, and says why."""
    made = MadeStudy(tmp_path, suite=None)
    made.sweep(["mamba", "hgrn2"], LRS, (0, 1))
    page = written(made)
    assert "No benchmark scores" in page.text
    assert "By validation loss, hgrn2 is best" in page.text
    assert not (tmp_path / "study" / "report" / "tables" / "optimism.csv").exists()


def test_clear_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No store, no study, several studies, an unknown one: each says what to do, with status 2."""
    assert report.main(["--storage", str(tmp_path)]) == 2
    assert "has no mlflow.db. Give the --storage of the sweeps" in capsys.readouterr().err
    made = MadeStudy(tmp_path / "storage")

    def error(*words: str) -> str:
        assert report.main(["--storage", str(made.storage), *words]) == 2
        return capsys.readouterr().err

    assert "has a run: run sweeps/lr_sweep.py first" in error()
    made.tracker([base_spec()])
    assert "has no trial yet: run" in error("--study", "study")
    assert "no study 'other'" in error("--study", "other")
    MadeStudy(made.storage, "second").add([base_spec()])
    made.add([base_spec()])
    assert "has several studies: give one as --study: second, study" in error()
    assert not (made.storage / "other").exists()


def test_scores_without_items_are_left_out(tmp_path: Path) -> None:
    """Scores that kept no items cannot give intervals: the report is of the losses, and says so."""
    made = MadeStudy(tmp_path)
    made.add([base_spec(), base_spec("mamba")])
    for file in tmp_path.rglob("scores/epoch-*.json"):
        scores = json.loads(file.read_text())
        del scores["items"]
        file.write_text(json.dumps(scores))
    page = written(made)
    assert "mamba lr=1e-2 seed=0 are missing or of an older version" in page.text
    assert "By validation loss, hgrn2 is best" in page.text


def test_a_password_of_the_store_is_not_shown() -> None:
    """User and password of a server's address stay out of the page."""
    assert without_secret("https://me:secret@host:5000/x") == "https://host:5000/x"
    assert without_secret("sqlite:////data/a@b/mlflow.db") == "sqlite:////data/a@b/mlflow.db"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_large_report_is_quick(tmp_path: Path) -> None:
    """Five architectures, five rates, three seeds, items as many as the real: under 30 s, 2 GB."""
    blimp = {f"uid_{number:02}": 900 for number in range(67)}
    supplement = {f"part_{number}": 1000 for number in range(5)}
    ewok = {f"domain_{number:02}": 690 for number in range(11)}
    items = {"blimp": blimp, "supplement": supplement, "ewok": ewok}
    made = MadeStudy(tmp_path, suite=suite(items))
    made.sweep(list(SKILL), (1e-3, 3e-3, 1e-2, 3e-2, 1e-1), (0, 1, 2), epochs=2)
    started = time.monotonic()
    command = [sys.executable, "analysis/report.py", "--storage", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert time.monotonic() - started < 30
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 2 * 1024**2  # KiB
