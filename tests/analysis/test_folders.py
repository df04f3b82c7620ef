"""What a folder of benchmarks holds is told whole: what is scored, and what not and why."""

from __future__ import annotations

import json
import shutil
import zipfile
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from analysis.benchmarks import BenchmarkSource, folders, glue, load_suite
from analysis.benchmarks.classification import TaskData
from analysis.benchmarks.folders import entry_rows, survey
from analysis.benchmarks.kinds import ALL_KINDS
from sweeps.engine.scoring.tasks import check_folder
from tests.contracts.benchmark_folders import write_folder

RTE = {"sentence1": "a", "sentence2": "b", "label": 0}
RTE_TASK = (glue.find_task("rte"),)


@pytest.fixture
def full_eval(tmp_path: Path) -> Path:
    """As the challenge's organisers ship it, with files of one's own beside."""
    folder = tmp_path / "evaluation_data" / "full_eval"
    folder.mkdir(parents=True)
    for kind in ALL_KINDS:
        write_folder(kind, folder)
    for name in ("cdi_childes", "vqa_filtered", "mine", "glue_filtered"):
        (folder / name).mkdir()
        (folder / name / "data.csv").write_text("x\n")
    for part in ("train", "valid"):
        (folder / "glue_filtered" / f"rte.{part}.jsonl").write_text(json.dumps(RTE) + "\n")
    (folder / "blimp.csv").write_text("a,b\n")
    (folder / "blimp_small" / "more.jsonl.gz").touch()
    return folder


def test_everything_in_the_folder_is_accounted_for(full_eval: Path) -> None:
    """Each name once: scored with its number of items, or left out with the reason."""
    suite = load_suite(full_eval, "2025", ["all"])
    told = {
        name: (kind, fate)
        for name, kind, fate in entry_rows(survey(full_eval), suite.benchmarks, ())
    }
    assert set(told) == {path.name for path in full_eval.iterdir()}
    for benchmark in suite.benchmarks:
        kind, fate = told[benchmark.dataset]
        assert (kind, fate.split(" items")[0]) == (benchmark.name, f"to score: {len(benchmark)}")
    assert told["blimp_small"][1].endswith("(not read in it: more.jsonl.gz)")
    for name, reason in {
        "cdi_childes": "age of acquisition is not scored",
        "vqa_filtered": "pictures are not scored",
        "mine": "no benchmark is called so (blimp*, ",
        "blimp.csv": "it is no folder with *.jsonl, *.csv, *.tsv files with the fields ",
        "glue_filtered": "fine-tuned only with --tasks glue",
    }.items():
        assert told[name][1].startswith("left out: ")
        assert reason in told[name][1]


def test_what_was_not_asked_for_is_told(full_eval: Path) -> None:
    """With the flag that asks for it."""
    write_folder(ALL_KINDS[0], full_eval.parent)
    (full_eval.parent / "blimp_small").rename(full_eval / "blimp_fast")
    suite = load_suite(full_eval, "2025", ["blimp_small"])
    told = {
        name: fate for name, _, fate in entry_rows(survey(full_eval), suite.benchmarks, RTE_TASK)
    }
    assert told["blimp_fast"] == "left out: blimp_small is scored; --tasks blimp_fast"
    assert told["comps_small"] == "left out: not asked for; --tasks comps"
    assert told["glue_filtered"] == "fine-tuned on: rte"


@pytest.fixture
def evaluation_data(full_eval: Path) -> Path:
    """The folder above, with the challenge's smaller benchmarks beside: wugs are in both."""
    fast_eval = full_eval.parent / "fast_eval"
    fast_eval.mkdir()
    for kind in ALL_KINDS:
        if kind.name in ("blimp", "wug", "reading"):
            write_folder(kind, fast_eval)
    (fast_eval / "blimp_small").rename(fast_eval / "blimp_fast")
    (full_eval.parent / "images").mkdir()
    return full_eval.parent


