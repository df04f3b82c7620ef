"""What a folder of benchmarks holds is told by every command that is given one, once."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.benchmarks import HUB
from analysis.command_line import parse
from sweeps.arguments import EpochStudyArgs, LrSweepArgs, PaperArgs
from sweeps.engine.scoring.found import Found, look_into
from sweeps.epoch_study import run_epoch_study
from sweeps.lr_sweep import run_lr_sweep
from sweeps.paper import run_paper
from tests.analysis.benchmark_files import write_blimp, write_supplement

COMMANDS = {
    "lr-sweep": (run_lr_sweep, LrSweepArgs, ["--lrs", "1e-2"]),
    "epoch-study": (run_epoch_study, EpochStudyArgs, ["--lr", "1e-2"]),
    "paper": (run_paper, PaperArgs, ["--lrs", "1e-2", "3e-2", "--teacher-arch", "lstm"]),
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Benchmarks to score, with others beside that no flag asks for or that are not scored."""
    folder = tmp_path / "data"
    write_blimp(folder / "blimp_fast")
    (folder / "blimp_fast" / "y.jsonl.gz").touch()
    write_supplement(folder / "supplement_filtered")
    (folder / "vqa_filtered").mkdir()
    (folder / "rte.valid.jsonl").touch()
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_a_training_command_tells_once(
    name: str, data: Path, tiny_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is scored after every epoch or at the end, and what is left out and why: a dry run, too,
    and the study of several commands in one table."""
    run, kind, flags = COMMANDS[name]
    words = ["--arch", "lstm", "--corpus", str(tiny_text), "--storage", str(tmp_path / "storage")]
    words += ["--vocab-size", "280", "--context", "64", "--batch-size", "4", "--epochs", "1"]
    words += ["--benchmarks", str(data), "--tasks", "blimp", "--final-tasks", "supplement"]
    assert run(parse(kind, [*words, *flags, "--dry-run"], None)) == 0
    output = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for told in (
        "blimp_fast blimp to score: 5 items (not read in it: y.jsonl.gz)",
        "supplement_filtered supplement to score: 1 item",
        "vqa_filtered left out: pictures are not scored here",
        "data glue left out: fine-tuned only with --final-tasks glue, or one of its tasks (boolq, "
        "cola, mnli and 8 more)",
    ):
        assert output.count(told) == 1, (told, output)


@pytest.mark.parametrize("place", [None, HUB])
def test_where_no_folder_is_named_nothing_is_told(place: str | None) -> None:
    """Of the built-in benchmarks and of the hub."""
    assert look_into(place, [], (), "--tasks") == Found()
