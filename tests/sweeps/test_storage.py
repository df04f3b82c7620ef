"""Where studies may lie, and what they may be called."""

from __future__ import annotations

import errno
import re
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow.utils.file_utils import local_file_uri_to_path
from sqlalchemy.engine import make_url

from analysis.config_file import read_config
from analysis.places import reading, writable_folder
from analysis.store import tracking_uri
from sweeps.arguments import LrSweepArgs
from sweeps.engine.scoring.tasks import benchmark_place
from sweeps.plans.common import TrainingSetup
from sweeps.stored.model_names import resolve_model
from sweeps.stored.trials import ROOT, check_study_name, resolve_storage, study_name
from trainables.corpus.sources import open_source


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
        ("ftp://host/runs", "begins with one of s3://, gs://, file://"),
        ("/tmp/a%20b", "--storage must not have '%' in its path"),
        ("/tmp/a?b", "--storage must not have '[?]' in its path"),
        ("/tmp/a\nb", r"--storage must not have '\\n' in its path"),
        ("/tmp/a\udcffb", r"--storage must not have '\\udcff' in its path"),
        ("/tmp/ray/session/runtime_resources/working_dir_files/_ray_pkg_1/results", "is temporary"),
    ],
)
def test_what_cannot_be_a_storage_is_refused(storage: str, message: str) -> None:
    """At once, before anything is made."""
    with pytest.raises(ValueError, match=message):
        resolve_storage(Path(storage))


def test_the_current_folder_is_a_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is named; a variable of nothing names none."""
    monkeypatch.chdir(tmp_path)
    for name in (".", "./"):
        assert resolve_storage(Path(name)) == tmp_path
    monkeypatch.setenv("BABYSWEEP_STORAGE", "")
    with pytest.raises(ValueError, match="BABYSWEEP_STORAGE is empty"):
        resolve_storage(None)


def test_all_else_that_a_path_may_have_works(tmp_path: Path) -> None:
    """MLflow's database and artifacts lie in the storage, whatever its path has in it."""
    for character in [*map(chr, range(32, 256)), "\u20ac", "\U0001f600"]:
        if character not in "/%?\x7f":
            folder = resolve_storage(tmp_path / f"a{character}b")
            url, place = make_url(tracking_uri(folder)), (folder / "x").as_uri()
            assert url.database == str(folder / "mlflow.db")
            assert local_file_uri_to_path(place) == str(folder / "x")


def test_a_job_writes_nothing_to_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor results, nor the MLflow store: both would be deleted with it. What is only named like
    it is another folder."""
    job = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    job.mkdir(parents=True)
    monkeypatch.chdir(job)
    for place in (job / "out", Path("out")):
        with pytest.raises(ValueError, match=r"is temporary.*_pkg_1/out: give --output with an"):
            writable_folder(place, "--output")
    for uri in ("sqlite:///x.db", f"sqlite:///{job}/x.db", "file:x", f"file://{job}"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(ValueError, match="is temporary.*: give MLFLOW_TRACKING_URI"):
            tracking_uri(tmp_path)
    assert not any(job.iterdir())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert tracking_uri(tmp_path) == "http://host:5000"
    similar = tmp_path / "my_working_dir_files_x"
    assert writable_folder(similar, "--output") == similar
    assert resolve_storage(similar) == similar


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file where a folder is wanted."""
    path = tmp_path / "file"
    path.touch()
    return path


def impossible(file: Path) -> dict[str, str]:
    """Places that cannot be written to, also by root, and the reason."""
    return {
        str(file): "it is a file",
        str(file / "below" / "it"): f"{file} is a file",
        "/proc/none": "no such file or directory",
        str(file.parent / ("x" * 300)): "file name too long",
        "/dev/null/x": "/dev/null is a file",
    }


def test_a_storage_that_cannot_be_written_to(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the flag, or the variable, with place and reason, in a line."""
    for place, reason in impossible(file).items():
        with pytest.raises(ValueError, match=re.escape(reason)) as raised:
            resolve_storage(Path(place))
        text = str(raised.value)
        assert text.startswith(f"--storage {place[:200]}")
        assert "Errno" not in text
        assert "\n" not in text
    monkeypatch.setenv("BABYSWEEP_STORAGE", str(file))
    with pytest.raises(ValueError, match=f"^BABYSWEEP_STORAGE {file} cannot be written to"):
        resolve_storage(None)


def test_a_storage_on_a_read_only_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is there and takes no file."""

    def refuse(**where: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(where["dir"]))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(ValueError, match=r"--storage .* \(read-only file system\): give a folder"):
        resolve_storage(tmp_path)


def test_links_in_a_circle_and_homes_of_nobody(tmp_path: Path) -> None:
    """Are no places."""
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for place in (tmp_path / "a" / "x", Path("~no-such-user/x"), Path("a\0b")):
        with pytest.raises(ValueError, match="^--storage"):
            resolve_storage(place)


@pytest.mark.parametrize("place", ["x" * 300, "y/" * 3000, "~no-such-user/x", "a\0b"])
def test_what_no_place_can_be_called(place: str) -> None:
    """Wherever a place is to be read, an error says so, and not the system's number of it."""
    for read in (
        lambda: resolve_storage(Path(place), create=False),
        lambda: resolve_model(f"./{place}" if place[0] != "~" else place, "", Path()),
        lambda: read_config(Path(place), LrSweepArgs),
    ):
        with pytest.raises(ValueError, match="no storage folder|is no place|no model at|no file"):
            read()
    with (
        pytest.raises(ValueError, match="unknown corpus|cannot be read"),
        reading("--corpus", place),
    ):
        open_source(place)


def test_places_of_other_flags(file: Path) -> None:
    """--output, --corpus and --benchmarks name themselves, the place and the reason."""
    for place, reason in impossible(file).items():
        with pytest.raises(ValueError, match=re.escape(reason)) as raised:
            writable_folder(Path(place), "--output")
        assert str(raised.value).startswith(f"--output {place[:200]}")
    long = "x" * 5000
    for place in (str(file / "x"), str(file.parent / "none"), long):
        with pytest.raises(ValueError, match="--benchmarks .* cannot be read") as raised:
            benchmark_place(place)
        assert len(str(raised.value)) < 400
    with (
        pytest.raises(
            ValueError, match=r"^--corpus x+\.\.\. cannot be read \(file name too long\)$"
        ),
        reading("--corpus", long),
    ):
        Path(long).stat()
    with pytest.raises(OSError, match="disk"), reading("--corpus", "a"):
        raise OSError(errno.ENOSPC, "disk full")


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


@pytest.mark.parametrize(
    ("corpus", "name"),
    [
        ("my text (2)", "my text (2)-mini"),
        ("Wörter_10M", "Wörter_10M-mini"),
        ("<script>", "script--mini"),
        ("a%20b", "a-20b-mini"),
        ("..hidden", "hidden-mini"),
        ("-a:b/c", "a-b-c-mini"),
        ("x" * 300, "x" * 200),
        ("ä" * 150, "ä" * 100),
    ],
)
def test_a_corpus_names_a_study(corpus: str, name: str) -> None:
    """With a name that `--study` takes; one that it takes as it is stays so."""
    setup = SimpleNamespace(args=SimpleNamespace(study=None), corpus=SimpleNamespace(name=corpus))
    assert TrainingSetup.study(setup, SimpleNamespace(size="mini")) == name
    check_study_name(name)


def test_a_study_has_a_name() -> None:
    """Where nothing is left of the text."""
    assert study_name("...") == "study"
