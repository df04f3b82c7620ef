"""Which files of a folder are read, and what is said of them and of the others."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from tests.trainables.test_corpus_readers import PACKERS
from trainables.corpus import packing as packing_module
from trainables.corpus.packing import weight
from trainables.corpus.prepare import read_through
from trainables.corpus.sources import open_source


def write(path: Path, text: str | bytes, times: int = 40) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        text if isinstance(text, bytes) else "".join(f"{text} {n}\n" for n in range(times)).encode()
    )
    return path


def table(folder: Path) -> list[str]:
    return read_through(open_source(str(folder))).contents.splitlines()


def first_words(documents: Iterable[str]) -> list[str]:
    """The first word of each document, once, in their order."""
    return list(dict.fromkeys(document.split()[0] for document in documents))


def test_every_depth_suffix_and_case(tmp_path: Path) -> None:
    """A folder is read with all its folders, in every kind of text and in any case."""
    write(tmp_path / "a.txt", "a")
    write(tmp_path / "b.TXT", "b")
    write(tmp_path / "x" / "c.md", "c")
    write(tmp_path / "x" / "y" / "z" / "d.Train", "d")
    write(tmp_path / "x" / "y" / "e.txt.gz", gzip.compress(b"e text\n" * 40))
    write(tmp_path / "x" / "f.cha", b"*CHI:\tf word .\n" * 40)
    write(tmp_path / "g.jsonl", b'{"text": "g text"}\n' * 40)
    source = open_source(str(tmp_path))
    assert first_words(source.train()) == list("abcdefg")
    assert first_words(source.dev()) == list("abcdefg")
    assert not source.left_out
    assert sum(1 for _ in source.train()) + sum(1 for _ in source.dev()) == 7 * 40


def test_the_hash_of_what_was_read_before(tmp_path: Path) -> None:
    """Folders of `.train`, `.dev` and `.txt` files keep the hash that earlier studies have."""
    write(tmp_path / "train" / "b.train", "b")
    write(tmp_path / "train" / "a.train.txt", "a")
    write(tmp_path / "train" / "z.txt", "z", 100)
    write(tmp_path / "train" / "dev.txt", "dev", 100)
    write(tmp_path / "dev" / "a.dev", "av")
    write(tmp_path / "dev" / "b.dev.txt", "bv")
    write(tmp_path / "test" / "b.test.txt", "bt")
    expected = "e4c18b443b0855cf694956d186f8ed3d089cdb0087e3b147134da74ccbd1bc26"
    assert read_through(open_source(str(tmp_path))).text_hash == expected


def test_namesakes_in_other_folders(tmp_path: Path) -> None:
    """Two files of one name in two folders are two domains; of two names for one text in a folder
    neither is chosen in silence."""
    write(tmp_path / "Adam" / "01.cha", b"*CHI:\tadam speaks .\n" * 30)
    write(tmp_path / "Eve" / "01.cha", b"*CHI:\teve speaks .\n" * 30)
    assert first_words(open_source(str(tmp_path)).train()) == ["adam", "eve"]
    write(tmp_path / "Eve" / "01.txt.gz", gzip.compress(b"eve speaks.\n" * 30))
    with pytest.raises(ValueError, match=r"both the training text of domain '01'"):
        open_source(str(tmp_path))


def test_dev_and_test_folders(tmp_path: Path) -> None:
    """Of three files of one name the one in a folder `dev` validates, and the one in `test` is not
    read."""
    for split in ("train", "dev", "test"):
        write(tmp_path / split / "news.txt", split)
    source = open_source(str(tmp_path))
    assert (first_words(source.train()), first_words(source.dev())) == (["train"], ["dev"])
    assert [each.reason.what for each in source.left_out] == ["a test file"]


def test_published_splits(tmp_path: Path) -> None:
    """Rows named after a split are of it, so that nobody trains on validation or test rows."""
    for name in ("train-00000-of-2", "train-00001-of-2", "validation-00000", "test-00000"):
        row = json.dumps({"text": name}).encode() + b"\n"
        write(tmp_path / "data" / f"{name}.jsonl", row * 40)
    source = open_source(str(tmp_path))
    assert first_words(source.train()) == ["train-00000-of-2", "train-00001-of-2"]
    assert first_words(source.dev()) == ["validation-00000"]
    assert sum(1 for _ in source.train()) == 80  # nothing is held out beside the validation file
    assert [each.file.name for each in source.left_out] == ["test-00000.jsonl"]


def test_the_table(tmp_path: Path) -> None:
    """Each file with its words, then each reason with the files that were left out for it."""
    write(tmp_path / "a.txt", "two words", 500)
    write(tmp_path / "x" / "b.dev", "nothing here")
    write(tmp_path / "x" / "b.md", "b")
    write(tmp_path / "README.md", "card")
    write(tmp_path / ".git" / "c.txt", "c")
    write(tmp_path / "a.pdf", b"%PDF")
    write(tmp_path / "x" / "b.pdf", b"%PDF")
    write(tmp_path / "notes.xyz", b"?")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "x" / "loop").symlink_to(tmp_path)
    assert table(tmp_path) == [
        "1,700 words in 3 files, 192 of them for validation",
        "  1,500  a.txt",
        "     80  x/b.md",
        "    120  x/b.dev",
        "left out: 7 files and folders, 9 bytes",
        "  a.pdf and 1 more  pages, not text: convert it to .txt",
        "  notes.xyz         .xyz is not known for text: name it .txt if it is",
        "  .git              hidden",
        "  README.md         describes the data",
        "  gone.txt          a link to nothing",
        "  pipe.txt          no ordinary file",
    ]


def test_a_table_of_hundreds_of_files(tmp_path: Path) -> None:
    """Many files are counted by suffix, in at most 20 lines."""
    for number in range(150):
        write(tmp_path / str(number % 7) / f"{number}.cha", b"*CHI:\tmore juice .\n" * 20)
        write(tmp_path / f"{number}.txt", "w")
        write(tmp_path / f"{number}.k{number}", b"x")
    lines = table(tmp_path)
    assert lines[0] == "18,000 words in 300 files, 900 of them for validation"
    assert lines[1:3] == ["  12,000  .txt (150 files)", "   6,000  .cha (150 files)"]
    assert len(lines) <= 20
    assert lines[-1] == "  144 others  for other reasons"


def test_most_of_a_folder_is_no_text(tmp_path: Path) -> None:
    """A folder of which more than half of the bytes cannot be read is refused, with the largest
    files by name; what nobody would read, as test files, does not count."""
    write(tmp_path / "a.txt", "text")
    size = (tmp_path / "a.txt").stat().st_size
    write(tmp_path / "a.test", "text", 1000)
    write(tmp_path / "z" / "b.pdf", b"x" * (size // 2))
    write(tmp_path / "c.zip", b"x" * (size // 2))
    assert open_source(str(tmp_path))
    write(tmp_path / "d.png", b"x" * 100)
    match = rf"only {size:,} of the .* z/b\.pdf: pages, not text: .*; c\.zip: .* d\.png: an image\)"
    with pytest.raises(ValueError, match=match.replace("z/b", "(z/b|c)").split("; c")[0]) as error:
        open_source(str(tmp_path))
    assert len(str(error.value).splitlines()) == 1
    assert all(name in str(error.value) for name in ("z/b.pdf", "c.zip", "d.png"))


PROSE = "".join(f"in year {n} ship {n * n} came home\n" for n in range(40_000))


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.bz2", "a.txt.xz", "a.txt.zst"])
def test_packed_text_weighs_what_it_holds(tmp_path: Path, name: str) -> None:
    """A large text that is packed is not outweighed by a small file that cannot be read."""
    packed = PACKERS[name.rpartition(".")[2]](b"a ship came home\n" * 50_000)
    write(tmp_path / name, packed)
    write(tmp_path / "b.pdf", b"x" * 4 * len(packed))
    left_out = open_source(str(tmp_path)).left_out
    assert [(each.file.name, each.size) for each in left_out] == [("b.pdf", 4 * len(packed))]


def test_packed_tables_weigh_what_they_hold(tmp_path: Path) -> None:
    """A small text does not outweigh a large table that is packed, however well it was."""
    write(tmp_path / "a.txt", PROSE.encode())
    assert open_source(str(tmp_path))
    write(tmp_path / "b.csv.gz", gzip.compress(b"1,a ship\n" * 1_000_000))
    with pytest.raises(ValueError, match=r"bytes \(unpacked\).*b\.csv\.gz: a table"):
        open_source(str(tmp_path))
    write(tmp_path / "b.csv.gz", gzip.compress(b"1,a ship\n")[:-9])  # nobody reads it
    assert open_source(str(tmp_path)).left_out[0].size == (tmp_path / "b.csv.gz").stat().st_size


@pytest.mark.parametrize("packing", PACKERS)
def test_a_large_file_is_weighed_by_its_beginning(
    tmp_path: Path, packing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more than a part is unpacked to weigh a file, and the rest estimated, well enough."""
    file = write(tmp_path / f"a.txt.{packing}", PACKERS[packing](PROSE.encode()))
    assert weight(file) == len(PROSE)
    monkeypatch.setattr(packing_module, "MEASURED", len(PROSE) // 4)
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[: 9 * size // 10])  # the end is not looked at
    assert weight(file) == pytest.approx(0.9 * len(PROSE), rel=1 if packing == "bz2" else 0.2)


def test_rows_of_parquet_weigh_what_they_hold(tmp_path: Path) -> None:
    """Parquet packs its columns itself."""
    file = tmp_path / "a.parquet"
    texts = [str(n) * 99 for n in range(999)]
    parquet.write_table(pyarrow.table({"text": texts}), file, compression="zstd")
    assert weight(file) > sum(map(len, texts)) > 9 * file.stat().st_size


def test_a_folder_of_nothing_to_train_on(tmp_path: Path) -> None:
    """Empty files and dev files are named as well, with the reason."""
    write(tmp_path / "a.txt", b"")
    write(tmp_path / "b.dev", "b")
    with pytest.raises(
        ValueError, match=r"no training text: .*\(.*a\.txt: no text in it.*\)"
    ) as error:
        open_source(str(tmp_path))
    assert "b.dev: validates no file here" in str(error.value)


def test_one_byte_is_one(tmp_path: Path) -> None:
    """The table counts what was left out."""
    write(tmp_path / "a.txt", "text")
    write(tmp_path / "b.xyz", b"x")
    assert "left out: 1 file or folder, 1 byte" in table(tmp_path)


def test_what_sweeps_wrote_is_no_text(tmp_path: Path) -> None:
    """A storage within the corpus's folder is not read, or the next sweep had another corpus."""
    write(tmp_path / "a.txt", "a")
    write(tmp_path / "runs" / "mlflow.db", b"SQLite")
    write(tmp_path / "runs" / "mlflow" / "notes.md", "b")
    source = open_source(str(tmp_path))
    assert first_words(source.train()) == ["a"]
    assert [(each.file.name, each.reason.what) for each in source.left_out] == [
        ("runs", "what sweeps wrote")
    ]


def test_no_ordinary_file(tmp_path: Path) -> None:
    """A pipe is refused rather than waited for."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        open_source(str(tmp_path / "pipe"))


def test_files_too_short_to_hold_out_a_part(tmp_path: Path) -> None:
    """Of many files of a few lines the last ones validate the rest, whole."""
    for number in range(30):
        write(tmp_path / f"{number:02}.cha", f"*CHI:\tno{number:02} .\n*MOT:\tyes .\n".encode())
    source = open_source(str(tmp_path))
    assert [*source.train()][::2] == [f"no{number:02}." for number in range(28)]
    assert [*source.dev()] == ["no28.", "yes.", "no29.", "yes."]
    assert table(tmp_path)[0] == "60 words in 30 files, 4 of them for validation"


def test_names_that_cannot_be_printed(tmp_path: Path) -> None:
    """A name that is no UTF-8, or has a line break, is shown in one line all the same."""
    for name in (b"\xff.txt", b"a\nb.txt"):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(b"some text\n" * 40)
    lines = table(tmp_path)
    assert lines[1:] == ["  80  a\ufffdb.txt", "  80  \ufffd.txt"]
    assert "\n".join(lines).encode()


@pytest.mark.parametrize("name", ["A.DEV", "DEV/A.dev", "Dev/A.Dev.TXT"])
def test_dev_files_in_any_case(tmp_path: Path, name: str) -> None:
    """Capitals matter in stems only."""
    write(tmp_path / "A.TRAIN", "train")
    write(tmp_path / name, "dev")
    source = open_source(str(tmp_path))
    assert (first_words(source.train()), first_words(source.dev())) == (["train"], ["dev"])
