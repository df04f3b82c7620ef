"""A checkup finds what is wrong with a cluster's nodes, and leaves nothing behind."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RaySystemError
from rich.console import Console

from analysis.addresses import SCRATCH, copy_of
from models.kernels import native
from sweeps.arguments import DoctorArgs
from sweeps.doctor import run_doctor
from sweeps.engine.checkup import asking
from sweeps.engine.checkup.asking import Answers, Clock, Node, Question, ask_here, in_a_line
from sweeps.engine.checkup.bucket import BucketUse, token_offered, use_bucket
from sweeps.engine.checkup.folder import HELD, TAKEN, FolderUse, SharedFolder, use_folder
from sweeps.engine.checkup.machine import Disk, Gpu, Machine, gpus_in, look_at_machine
from sweeps.engine.checkup.software import ROOT, Software, look_at_software
from sweeps.engine.checkup.store import StoreUse, artifact_place, remove_artifacts, use_store
from sweeps.findings.doctor import show_checkup
from sweeps.findings.node_problems import Checkup, Examined, Finding, find_problems, where
from sweeps.plans.doctor import BUCKET, MACHINE, SOFTWARE, STORAGE, STORE, TORCH
from tests.processes import environment, serve_mlflow
from tests.sweeps.ray_nodes import RayNodes

PACKAGES = {"torch": "2.13.0", "triton": "3.9.0", "mlflow": "3.17.2", "pandas": "3.0.1"}
GPU = Gpu("NVIDIA H100 80GB HBM3", 80 * 2**30, "580.65.06")
GIGA = 10**9


def answers() -> dict[str, Any]:
    """What a node says with which nothing is wrong."""
    return {
        SOFTWARE: Software("3.11.9", PACKAGES, "/project", {"a.py": "1", "b.py": "2"}, {}),
        MACHINE: Machine(
            cpus=4,
            memory=16 * GIGA,
            free_memory=12 * GIGA,
            gpus=(),
            compilers=("/usr/bin/g++", "/usr/bin/gcc"),
            kernel_caches=(),
            disks=(Disk("/tmp", 50 * GIGA, 100 * GIGA),),
            shared_memory=8 * GIGA,
            open_files=65536,
        ),
        STORAGE: FolderUse(True, True, "", HELD, 0, 0o022, 0.01),
        STORE: StoreUse("", 0.01, "3.17.2"),
    }


def node(name: str, **changes: Any) -> Node:
    whole = Node(name, name, 4.0, 0.0, 8e9, 2e9, "/tmp/ray", is_head=name == "a")
    return dataclasses.replace(whole, **changes)


def checkup(changes: Mapping[str, Any], **of_cluster: Any) -> Checkup:
    """A cluster of three nodes, of which `b` answers otherwise.

    Args:
        changes: by topic, the changed fields of its answer, or by "node", "errors" and so on.
        of_cluster: changed fields of the checkup.
    """
    said: dict[str, Any] = answers()
    fields: dict[str, Any] = {}
    if "node" in changes and changes["node"].get("gpus"):
        said[MACHINE] = dataclasses.replace(said[MACHINE], gpus=(GPU, GPU))
        said[TORCH] = (2, "13.0")
    for topic, change in changes.items():
        if topic in ("clock", "returned"):
            fields[topic] = change
        elif topic == TORCH:
            said[topic] = change
        elif topic in said:
            said[topic] = dataclasses.replace(said[topic], **change)
    spoken = Answers(said, changes.get("errors", {}), changes.get("silent", ""))
    others = [Examined(node(name), Answers(answers()), clock=Clock(0.0, 0.0)) for name in "ac"]
    strange = Examined(
        node("b", **changes.get("node", {})), spoken, **{"clock": Clock(0.9, 0.0)} | fields
    )
    here = answers()
    del here[MACHINE]
    whole = Checkup(
        storage=Path("/shared"),
        uri="http://mlflow:5000",
        is_sqlite=False,
        here=Examined(None, Answers(here)),
        nodes=(others[0], strange, others[1]),
        lock=TAKEN,
        free=100 * GIGA,
    )
    return dataclasses.replace(whole, **of_cluster)


def test_nothing_is_said_of_a_cluster_that_is_well() -> None:
    assert find_problems(checkup({})) == []
    assert find_problems(checkup({"node": {"gpus": 2.0}})) == []


PROBLEM, WARNING = True, False
NO_MODULE = "ModuleNotFoundError: No module named 'sweeps'"


@pytest.mark.parametrize(
    ("changes", "is_problem", "text"),
    [
        ({SOFTWARE: {"python": "3.12.1"}}, PROBLEM, "Python is 3.12.1 there, 3.11.9 here"),
        ({SOFTWARE: {"python": "3.11.8"}}, WARNING, "Python is 3.11.8 there"),
        (
            {SOFTWARE: {"sources": {"a.py": "1", "b.py": "3", "c.py": "4"}}},
            PROBLEM,
            "the project in /project differs from the one here in 2 files (b.py, c.py)",
        ),
        ({SOFTWARE: {"packages": PACKAGES | {"torch": "2.12.0"}}}, PROBLEM, "torch 2.12.0 (here"),
        (
            {SOFTWARE: {"packages": {k: v for k, v in PACKAGES.items() if k != "triton"}}},
            PROBLEM,
            "triton is missing (here 3.9.0)",
        ),
        ({SOFTWARE: {"packages": PACKAGES | {"pandas": "2.3"}}}, WARNING, "pandas 2.3 (here 3.0"),
        (
            {SOFTWARE: {"settings": {"BABYSWEEP_CPP": "0"}}},
            WARNING,
            "BABYSWEEP_CPP is 0 there",
        ),
        ({MACHINE: {"cpus": 2}}, WARNING, "Ray hands out 4 CPUs there, and 2 can be used"),
        ({MACHINE: {"memory": 6 * GIGA}}, WARNING, "Ray hands out 8.0 GB of memory there, and"),
        (
            {MACHINE: {"free_memory": GIGA}},
            WARNING,
            "1.0 GB of memory are free",
        ),
        (
            {MACHINE: {"disks": (Disk("/tmp", GIGA // 2, GIGA),)}},
            WARNING,
            "/tmp has 0.5 GB free (50% used)",
        ),
        (
            {MACHINE: {"disks": (Disk("/tmp", 40 * GIGA, 1000 * GIGA),)}},
            WARNING,
            "/tmp has 40 GB free (96% used), and Ray stops writing at 95%",
        ),
        ({MACHINE: {"shared_memory": GIGA}}, WARNING, "/dev/shm has 1.0 GB, and Ray's objects"),
        ({MACHINE: {"open_files": 1024}}, WARNING, "a process may have 1,024 files open"),
        ({MACHINE: {"kernel_caches": ("/a", "/b")}}, WARNING, "cannot be kept in /a and /b"),
        ({MACHINE: {"compilers": ("", "gcc")}}, WARNING, "there is no C++ compiler"),
        (
            {MACHINE: {"gpus": (GPU,)}},
            WARNING,
            "the driver shows 1 GPU there",
        ),
        (
            {"node": {"gpus": 2.0}, MACHINE: {"gpus": (GPU,)}},
            PROBLEM,
            "Ray hands out 2 GPUs there, and the driver shows 1: give `ray start` --num-gpus=1",
        ),
        (
            {"node": {"gpus": 2.0}, TORCH: (0, "-")},
            PROBLEM,
            "PyTorch sees 0 (it was built for no CUDA; driver 580.65.06)",
        ),
        (
            {"node": {"gpus": 2.0}, TORCH: (1, "13.0"), MACHINE: {"gpus": ()}},
            PROBLEM,
            "PyTorch sees 1 (it was built for CUDA 13.0; no nvidia-smi)",
        ),
        (
            {"node": {"gpus": 2.0}, MACHINE: {"compilers": ("g++", "")}},
            PROBLEM,
            "there is no C compiler, which Triton's kernels need",
        ),
        ({STORAGE: {"is_there": False, "is_same": False}}, PROBLEM, "there is no folder /shared"),
        ({STORAGE: {"is_same": False, "lock": ""}}, PROBLEM, "/shared is another folder there"),
        (
            {STORAGE: {"refused": "permission denied", "user": 7}},
            PROBLEM,
            "/shared cannot be used there (permission denied; user 7 with umask 022 there, 0 with",
        ),
        (
            {STORAGE: {"is_there": False, "is_same": False, "refused": "stale file handle"}},
            PROBLEM,
            "/shared cannot be used there (stale file handle",
        ),
        (
            {"returned": "permission denied"},
            PROBLEM,
            "what is written to /shared there cannot be replaced here (permission denied; user 0",
        ),
        ({STORAGE: {"umask": 0o077}}, WARNING, "(umask 077, here 022)"),
        ({STORAGE: {"lock": TAKEN}}, PROBLEM, "(a lock held here is free there)"),
        ({STORAGE: {"lock": "no locks available"}}, PROBLEM, "(no locks: no locks available)"),
        ({STORAGE: {"seconds": 2.5}}, WARNING, "two small files took 2.5 s to be written"),
        ({STORE: {"problem": "cannot be used"}}, PROBLEM, "cannot be used; it answers here: look"),
        ({STORE: {"seconds": 0.7}}, WARNING, "MLflow takes 0.7 s for a request"),
        (
            {STORE: {"server": "3.16.0"}},
            WARNING,
            "server is 3.16.0, and older than",
        ),
        ({STORE: {"artifacts": "no boto3"}}, PROBLEM, "cannot be written and read back (no boto3)"),
        ({STORE: {"left": "s3://x/y"}}, WARNING, "could not be removed: remove s3://x/y"),
        ({"clock": Clock(-3.2, 0.1)}, WARNING, "its clock is 3.2 s behind the one here"),
        ({"clock": Clock(1.2, 0.1)}, WARNING, "its clock is 1.2 s ahead of the one here"),
        (
            {"errors": {SOFTWARE: NO_MODULE, MACHINE: NO_MODULE}},
            PROBLEM,
            "the project cannot be imported there (ModuleNotFoundError: No module named 'sweeps')",
        ),
        (
            {"errors": {MACHINE: "OSError: x", STORE: "OSError: x"}},
            PROBLEM,
            "its hardware and MLflow could not be examined there (OSError: x)",
        ),
        (
            {"silent": STORAGE},
            PROBLEM,
            "it has said nothing for 30 s when asked about the storage",
        ),
    ],
)
def test_what_is_wrong_with_a_node_is_said_once(
    changes: dict[str, Any], is_problem: bool, text: str
) -> None:
    """With its name; the others are well."""
    (found,) = find_problems(checkup(changes))
    assert text in found.text
    assert (found.is_problem, found.names) == (is_problem, ("b",))


@pytest.mark.parametrize(
    ("changes", "is_problem", "text"),
    [
        ({"is_sqlite": True}, PROBLEM, "a SQLite file, which does not bear 3 nodes"),
        ({"lock": "no locks available"}, PROBLEM, "cannot be locked (no locks available)"),
        ({"free": 10**8}, PROBLEM, "/shared has 0.1 GB free"),
        ({"free": 10**9}, WARNING, "/shared has 1.0 GB free"),
        ({"left": ("/shared/.doctor",)}, WARNING, "remove /shared/.doctor"),
        ({"nodes": (Examined(node("a", cpus=0.0), Answers()),)}, PROBLEM, "hands out no CPU"),
    ],
)
def test_what_is_wrong_with_the_cluster(
    changes: dict[str, Any], is_problem: bool, text: str
) -> None:
    (found,) = find_problems(checkup({}, **changes))
    assert text in found.text
    assert (found.is_problem, found.names) == (is_problem, ())


def test_what_is_no_problem() -> None:
    """A torch of another build, a clock whose round trip was slow, one node with a SQLite file."""
    assert not find_problems(checkup({SOFTWARE: {"packages": PACKAGES | {"torch": "2.13.0+cpu"}}}))
    assert not find_problems(checkup({"clock": Clock(1.5, 0.6)}))
    one = checkup({}).nodes[:1]
    assert not find_problems(checkup({}, nodes=one, is_sqlite=True))


def test_what_all_have_in_common_stands_once() -> None:
    """Without what is said where it is one node's; problems come before warnings."""
    away = StoreUse("the MLflow store http://mlflow:5000 cannot be used: refused")
    whole = checkup({"clock": Clock(5.0, 0.0)})
    for each in (whole.here, *whole.nodes):
        each.answers.found[STORE] = away
    found = find_problems(whole)
    assert [(each.is_problem, each.names) for each in found] == [
        (True, ("here", "a", "b", "c")),
        (False, ("b",)),
    ]
    assert found[0].text == away.problem


