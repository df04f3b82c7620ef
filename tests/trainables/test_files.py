"""What is written aside and renamed is there whole or not at all."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from analysis.whole_files import write_text
from tests.contracts.import_graph import PACKAGES, ROOT
from trainables import files


def test_a_file_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that is cut short leaves the earlier file, and one that is not nothing beside it."""
    path = tmp_path / "values.json"
    files.write_json(path, {"b": 1, "a": [None, "ä"]})
    assert files.read_json(path, dict[str, Any]) == {"b": 1, "a": [None, "ä"]}

    def cut(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", cut)
        with pytest.raises(KeyboardInterrupt):
            files.write_json(path, {})
    assert files.read_json(path, dict[str, Any])["b"] == 1
    files.remove_partial(tmp_path)
    assert os.listdir(tmp_path) == ["values.json"]


def test_nothing_left_of_a_file_that_was_not_finished(tmp_path: Path) -> None:
    """After an error the earlier file stays, and nothing is beside it."""
    path = tmp_path / "values.txt"
    write_text(path, "earlier")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half a pair: \ud800")
    assert path.read_text() == "earlier"
    assert os.listdir(tmp_path) == ["values.txt"]


def test_texts_are_written_aside() -> None:
    """No module but one writes a text in its place, where a kill would leave half of it."""
    in_place = re.compile(r"""\.write_(text|bytes)\(|\.open\(["']w["']|\.to_csv\([a-z_]+,""")
    found = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if in_place.search(path.read_text("utf-8"))
    }
    assert found <= {"analysis/whole_files.py", "analysis/benchmarks/predictions.py"}


def test_a_folder_appears_filled(tmp_path: Path) -> None:
    """Under its name it is not there before all is in it; after an error nothing is."""
    target = tmp_path / "model"
    with files.whole_folder(target) as partial:
        (partial / "weights").write_text("1")
        assert not target.exists()
    assert (target / "weights").read_text() == "1"
    with pytest.raises(ValueError, match="broken"), files.whole_folder(tmp_path / "other"):
        raise ValueError("broken")
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize(("replace", "left"), [(False, "faster"), (True, "mine")])
def test_who_was_faster_stays_unless_replaced(tmp_path: Path, replace: bool, left: str) -> None:
    """Of two processes that fill one folder; nothing of the other is left."""
    target = tmp_path / "model"
    with files.whole_folder(target, replace=replace) as partial:
        (partial / "weights").write_text("mine")
        with files.whole_folder(target) as faster:
            (faster / "weights").write_text("faster")
    assert (target / "weights").read_text() == left
    assert os.listdir(tmp_path) == ["model"]


def test_only_leftovers_of_that_name_are_removed(tmp_path: Path) -> None:
    """Others may be at work on the rest."""
    for name in (".partial-corpus-1", ".partial-other-1", "corpus"):
        (tmp_path / name).mkdir()
    (tmp_path / ".partial-corpus.json-1").touch()
    files.remove_partial(tmp_path, "corpus")
    assert sorted(os.listdir(tmp_path)) == [".partial-other-1", "corpus"]
    files.remove_partial(tmp_path)
    assert os.listdir(tmp_path) == ["corpus"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[1,", b"[]", b"null", b'{"a": "x"}', b"[" * 100_000]
)
def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    """Emptied, cut short, no text at all, of another shape, or nested without end."""
    path = tmp_path / "outcome.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"outcome\.json is damaged .* move it away and run"):
        files.read_json(path, dict[str, int])
