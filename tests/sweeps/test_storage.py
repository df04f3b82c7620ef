"""Where studies may lie, and what they may be called."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.stored.trials import ROOT, check_study_name, resolve_storage


def test_the_flag_the_variable_and_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this order; a home directory is expanded, and the folder made."""
    monkeypatch.setenv("BABYSWEEP_STORAGE", str(tmp_path / "variable"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_storage(Path("~/flag x")) == tmp_path / "flag x"
    assert resolve_storage(None) == tmp_path / "variable"
    assert (tmp_path / "variable").is_dir()
    monkeypatch.delenv("BABYSWEEP_STORAGE")
    assert resolve_storage(None) == ROOT / "runs"


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("", "--storage is empty"),
        ("s3://bucket/runs", "folder that all nodes share, not s3:/bucket"),
        ("/tmp/a%20b", "must not have a % in its path"),
        ("/tmp/ray/session/runtime_resources/working_dir_files/_ray_pkg_1/results", "is temporary"),
    ],
)
def test_what_cannot_be_a_storage_is_refused(storage: str, message: str) -> None:
    """At once, before anything is made."""
    with pytest.raises(ValueError, match=message):
        resolve_storage(Path(storage))


def test_only_sweeps_make_a_storage(tmp_path: Path) -> None:
    """A mistyped folder is named, and not made."""
    with pytest.raises(ValueError, match="there is no storage folder .*/typo: give the --storage"):
        resolve_storage(tmp_path / "typo", create=False)
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize("name", ["mini-mini", "my study (2)", "Wörter_10M", "a.b+c=d,e@f"])
def test_names_of_studies(name: str) -> None:
    """Letters of any language, digits, and what folders commonly have."""
    check_study_name(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "/abs/x", "a/b", "a\\b", "<script>", ".hidden", "-flag", "a%20b"]
    + ["a\nb", "a\0b", "x" * 201, " x", "a:b", "a*", "a?b", 'a"b', "a|b"],
)
def test_names_that_leave_the_storage_are_refused(name: str) -> None:
    """Or that some file system, page or address does not take."""
    with pytest.raises(ValueError, match="--study must be the name of a folder"):
        check_study_name(name)