def test_the_nodes_of_a_finding_in_words() -> None:
    for names, text in {
        "a": "node a",
        "a b": "a and b",
        "a b c d": "a, b, c and d",
        "a b c d e": "a, b, c and 2 more",
        "here": "here",
        "here b": "here and b",
        "a b c d e f": "every node",
        "here a b c d e f": "everywhere",
        "": "",
    }.items():
        assert where(names.split(), list("abcdef")) == text
    assert where(["a"], ["a"]) == "node a"


def shown(whole: Checkup, findings: list[Finding], **options: Any) -> str:
    console = Console(width=100, **options)
    with console.capture() as captured:
        show_checkup(whole, findings, console)
    return captured.get()


def test_a_screen_is_enough() -> None:
    """A row for each node, no password, and colours on a terminal only."""
    whole = checkup(
        {"node": {"gpus": 2.0}, STORAGE: {"is_same": False, "lock": ""}},
        uri="http://bob:hunter2@mlflow:5000",
    )
    found = find_problems(whole)
    text = shown(whole, found)
    lines = [line.rstrip() for line in text.splitlines()]
    assert lines[0].split()[:4] == ["node", "CPUs", "memory", "GPUs"]
    assert " ".join(lines[1].split()) == "a 4/4 12/16 GB - 2.13.0 same same 10 ms +0.0 s"
    assert "2/2 H100 80GB HBM3 86 GB" in lines[2]
    assert "other" in lines[2]
    assert "problem: node b: /shared is another folder there than here" in text
    assert lines[-1] == "3 nodes: 1 problem, 0 warnings."
    assert "hunter2" not in text
    assert "\x1b" not in text
    assert "\x1b" in shown(whole, found, force_terminal=True)
    assert shown(checkup({}), []).endswith("All is well: 3 nodes, and nothing to warn of.\n")


