"""Text from local files and from hub datasets, and what is said when there is none."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from trainables.corpus.readers import read_lines
from trainables.corpus.sources import HUB_IDS, TextSource, open_source

ROOT = Path(__file__).resolve().parents[2]
SHARED_CORPUS = ROOT.parent / "shared" / "data" / "corpus"


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), "utf-8")
    return path


def numbered(word: str, count: int = 40) -> list[str]:
    return [f"{word} {number}" for number in range(count)]


def texts(source: TextSource) -> tuple[list[str], list[str]]:
    return list(source.train()), list(source.dev())


def test_train_and_dev_folders(tmp_path: Path) -> None:
    """`train/*.train` go with `dev/*.dev` of the same stem, domains in order of their names."""
    write(tmp_path / "train" / "b.train", "b one", "", "  b two  ")
    write(tmp_path / "train" / "a.train", "a one")
    write(tmp_path / "dev" / "a.dev", "a dev")
    write(tmp_path / "dev" / "b.dev", "b dev")
    expected = (["a one", "b one", "b two"], ["a dev", "b dev"])
    assert texts(open_source(str(tmp_path))) == expected
    # The train folder alone finds the dev folder next to it.
    assert texts(open_source(str(tmp_path / "train"))) == expected


@pytest.mark.parametrize("suffix", [".train", ".train.txt", ".txt"])
@pytest.mark.parametrize("dev", ["a.dev", "a.dev.txt", "dev/a.dev"])
def test_suffixes(tmp_path: Path, suffix: str, dev: str) -> None:
    """Every spelling of a training file goes with every spelling and place of its dev file, for
    a folder and for a single file; test files are left alone."""
    train = write(tmp_path / f"a{suffix}", "train text")
    write(tmp_path / dev, "dev text")
    write(tmp_path / "a.test.txt", "test text")
    assert texts(open_source(str(tmp_path))) == (["train text"], ["dev text"])
    source = open_source(str(train))
    assert (source.name, *texts(source)) == ("a", ["train text"], ["dev text"])


def test_tail_is_held_out(tmp_path: Path) -> None:
    """A domain without a dev file gives its last 5%, cut at a line; nothing is lost."""
    lines = numbered("line", 1000)
    write(tmp_path / "a.txt", *lines)
    train, dev = texts(open_source(str(tmp_path)))
    assert train + dev == lines
    assert 40 <= len(dev) <= 50


def test_byte_order_mark_and_windows_lines(tmp_path: Path) -> None:
    """A byte order mark and carriage returns are no part of the text."""
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeffone\r\ntwö\r\n".encode())
    assert list(read_lines(file)) == ["one", "twö"]


def test_undecodable_byte(tmp_path: Path) -> None:
    """The error names the file, the byte's offset and its line, also in the held-out tail."""
    file = tmp_path / "a.txt"
    file.write_bytes(b"good\n" * 100 + b"bad \xff byte\n")
    source_lines = read_lines(file, start=450)
    with pytest.raises(ValueError, match=r"a\.txt is not UTF-8: byte 0xff at offset 504 .line 101"):
        list(source_lines)


def test_empty_file(tmp_path: Path) -> None:
    """A blank file is left out of a folder and said to be, and refused where it is needed."""
    write(tmp_path / "a.txt", *numbered("a"))
    empty = write(tmp_path / "b.txt", "", "  ")
    source = open_source(str(tmp_path))
    assert [(each.file, each.reason.what) for each in source.left_out] == [(empty, "no text in it")]
    with pytest.raises(ValueError, match=r"b\.txt has no text"):
        open_source(str(empty))
    write(tmp_path / "a.dev", "")
    with pytest.raises(ValueError, match=r"a\.dev has no text"):
        open_source(str(tmp_path))


def test_empty_folder(tmp_path: Path) -> None:
    """A folder without training files says which endings it looked for, and what it found."""
    with pytest.raises(ValueError, match=r"no training text.*\.train, \.txt, .*\.jsonl"):
        open_source(str(tmp_path))
    write(tmp_path / "notes.pdf", "not a corpus")
    with pytest.raises(ValueError, match=r"no training text.*notes\.pdf: pages, not text"):
        open_source(str(tmp_path))


