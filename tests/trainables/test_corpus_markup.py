"""Files called text that are none: what is refused by its lines, and what looks so and is text."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest

from trainables.corpus.builtin.paragraphs import mini_text
from trainables.corpus.prepare import read_through
from trainables.corpus.readers import problem
from trainables.corpus.sources import open_source

ROOT = Path(__file__).resolve().parents[2]
SHARED_CORPUS = ROOT.parent / "shared" / "data" / "corpus"

PROSE = [
    f"In year {year} the ship, laden with salt, came home; nobody knew why." for year in range(60)
]
ROWS = [json.dumps({"id": year, "text": text}) for year, text in enumerate(PROSE)]
TOKENS = [f"{n}\tship\tship\tNOUN\tNN\t_\t0\troot\t_\t_" for n in range(1, 9)]
ARTICLE = ['<doc id="12" url="https://x" title="Salt">', "Salt", *PROSE[:40], "</doc>"]

CHAT, TABLE, MARKUP, TIMES = "a CHAT transcript", "a table", "markup", "subtitles with times"
NO_TEXT: dict[str, tuple[list[str], str, str]] = {
    "tiers": (["*CHI:\tmore .", "%mor:\tqn|more ."] * 9, CHAT, "line 2: %mor: qn|more"),
    "tiers with spaces": (["*CHI: more .", "%gra: 1|0|ROOT"] * 9, CHAT, "line 2: %gra"),
    "font": (["\ufeff@Font:\tCourier", "@Begin", "*CHI:\tmore ."], CHAT, "line 1: @Font"),
    "headers later": (["Eve, 1;06", "@Languages:\teng", "@End", "*CHI:\tm ."], CHAT, "line 2: @L"),
    "times of speech": (["*CHI:\tmore . \x159_23\x15"] * 9, CHAT, "line 1: .*more"),
    "mediawiki": (['<mediawiki xmlns="http://x">', *PROSE], MARKUP, "line 1: <mediawiki"),
    "bnc": (['<bncDoc xml:id="A00"><teiHeader>', *PROSE], MARKUP, "line 1: <bncDoc"),
    "tei": (["", "<TEI>", *PROSE, "</TEI>"], MARKUP, "line 2: <TEI>"),
    "wikiextractor": (["Articles", *ARTICLE, *ARTICLE], MARKUP, "line 2: <doc id="),
    "gigaword": (["News", "<DOC>", *PROSE, "</DOC>", "<DOC>"] * 2, MARKUP, "line 63: </DOC>"),
    "sentences": ([f"<q>{line}</q>" for line in PROSE], MARKUP, "line 1: <q>In"),
    "html": ([*PROSE[:9], *(f"<p class='a'>{line}</p>" for line in PROSE)], MARKUP, "line 10: <p"),
    "tsv": (["id\ttext", *(f"{n}\t{line}" for n, line in enumerate(PROSE))], TABLE, "line 1: id"),
    "conllu": (["# sent_id = 1", "# text = a ship", *TOKENS, ""] * 4, TABLE, "line 3: 1 ship"),
    "csv": (["id,text", *(f'{n},"{line}"' for n, line in enumerate(PROSE))], TABLE, "line 1: id,"),
    "csv of pandas": ([",text", *(f'{n},"a\n, b"' for n in range(9))], TABLE, "line 1: ,text"),
    "csv without names": ([f'"{line}",{n}' for n, line in enumerate(PROSE)], TABLE, "line 1: "),
    "semicolons": (["a;b c", "1;d, e", "2;f"], TABLE, "line 1: a;b c"),
    "pipes": ([f"LJ-{n}|{line}|{line}" for n, line in enumerate(PROSE)], TABLE, "line 1: LJ-0"),
    "json after comments": (["# rows", "# made up", *ROWS], "JSON", 'line 3: {"id"'),
    "json after prose": ([*PROSE[:20], *ROWS], "JSON", 'line 21: {"id"'),
    "json with indents": (["# one", "{", '  "text": "a"', "}"], "JSON", "line 2: {"),
    "dicts": (["{'text': 'a ship'}"] * 9, "JSON", "line 1: {'text'"),
    "lists": (['["a ship", "salt"],'] * 9, "JSON", 'line 1: \\["a ship'),
    "postscript": (["%!PS-Adobe-3.0", *PROSE], "PostScript", ""),
    "srt": (["1", "00:00:01,000 --> 00:00:02,500", "Salt.", ""] * 9, TIMES, "line 2: 00:00:01"),
    "vtt": (["WEBVTT", "", *PROSE], TIMES, "line 1: WEBVTT"),
    "lyrics": (["[00:12.34]Salt and ships"] * 9, TIMES, r"line 1: \[00:12"),
    "mbox": (["From a@b.org Mon Jan  5 10:00:00 2004", *PROSE], "a mailbox", "line 1: From a@b"),
}


@pytest.mark.parametrize("suffix", [".txt", ".train", ".md", ".txt.gz", ""])
@pytest.mark.parametrize("kind", NO_TEXT)
def test_refused_by_its_lines(tmp_path: Path, kind: str, suffix: str) -> None:
    """Each format is refused under any name of text, with the line that shows it."""
    lines, what, shows = NO_TEXT[kind]
    data = "\n".join(lines).encode() + b"\n"
    file = tmp_path / f"a{suffix}"
    file.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    found = problem(file)
    assert found is not None
    assert found.what.startswith(what)
    assert "whatever its name: " in found.what  # and then what to do
    assert re.match(shows, found.line)


def test_the_refusal(tmp_path: Path) -> None:
    """A named file is refused in one line: the file, what it is, what to do, the line; a folder's
    table has the same, for the first file of each kind."""
    for name in ("a.train", "b.train"):
        (tmp_path / name).write_text("*CHI:\tmore .\n%mor:\tqn|more\x07 .\n" * 9)
    message = (
        "a.train cannot be read as text: a CHAT transcript, whatever its name: name it .cha "
        "(line 2: %mor: qn|more\ufffd .)"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(f'{tmp_path}/{message}')}$"):
        open_source(str(tmp_path / "a.train"))
    (tmp_path / "good.txt").write_text("\n".join(PROSE))
    rows = read_through(open_source(str(tmp_path))).contents.splitlines()
    assert rows[-1] == "  a.train and 1 more  " + message.partition("text: ")[2]


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz"])
def test_lines_far_behind_the_beginning_count(tmp_path: Path, suffix: str) -> None:
    """Rows are found after a preamble of prose that is longer than what is looked at there."""
    data = "\n".join([*PROSE * 5, *ROWS * 400]).encode()
    file = tmp_path / f"a{suffix}"
    file.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    assert "JSON, whatever its name: name it .jsonl (as in: {" in str(problem(file))


MARKDOWN = """\
<p align="center">
  <img src="logo.png" alt="Logo">