def test_nodes_that_said_nothing_have_a_row() -> None:
    silent = Examined(node("b"), Answers(silent=SOFTWARE))
    whole = checkup({}, nodes=(silent,))
    assert shown(whole, find_problems(whole)).splitlines()[1].split() == ["b", *"--------"]


# What runs on a node


def test_the_code_is_told_apart_by_its_files(tmp_path: Path) -> None:
    """C++ and Python of the four packages; what else lies there does not count."""
    for name in ("sweeps/a.py", "models/kernels/cpp/b.cpp", "tests/c.py", "analysis/d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    before = look_at_software((), tmp_path)
    assert list(before.sources) == ["models/kernels/cpp/b.cpp", "sweeps/a.py"]
    (tmp_path / "sweeps/a.py").write_text("changed")
    after = look_at_software((), tmp_path)
    assert after.sources["sweeps/a.py"] != before.sources["sweeps/a.py"]
    assert "sweeps/doctor.py" in look_at_software(()).sources
    assert (ROOT / "sweeps/doctor.py").is_file()


def test_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Compilers are found as the kernels find them, settings where they are set."""
    for compiler in (None, "c++", "none-such"):
        if compiler is not None:
            monkeypatch.setenv("CXX", compiler)
        found = look_at_machine(str(tmp_path / "none"))
        assert found.compilers[0] == (native.find_compiler() or "")
    assert found.cpus >= 1
    assert 0 < found.free_memory <= found.memory
    assert [disk.folder for disk in found.disks] == [tempfile.gettempdir()]
    monkeypatch.setenv("BABYSWEEP_CPP", "0")
    software = look_at_software(("BABYSWEEP_CPP", "BABYSWEEP_KERNELS"))
    assert software.settings == {"BABYSWEEP_CPP": "0"}
    assert software.packages["torch"]


def test_kernel_caches_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nor made, in a folder that is closed."""
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    (found,) = look_at_machine("/none").kernel_caches
    assert found == str(tmp_path / "cache" / "babysweep" / "kernels") == str(native.cache_folder())


def test_lines_of_the_gpus_driver() -> None:
    text = "NVIDIA H100 80GB HBM3, 81559, 580.65.06\nGH200, [N/A], 1\nNo devices were found\n"
    assert gpus_in(text) == (
        Gpu("NVIDIA H100 80GB HBM3", 81559 * 2**20, "580.65.06"),
        Gpu("GH200", 0, "1"),
    )


def test_a_shared_folder_is_used_from_both_sides(tmp_path: Path) -> None:
    """And nothing stays."""
    shared = SharedFolder(tmp_path)
    with shared.opened():
        shared.prepare("n")
        use = use_folder(shared.path, "n", shared.token)
        assert (use.is_there, use.is_same, use.refused, use.lock) == (True, True, "", HELD)
        assert (use.user, use.umask) == (os.getuid(), umask())
        assert shared.lock == TAKEN
        assert shared.compare("n") == ""
    assert list(tmp_path.iterdir()) == []


def umask() -> int:
    before = os.umask(0)
    os.umask(before)
    return before


def test_another_folder_of_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.engine.checkup.folder._PATIENCE", 0.0)
    shared = SharedFolder(tmp_path)
    use = use_folder(shared.path, "n", shared.token)
    assert (use.is_there, use.is_same, use.refused, use.lock) == (True, False, "", "")
    assert not use_folder(tmp_path / "none" / "x", "n", "").is_there
    with shared.opened():
        assert not use_folder(shared.path, "n", "another token").is_same
        shared.prepare("n")
        assert shared.compare("n") == "it is not seen here"


def test_files_that_cannot_be_replaced(tmp_path: Path) -> None:
    """A folder is in their way; it could as well be another user's file."""
    shared = SharedFolder(tmp_path)
    with shared.opened():
        (shared.path / "n" / "given").mkdir(parents=True)
        assert use_folder(shared.path, "n", shared.token).refused == "is a directory"
        (shared.path / "n" / "made" / "token").mkdir(parents=True)
        assert shared.compare("n") == "is a directory"


def test_a_lock_that_excludes_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or that cannot be had: both sides say so."""
    shared = SharedFolder(tmp_path)
    monkeypatch.setattr("fcntl.flock", lambda file, operation: None)
    with shared.opened():
        shared.prepare("n")
        assert use_folder(shared.path, "n", shared.token).lock == TAKEN

    def refuse(file: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with shared.opened():
        shared.prepare("n")
        assert shared.lock == "no locks available"
        assert use_folder(shared.path, "n", shared.token).lock == "no locks available"


def test_an_error_does_not_end_the_questions() -> None:
    said = ask_here([Question("x", int, ("no number",)), Question("y", int, ("3",))])
    assert said.found == {"y": 3}
    assert said.errors == {"x": "invalid literal for int() with base 10: 'no number'"}


def test_the_line_of_rays_errors() -> None:
    """Of a traceback the line that names an error, without passwords."""
    text = """The actor with name _Examiner failed to import on the worker. Traceback:

Traceback (most recent call last):
  File "function_manager.py", line 678, in _load_actor_class_from_gcs
ModuleNotFoundError: No module named 'sweeps.engine'

(of http://bob:hunter2@x:1)"""
    assert in_a_line(RuntimeError(text)) == "ModuleNotFoundError: No module named 'sweeps.engine'"
    assert in_a_line(RuntimeError("at http://bob:hunter2@x:1")) == "at http://x:1"
    assert in_a_line(ValueError()) == "ValueError"


def test_a_silent_node_is_waited_for_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others have all the time they need, and an error is an answer."""

    def get(asked: tuple[str, Any, object]) -> Any:
        if asked[1] is None:
            raise RaySystemError("no memory")
        return asked[1]()

    def process(name: str) -> Any:
        remote = SimpleNamespace(remote=lambda function: (name, function, object()))
        return SimpleNamespace(call=remote)

    def wait(asked: list[Any], **options: Any) -> tuple[list[Any], list[Any]]:
        time.sleep(0.1)
        return [each for each in asked if each[0] == "quick"][:1], []

    monkeypatch.setattr(asking.ray, "wait", wait)
    monkeypatch.setattr(asking.ray, "get", get)
    monkeypatch.setattr(asking, "SILENCE_SECONDS", 0.3)
    examiners, told = asking.Examiners([]), []
    examiners._processes = {name: process(name) for name in ("quick", "slow")}
    several = [Question("one", dict), Question("none", None), Question("two", list)]  # type: ignore
    found = examiners.ask({"quick": several * 2, "slow": several}, lambda each: told.append(each))
    assert (found["quick"].found, found["quick"].silent) == ({"one": {}, "two": []}, "")
    assert found["quick"].errors == {"none": "System error: no memory"}
    assert found["slow"] == Answers(silent="one")
    assert told[0] == {"quick": "one", "slow": "one"}
    assert told[-1] == {"quick": "two"}


# Real ones


DOCTOR = """
import sys
from sweeps.engine.checkup import asking
asking.SILENCE_SECONDS = 200.0
from sweeps.doctor import main
sys.exit(main(sys.argv[1:]))
"""
"""The command, with more patience for nodes that share two cores with other tests."""


def doctor(cwd: Path, *words: str, **variables: str) -> tuple[int, str]:
    """The command's exit status, and what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", DOCTOR, *words],
        cwd=cwd,
        env=environment() | {"PYTHONPATH": str(ROOT)} | variables,
        capture_output=True,
        text=True,
        timeout=500,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_this_machine_without_a_cluster(tmp_path: Path) -> None:
    """Its storage stays empty; on a machine with little left there may be warnings."""
    storage = tmp_path / "storage"
    status, said = doctor(tmp_path, "--storage", str(storage))
    assert status == 0, said
    assert "127.0.0.1" in said
    assert "problem:" not in said
    assert "1 node" in said
    assert "\x1b" not in said
    assert list(storage.iterdir()) == []


def test_a_cluster_that_is_not_there_is_no_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """But a wrong flag."""
    assert run_doctor(DoctorArgs(storage=tmp_path, address="127.0.0.1:1")) == 2
    assert "no Ray cluster answers at 127.0.0.1:1" in capsys.readouterr().err


@pytest.mark.slow
def test_a_server_and_its_artifacts(tmp_path: Path) -> None:
    """Each node writes one, and reads it and that of who asks; nothing stays."""
    with serve_mlflow(tmp_path) as uri:
        place = artifact_place(uri, "checkup")
        before = use_store(uri, place, "n")
        assert "here.txt" in before.artifacts
        here = use_store(uri, place, "here")
        other = use_store(uri, place, "n")
        assert (here.problem, here.artifacts, here.left) == ("", "", "")
        assert (other.problem, other.artifacts, other.left) == ("", "", "")
        assert other.server == look_at_software(()).packages["mlflow"]
        assert 0 < other.seconds < 10
        assert remove_artifacts(uri, place) == ""
        assert not [path for path in tmp_path.rglob("*") if "checkup" in str(path)]
    assert "cannot be used" in use_store(uri, "", "n").problem
    assert artifact_place(uri, "checkup") == ""


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="a node with a folder of its own needs root")
def test_a_cluster_of_strange_nodes(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has other code, permissions and no way to MLflow, one another folder, and one nothing."""
    storage, other, copy, empty = (tmp_path / name for name in ("storage", "other", "copy", "none"))
    for folder in (storage, other, empty / "sweeps", tmp_path / "mlflow"):
        folder.mkdir(parents=True)
    (empty / "sweeps" / "__init__.py").touch()
    for part in ("analysis", "models", "sweeps", "trainables"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "trainables" / "step.py").open("a") as file:
        file.write("# changed\n")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with serve_mlflow(tmp_path / "mlflow") as uri:
        nodes = RayNodes(tmp_path_factory.mktemp("r"))
        try:
            nodes.join(
                *("sh", "-c", 'umask 077; exec "$@"', "sh"),
                PYTHONPATH=str(copy),
                http_proxy="http://bob:hunter2@127.0.0.1:1",
            )
            mount = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
            nodes.join("unshare", "--mount", "sh", "-c", mount, "sh", str(other), str(storage))
            nodes.join(PYTHONPATH=str(empty))
            words = ("--address", nodes.address, "--storage", str(storage))
            variables = {**nodes.env, "MLFLOW_TRACKING_URI": uri}
            status, said = doctor(tmp_path, *words, **variables)
        finally:
            nodes.end()
    print(said)
    assert status == 1, said
    problems = [line for line in said.splitlines() if line.startswith("problem: ")]
    warnings = [line for line in said.splitlines() if line.startswith("warning: ")]
    for text in (
        f"the project in {copy} differs from the one here in 1 file (trainables/step.py)",
        "cannot be used: ",
        f"{storage} is another folder there than here",
        "the project cannot be imported there (ModuleNotFoundError: No module named 'sweeps.engine",
    ):
        assert len([line for line in problems if text in line]) == 1, text
    assert len(problems) == 4
    assert len([line for line in warnings if "(umask 077, here 0" in line]) == 1
    assert "to be written" not in said
    assert "hunter2" not in said
    assert list(storage.iterdir()) == list(other.iterdir()) == []


@pytest.mark.parametrize(
    ("use", "is_problem", "told"),
    [
        (BucketUse(True, "", 0.01), None, ""),
        (BucketUse(False, "AWS Error ACCESS_DENIED", 0.0), True, "its credentials"),
        (BucketUse(False, "", 0.01), True, "another bucket there"),
        (BucketUse(True, "", 3.0), False, "took 3.0 s"),
    ],
)
def test_what_a_node_can_do_with_the_bucket(
    use: BucketUse, is_problem: bool | None, told: str, tmp_path: Path
) -> None:
    place = tmp_path / "kept=3As3=3A=2F=2Fbucket=2Fx"
    there = {BUCKET: use, SOFTWARE: answers()[SOFTWARE]}
    examined = Examined(node("b"), Answers(found=there))
    whole = dataclasses.replace(checkup({}), storage=place, nodes=(examined,))
    found = [each for each in find_problems(whole) if "b" in each.names]
    assert [each.is_problem for each in found] == ([] if is_problem is None else [is_problem])
    assert all(told in each.text and "s3://bucket/x" in each.text for each in found)


def test_a_bucket_is_the_same_where_the_token_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SCRATCH, str(tmp_path / "one"))
    shared = copy_of(f"file://{tmp_path / 'bucket'}") / ".doctor-x"
    monkeypatch.setenv(SCRATCH, str(tmp_path / "two"))
    there = copy_of(f"file://{tmp_path / 'bucket'}") / ".doctor-x"
    (tmp_path / "bucket").mkdir()
    with token_offered(shared, "secret"):
        assert use_bucket(there, "b", "secret").is_same
        assert use_bucket(there, "b", "secret").refused == ""
        assert not use_bucket(there, "b", "another").is_same
    assert not use_bucket(there, "b", "secret").is_same
    assert not [path for path in (tmp_path / "bucket").rglob("*") if path.is_file()]
