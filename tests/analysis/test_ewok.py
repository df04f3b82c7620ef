"""EWoK: rows become questions, zips are read in memory, no item is ever shown."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

import datasets
import pytest

from analysis.benchmarks import Benchmark, Item, load_suite
from analysis.benchmarks.ewok import read_ewok

REAL_ZIP = Path(__file__).resolve().parents[2].parent / "shared/data/ewok/ewok_fast.zip"
ROW = {
    "Domain": "spatial-relations",
    "Context1": "The ball is left of the box.",
    "Context2": "The ball is right of the box.",
    "Target1": "The box is right of the ball.",
    "Target2": "The box is left of the ball.",
}
QUESTION = Item(
    "spatial-relations",
    (" The box is right of the ball.", " The box is left of the ball."),
    context="The ball is left of the box.",
)


def write(folder: Path, *rows: dict[str, str]) -> Path:
    folder.mkdir(exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "spatial-relations.jsonl").write_text(text)
    return folder


def encrypted(tmp_path: Path, folder: Path, password: str) -> Path:
    """A zip file with a password, made by the `zip` program (Python only reads them)."""
    if shutil.which("zip") is None:
        pytest.skip("needs the zip program to make a file with a password")
    file = tmp_path / "ewok_fast.zip"
    command = ["zip", "-q", "-r", "-P", password, str(file), folder.name]
    subprocess.run(command, cwd=folder.parent, check=True)
    return file


def test_a_row_is_one_question(tmp_path: Path) -> None:
    """The first target is right after the first context; the file itself holds swapped items."""
    (item,) = read_ewok(write(tmp_path / "ewok", ROW))
    assert replace(item, cluster="") == QUESTION


def test_a_context_blind_model_has_no_error(tmp_path: Path) -> None:
    """It answers an item and its swapped twin alike, one of them rightly: always 50 %, exactly."""
    swap = {"Context1": "Context2", "Context2": "Context1", "Target1": "Target2"}
    rows = [{**ROW, "Context1": f"{n} {ROW['Context1']}"} for n in range(6)]
    twins = [
        {**row, "Target2": row["Target1"], **{k: row[v] for k, v in swap.items()}} for row in rows
    ]
    benchmark = Benchmark("ewok", read_ewok(write(tmp_path / "ewok", *rows, *twins)))
    blind = [1.0] * 4 + [0.0] * 2 + [0.0] * 4 + [1.0] * 2
    assert benchmark.figure(blind) == 50.0
    assert benchmark.error(blind) == 0.0
    assert benchmark.error([1.0] * 6 + [0.0] * 3 + [1.0] * 3) > 0


def test_the_hubs_items_are_asked_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the hub an item is one row: after the second context the second target is right."""
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda hub_id: ["default"])
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: {"test": [ROW]})
    swapped = Item(QUESTION.task, QUESTION.options[::-1], context=ROW["Context2"])
    (benchmark,) = load_suite("hub", "2024", ["ewok"]).benchmarks
    assert benchmark.dataset == "ewok-core/ewok-core-1.0"
    items = benchmark.items
    assert tuple(replace(item, cluster="") for item in items) == (QUESTION, swapped)
    assert items[0].cluster == items[1].cluster != ""


def test_a_plain_zip_is_read_like_a_folder(tmp_path: Path) -> None:
    """A zip without password needs none."""
    folder = write(tmp_path / "ewok", ROW, ROW)
    with zipfile.ZipFile(tmp_path / "ewok.zip", "w") as archive:
        archive.write(folder / "spatial-relations.jsonl", "deep/spatial-relations.jsonl")
    assert read_ewok(tmp_path / "ewok.zip") == read_ewok(folder)


def test_a_zip_with_password_is_read_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The password comes as an argument or from the environment; nothing is unpacked to disk."""
    data = tmp_path / "data"
    data.mkdir()
    file = encrypted(data, write(tmp_path / "ewok", ROW), "open sesame")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (item,) = read_ewok(file, "open sesame")
    assert item.options == QUESTION.options
    monkeypatch.setenv("BABYSWEEP_EWOK_PASSWORD", "open sesame")
    (benchmark,) = load_suite(data, "2024").benchmarks
    assert benchmark.items == (item,)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_wrong_or_missing_password_is_named(tmp_path: Path) -> None:
    """The message says whether the password is missing or wrong, and where to give it."""
    file = encrypted(tmp_path, write(tmp_path / "ewok", ROW), "open sesame")
    with pytest.raises(ValueError, match="needs a password: give --ewok-password, or set BABY"):
        read_ewok(file)
    for wrong in ("sesame", "x", "open  sesame"):
        with pytest.raises(ValueError, match=r"wrong password for .*ewok_fast.zip"):
            read_ewok(file, wrong)


def test_what_systems_put_into_a_zip_is_passed_over(tmp_path: Path) -> None:
    """Hidden files beside the items."""
    folder = write(tmp_path / "ewok", ROW)
    with zipfile.ZipFile(tmp_path / "ewok.zip", "w") as archive:
        archive.write(folder / "spatial-relations.jsonl", "ewok/spatial-relations.jsonl")
        archive.writestr("__MACOSX/ewok/._spatial-relations.jsonl", b"\0\5\x16\7")
    assert read_ewok(tmp_path / "ewok.zip") == read_ewok(folder)


def test_a_zip_of_another_method_is_told_from_a_wrong_password(tmp_path: Path) -> None:
    """Such as AES, which Python does not read."""
    file = tmp_path / "ewok.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.jsonl", "{}")
    content = file.read_bytes()
    for header, method in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        start = content.index(header)
        flags = content[start + method - 2 : start + method]
        assert flags == b"\0\0"
        content = content[: start + method - 2] + b"\1\0\x63\0" + content[start + method + 2 :]
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"ewok\.zip, a\.jsonl is packed in a way that is"):
        read_ewok(file, "open sesame")


def test_what_is_no_zip_is_named(tmp_path: Path) -> None:
    """A broken download is an error with the file's name."""
    (tmp_path / "ewok.zip").write_bytes(b"not a zip")
    with pytest.raises(ValueError, match=r"ewok.zip is not a sound zip file"):
        read_ewok(tmp_path / "ewok.zip")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with pytest.raises(ValueError, match=r"empty.zip holds no \*.jsonl file"):
        read_ewok(tmp_path / "empty.zip")


def test_bad_rows_are_named_without_their_text(tmp_path: Path) -> None:
    """File and line are named; the item itself is not shown."""
    folder = write(tmp_path / "ewok", ROW, {**ROW, "Target2": ""})
    with pytest.raises(ValueError, match=r"jsonl, line 2: field 'Target2' is missing") as caught:
        read_ewok(folder)
    assert "ball" not in str(caught.value)
    with (folder / "spatial-relations.jsonl").open("a") as file:
        file.write('{"Context1": "The ball')
    write(folder, ROW)
    (folder / "x.jsonl").write_text('{"Context1": "The ball')
    with pytest.raises(ValueError, match=r"x.jsonl, line 1: not valid JSON") as caught:
        read_ewok(folder)
    assert "ball" not in str(caught.value)


@pytest.mark.skipif(not REAL_ZIP.is_file(), reason="no public EWoK file")
def test_the_public_file_loads() -> None:
    """The public fast file has 11 domains of 100 questions."""
    items = read_ewok(REAL_ZIP, "BabyLM2025")
    assert len({item.task for item in items}) == 11
    assert len(items) == 1100