@pytest.mark.parametrize(("fast", "depth"), [(True, "fast_eval"), (False, "full_eval")])
def test_of_the_challenges_two_folders_one_is_scored(
    fast: bool, depth: str, evaluation_data: Path
) -> None:
    """What a kind has in the one asked for, else in the other; every folder is told of, once."""
    suite = load_suite(BenchmarkSource(str(evaluation_data), ("all",), fast=fast), "2025")
    places = {
        b.name: str(b.place and b.place.relative_to(evaluation_data)) for b in suite.benchmarks
    }
    assert set(places) == {kind.name for kind in ALL_KINDS}
    assert places["wug"] == f"{depth}/wug_adj_small"
    assert places["reading"] == f"{depth}/reading_small"
    assert places["blimp"] == ("fast_eval/blimp_fast" if fast else "full_eval/blimp_small")
    assert places["comps"] == "full_eval/comps_small"
    assert {b.dataset for b in suite.benchmarks} >= {"wug_adj_small", "comps_small"}
    told = list(entry_rows(survey(evaluation_data), suite.benchmarks, RTE_TASK))
    names = [name for name, _, _ in told]
    inside = [p for p in evaluation_data.glob("*/*") if p.parent.name.endswith("_eval")]
    assert sorted(names) == sorted([*(f"{p.parent.name}/{p.name}" for p in inside), "images"])
    scored = {name for name, _, fate in told if fate.startswith("to score")}
    assert scored == set(places.values())
    fates = {name: fate for name, _, fate in told}
    other = "full_eval/wug_adj_small" if fast else "fast_eval/wug_adj_small"
    assert fates[other] == f"left out: wug_adj_small is scored; --tasks {other}"
    assert fates["full_eval/glue_filtered"] == "fine-tuned on: rte"


def test_one_of_the_two_folders_may_be_named_or_be_alone(evaluation_data: Path) -> None:
    """By its whole name or by its own, where the depth decides; and without the other."""
    for task, fast, place in (
        ("fast_eval/wug_adj_small", False, "fast_eval/wug_adj_small"),
        ("wug_adj_small", False, "full_eval/wug_adj_small"),
        ("wug_adj_small", True, "fast_eval/wug_adj_small"),
        ("blimp_fast", False, "fast_eval/blimp_fast"),
    ):
        source = BenchmarkSource(str(evaluation_data), (task,), fast=fast)
        assert load_suite(source, "2025").benchmarks[0].place == evaluation_data / place
    (evaluation_data / "full_eval").rename(evaluation_data / "other")
    (wug,) = load_suite(
        BenchmarkSource(str(evaluation_data), ("wug",), fast=False), "2025"
    ).benchmarks
    assert wug.place == evaluation_data / "fast_eval/wug_adj_small"


def test_glue_is_found_in_either_folder(evaluation_data: Path) -> None:
    """The challenge has it in `full_eval`."""
    assert glue.find(evaluation_data) == evaluation_data / "full_eval/glue_filtered"


def test_the_folder_further_above_is_refused_with_the_one_to_give(evaluation_data: Path) -> None:
    """As a zip file unpacks it; for zero-shot tasks and for GLUE."""
    above = evaluation_data.parent
    with pytest.raises(ValueError, match="itself: give the folder that holds them") as error:
        load_suite(above, "2025", ["all"])
    assert str(error.value).endswith(f"--benchmarks {evaluation_data}")
    with pytest.raises(ValueError, match=rf"no files of glue in .*--benchmarks {evaluation_data}$"):
        check_folder(str(above), ["rte"])


@pytest.mark.parametrize("above", range(4))
def test_the_nearest_ones_are_found(full_eval: Path, above: int) -> None:
    """However far below; others that are further, hidden or in a circle are not named."""
    data = full_eval.parent
    for folder in (data / "a" / "b" / "c", data / ".cache"):
        folder.mkdir(parents=True)
        write_folder(ALL_KINDS[0], folder)
    (data / "round").symlink_to(data)
    top = data.parent
    if above:
        top = top / "top"
        top.joinpath(*["more"] * above).mkdir(parents=True)
        data = data.rename(top.joinpath(*["more"] * above, "evaluation_data"))
    with pytest.raises(ValueError, match="itself: give the folder that holds them") as error:
        load_suite(top, "2025", ["all"])
    assert str(error.value).endswith(f"--benchmarks {data}")