def test_one_long_line(tmp_path: Path) -> None:
    """Without line breaks there is nothing to hold out; the error says what to do."""
    file = write(tmp_path / "a.txt", "all in one line")
    with pytest.raises(ValueError, match=r"no text for validation.*a\.dev"):
        open_source(str(file))


def test_domain_given_twice(tmp_path: Path) -> None:
    """A folder with two sizes of the same domain is not silently joined."""
    write(tmp_path / "train_10M" / "a.train", "small")
    write(tmp_path / "train_100M" / "a.train", "large")
    with pytest.raises(ValueError, match="both the training text of domain 'a'"):
        open_source(str(tmp_path))


@pytest.mark.parametrize(
    "name", ["minni", "/no/such/folder", "./corpus", "texts/a.txt", "texts/a.jsonl"]
)
def test_unknown_name(name: str) -> None:
    """What is neither a path nor a hub id is refused at once, with the short names."""
    with pytest.raises(ValueError, match="unknown corpus.*mini, babylm-strict-small"):
        open_source(name)


def local_hub(
    monkeypatch: pytest.MonkeyPatch, folder: Path, splits: dict[str, dict[str, list[str]]]
) -> None:
    """Make `load_dataset` read text files below `folder` in the layout of hub repositories."""
    load = datasets.load_dataset
    for hub_id, files in splits.items():
        for split, lines in files.items():
            write(folder / hub_id / f"{split}.txt", *lines)

    def from_folder(hub_id: str, split: str | None = None) -> object:
        files = {name: str(folder / hub_id / f"{name}.txt") for name in splits[hub_id]}
        return load("text", data_files=files, split=split, cache_dir=str(folder / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", from_folder)


def test_babylm_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The short name takes its text from the training set and validates on BabyLM-dev."""
    dev_id = "BabyLM-community/BabyLM-dev"
    splits = {
        HUB_IDS["babylm-strict-small"]: {"train": ["one", "", " two "]},
        dev_id: {"train": ["dev one"]},
    }
    local_hub(monkeypatch, tmp_path, splits)
    source = open_source("babylm-strict-small")
    assert source.name == "babylm-strict-small"
    assert texts(source) == (["one", "two"], ["dev one"])


@pytest.mark.parametrize("name", ["babylm-eng", "babylm-nld", "babylm-zho"])
def test_languages_of_the_multilingual_track(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their short names or ids; validated on their own text, not on BabyLM-dev, which is
    English."""
    lines = numbered("rij", 100)
    local_hub(monkeypatch, tmp_path, {HUB_IDS[name]: {"train": lines}})
    for source in (name, f"BabyLM-community/{name}"):
        assert texts(open_source(source)) == (lines[:95], lines[95:])


def test_hub_id_with_and_without_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any hub id works: its validation split is used, else its last rows are held out."""
    lines = numbered("row", 100)
    splits = {"me/with": {"train": lines, "validation": ["v"]}, "me/without": {"train": lines}}
    local_hub(monkeypatch, tmp_path, splits)
    assert texts(open_source("me/with")) == (lines, ["v"])
    assert texts(open_source("me/without")) == (lines[:95], lines[95:])


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a connection the error names the dataset and the way out."""

    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(ValueError, match=r"BabyLM-2026-Strict'.*no network.*local path"):
        open_source("babylm-strict")


def test_rows_without_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of a hub's data set may have no text: it is passed over."""
    rows = datasets.Dataset.from_dict({"text": ["one", None, "", *numbered("row")]})
    monkeypatch.setattr(datasets, "load_dataset", lambda _, split=None: rows if split else {})
    assert next(texts_of := open_source("me/data").train()) == "one"
    assert next(texts_of) == "row 0"


@pytest.mark.skipif(not SHARED_CORPUS.is_dir(), reason="needs a local BabyLM corpus")
def test_babylm_files() -> None:
    """A BabyLM folder as published is read whole: four domains, each with its dev file."""
    source = open_source(str(SHARED_CORPUS))
    words = sum(len(line.split()) for line in source.dev())
    assert words == 400_000
    assert next(source.train())