</p>

# Salt

| year | ships |
|------|-------|
| 1801 | 12    |

Call it with

```json
{"id": 1, "text": "salt"}
{"id": 2, "text": "ships"}
```

- **Salt**: a mineral, see <https://example.org>
- <b>Ships</b>: vessels <br/>

and that is all.
"""
TEXT: dict[str, str] = {
    "prose": "\n".join(PROSE),
    "markdown": MARKDOWN,
    "speakers": "ANNA: Is it here?\nBERT: No, it is there.\nANNA: Oh.\n" * 9,
    "speakers and tabs": "ANNA:\tIs it here?\nBERT:\tNo.\n" * 9,
    "BabyLM": "*MOT: well, is it away?\n*CHI: xxx want it. [giggles]\n%add: FAT, BRO\n" * 9,
    "BabyLM with tabs": "*MOT:\tyou like them ?\n*CHI:\tyes !\n" * 9,
    "a chat's log": "<alice> Is it here?\n<bob> No.\n[12:00:05] <alice> Oh.\n" * 9,
    "verse": "Salt is white,\nships are brown,\nall the night,\nsailing down,\n" * 9,
    "verse with semicolons": "Salt is white;\nships are brown;\nnight is long;\n" * 9,
    "sentences": "\n".join(f"<s> {line} </s>" for line in PROSE),
    "short answers": "Yes,sir\nNo,sir\nWell,sir\n" * 9,
    "songs": "so long,farewell\ngoodbye,adieu\nhello,hello\n" * 3,
    "halves": "The sun;the moon\nThe sea;the land\n" * 9,
    "Chinese verse": "床前明月光,疑是地上霜.\n举头望明月,低头思故乡.\n" * 9,
    "indents": "\tSalt is white\n\tand ships are brown\n" * 9,
    "numbers": "1.\tSalt is white.\n2.\tShips are brown.\n(3)\tSo it is.\n" * 9,
    "bullets": "•\tSalt is white.\n•\tShips are brown.\n" * 9,
    "tabs at the ends": "Salt is white.\t\nShips are brown.\t\n" * 9,
    "unknown words": "<unk> is white , and <unk> ships are brown .\n" * 9,
    "special tokens": "The cat saw birds. <|endoftext|> end\n" * 9,
    "escapes": "the ship &apos;s salt\nthe night &apos;s end\n" * 9,
    "sounds": "[DOOR OPENS]\n(SIGHS)\n[1] Salt.\n- No.\n-- Yes!\n" * 9,
    "hashes": "# salt #ships\n#brown\nwhite\n" * 9,
    "names": "@anna I like it\n@Bert: me too\n" * 9,
    "C": "#include <salt.h>\nint f(int a,int b) {\n\treturn g(a,b);\n}\n" * 9,
    "Python": 'def f(a, b):\n    return {"text": a, "n": [b]}\n\n' * 9,
    "percent": "%note: a comment\nx = 1;\n" * 9,
    "a quotation": "\n".join([*PROSE, *ROWS[:20], *TOKENS, *NO_TEXT["srt"][0][:8], "</s>"]),
    "letters": "From me to you\nFrom Anna Monday morning\n",
    "one line of each": '</p>\n{"a": 1}\na\tb\n',
}


@pytest.mark.parametrize("kind", TEXT)
def test_text_is_text(tmp_path: Path, kind: str) -> None:
    """What is text, and has signs of a format in it, is read whole."""
    file = tmp_path / "a.txt"
    file.write_text(TEXT[kind], "utf-8")
    assert problem(file) is None


def test_the_built_in_text_is_text(tmp_path: Path) -> None:
    """The generated corpus would be read from a file as well."""
    for split in ("train", "dev"):
        file = tmp_path / f"{split}.txt"
        file.write_text("\n".join(mini_text(split, 0)))
        assert problem(file) is None


@pytest.mark.skipif(not SHARED_CORPUS.is_dir(), reason="needs a local BabyLM corpus")
def test_babylm_is_text(tmp_path: Path) -> None:
    """Each file of BabyLM is text, and so is each part of it: CHILDES's has speakers and tiers."""
    for file in SHARED_CORPUS.glob("dev/*"):
        assert problem(file) is None
        lines = file.read_text("utf-8").splitlines(keepends=True)
        part = tmp_path / "part.txt"
        for start in range(0, len(lines), 400):
            part.write_text("".join(lines[start : start + 400]), "utf-8")
            assert problem(part) is None, start


NAMES = ["a.srt", "a.VTT", "a.conllu", "a.yaml", "a.mbox", "a.srt.gz", "a.ipynb", "a.TextGrid"]


@pytest.mark.parametrize("name", NAMES)
def test_suffixes_that_are_no_text(tmp_path: Path, name: str) -> None:
    """A file of another format is refused by its name, even where a person names it."""
    (tmp_path / name).write_text("\n".join(PROSE))
    with pytest.raises(ValueError, match=rf"{name} cannot be read as text: .*: save"):
        open_source(str(tmp_path / name))