def test_a_hint_is_not_looked_for_without_end(
    full_eval: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder may be a whole disk."""
    monkeypatch.setattr(folders, "_MOST_FOLDERS", 1)
    top = full_eval.parents[1]
    (top / "more").mkdir()
    full_eval.parent.rename(top / "more" / "evaluation_data")
    with pytest.raises(ValueError, match="looked at it and at what is in it for names"):
        load_suite(top, "2025")


@pytest.mark.parametrize("kind", ALL_KINDS, ids=lambda kind: kind.name)
def test_suffixes_may_be_in_capitals(kind, tmp_path: Path) -> None:
    """As some systems write them, and as corpora may have them."""
    folder = write_folder(kind, tmp_path)
    items = load_suite(tmp_path, "2025").benchmarks[0].items
    for file in [*folder.glob("*.jsonl"), *folder.glob("*.csv")]:
        file.rename(file.with_suffix(file.suffix.upper()))
    suite = load_suite(tmp_path, "2025")
    assert suite.benchmarks[0].items == items
    ((_, _, told),) = entry_rows(survey(tmp_path), suite.benchmarks, ())
    assert told == f"to score: {len(items)} items"


def test_suffixes_of_glue_and_of_zips_may_be_in_capitals(tmp_path: Path) -> None:
    """Of the one both files, and the folder is found by them."""
    for part in ("train", "valid"):
        (tmp_path / f"rte.{part}.Jsonl").write_text(json.dumps(RTE) + "\n")
    assert glue.find(tmp_path) == tmp_path
    assert isinstance(glue.read_task(tmp_path, "rte"), TaskData)
    assert [entry.group for entry in survey(tmp_path)] == ["glue"]
    (tmp_path / "ewok.ZIP").touch()
    assert {entry.dataset for entry in survey(tmp_path)} == {"ewok", tmp_path.name}


@pytest.mark.parametrize("kind", ALL_KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("file", ["pairs.csv", "pairs.txt", "pairs.jsonl.gz"])
def test_other_formats_are_refused_with_what_is_expected(kind, file: str, tmp_path: Path) -> None:
    """The folder's content is named, and files and fields that it should have."""
    folder = tmp_path / kind.folders[0].replace("*", "_own")
    folder.mkdir()
    file = f"{file}.bz2" if any(fnmatchcase(file, form) for form in kind.files) else file
    (folder / file).touch()
    for path in (tmp_path, folder):
        with pytest.raises(ValueError, match=rf"called like the benchmark {kind.name}") as error:
            load_suite(path, "2025")
        assert f"holds {file}: expected {kind.expects}" in str(error.value)
    assert kind.expects != "*.jsonl files"


@pytest.mark.parametrize("kind", ALL_KINDS, ids=lambda kind: kind.name)
def test_what_lies_beside_is_told_or_hidden(kind, tmp_path: Path) -> None:
    """Data of another form is named; what systems leave behind, and a folder so called, is passed
    over and breaks nothing."""
    folder = write_folder(kind, tmp_path)
    read = load_suite(tmp_path, "2025").hash
    (folder / "more.json").write_text("[]")
    (folder / "old.jsonl~").write_text("{}")
    (folder / "._a.jsonl").write_bytes(b"\0\5\x16\7")
    (folder / "b.jsonl").mkdir()
    (folder / "README.md").touch()
    suite = load_suite(tmp_path, "2025")
    ((_, _, told),) = entry_rows(survey(tmp_path), suite.benchmarks, ())
    assert told.endswith("(not read in it: b.jsonl, more.json, old.jsonl~)")
    assert suite.hash == read


def test_one_item_is_one(tmp_path: Path) -> None:
    """In the table, as everywhere."""
    (tmp_path / "blimp_own").mkdir()
    row = {"sentence_good": "a cat sleeps", "sentence_bad": "a cat sleep"}
    (tmp_path / "blimp_own" / "a.jsonl").write_text(json.dumps(row))
    suite = load_suite(tmp_path, "2025")
    ((_, _, told),) = entry_rows(survey(tmp_path), suite.benchmarks, ())
    assert told == "to score: 1 item"


def test_a_zip_gives_way_to_its_folder(tmp_path: Path) -> None:
    """Unpacked beside itself, as the challenge's EWoK is: no password is asked for."""
    ewok = next(kind for kind in ALL_KINDS if kind.name == "ewok")
    write_folder(ewok, tmp_path)
    (tmp_path / "ewok_small.zip").write_bytes(b"a zip with a password")
    (benchmark,) = load_suite(tmp_path, "2025").benchmarks
    told = {name: fate for name, _, fate in entry_rows(survey(tmp_path), (benchmark,), ())}
    assert told["ewok_small.zip"] == "left out: the folder ewok_small is read instead"


def test_files_of_glue_beside_benchmarks_hide_nothing(tmp_path: Path) -> None:
    """They may lie in the folder itself."""
    write_folder(ALL_KINDS[0], tmp_path)
    (tmp_path / "rte.valid.jsonl").write_text(json.dumps(RTE) + "\n")
    assert {entry.group for entry in survey(tmp_path)} == {"glue", ""}
    assert len(load_suite(tmp_path, "2025").benchmarks) == 1


MARK = b"\xef\xbb\xbf"


def as_some_editors_write(content: bytes) -> bytes:
    """With a byte-order mark, CRLF, and blank lines at the end."""
    return MARK + content.replace(b"\n", b"\r\n") + b"\r\n\r\n"


@pytest.mark.parametrize("kind", ALL_KINDS, ids=lambda kind: kind.name)
def test_marks_and_line_ends_of_editors_change_nothing(kind, tmp_path: Path) -> None:
    """In every kind of file that a benchmark is read from."""
    folder = write_folder(kind, tmp_path)
    expected = load_suite(tmp_path, "2025").hash
    for file in folder.iterdir():
        file.write_bytes(as_some_editors_write(file.read_bytes()))
    assert load_suite(tmp_path, "2025").hash == expected


def test_they_change_nothing_in_glue_and_zips(tmp_path: Path) -> None:
    """GLUE's files, and a zip of EWoK's."""
    row = as_some_editors_write(json.dumps(RTE).encode() + b"\n")
    for part in ("train", "valid"):
        (tmp_path / f"rte.{part}.jsonl").write_bytes(row * 2)
    task = glue.read_task(tmp_path, "rte")
    assert isinstance(task, TaskData)
    assert len(task.train) == 2
    ewok = next(kind for kind in ALL_KINDS if kind.name == "ewok")
    folder = write_folder(ewok, tmp_path)
    expected = load_suite(tmp_path, "2025").hash
    with zipfile.ZipFile(tmp_path / "ewok.zip", "w") as archive:
        for file in folder.iterdir():
            archive.writestr(file.name, as_some_editors_write(file.read_bytes()))
    shutil.rmtree(folder)
    assert load_suite(tmp_path, "2025").hash == expected


@pytest.mark.parametrize(
    "kind", [k for k in ALL_KINDS if "*.jsonl" in k.files], ids=lambda k: k.name
)
def test_commas_and_brackets_of_a_list_are_read(kind, tmp_path: Path) -> None:
    """Where they mean nothing: after a row, before its bracket, around all rows."""
    folder = write_folder(kind, tmp_path)
    expected = load_suite(tmp_path, "2025").hash
    for file in folder.glob("*.jsonl"):
        rows = [f"{line[:-1]},}}," for line in file.read_text().splitlines()]
        file.write_text("\n".join(["[", *rows, "]"]))
    assert load_suite(tmp_path, "2025").hash == expected
