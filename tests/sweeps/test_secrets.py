"""Whatever a run with secrets writes, shows or leaves behind has none of them."""

from __future__ import annotations

import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.processes import serve_mlflow
from tests.sweeps.conftest import SweepCommand

SECRETS = ("hunter2-of-mlflow", "sesame-of-ewok", "hf_ofthehub12345")


def _words_of(process: subprocess.Popen[str]) -> Iterator[str]:
    """The words of a command's processes, and of the servers that it has started."""
    own = psutil.Process(process.pid)
    for each in (own, *own.children(recursive=True)):
        try:
            yield " ".join(each.cmdline())
        except psutil.Error:  # it has ended
            continue


def _holding(folder: Path) -> list[str]:
    """The files that hold a secret, or are called like one."""
    found = []
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        for secret in SECRETS:
            if secret.encode() in content or secret in path.name:
                found.append(f"{path}: {secret}")
    return found


def test_tune_sends_no_key_of_s3_to_its_workers() -> None:
    """It would be in the runtime environment, and so in Ray's logs and pages."""
    from ray.tune.execution import class_cache

    from sweeps.engine import tuning

    assert tuning.class_cache is class_cache
    assert not [name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("command", ["sweep", "failing"])
def test_nothing_that_a_run_leaves_has_its_secrets(
    command: str, sweep: SweepCommand, tmp_path: Path
) -> None:
    """Neither the terminal, the storage, the server's database and artifacts, Ray's session folder,
    nor the process list while it runs, whether it ends well or not."""
    mlflow, ewok, hub = SECRETS
    seen: set[str] = set()
    (tmp_path / "server").mkdir()
    with (
        tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as session,  # sockets: short paths
        serve_mlflow(tmp_path / "server") as server,
    ):
        uri = server.replace("http://", f"http://bob:{mlflow}@")
        variables = {"MLFLOW_TRACKING_URI": uri, "HF_TOKEN": hub, "RAY_TMPDIR": session}
        flags = ["--ewok-password", ewok, "--epochs", "1"]
        if command == "failing":
            flags += ["--benchmarks", "hub", "--tasks", "ewok"]
            variables |= {"HF_HUB_OFFLINE": "1"}
        with sweep.start(*flags, **variables) as process:
            assert process.stdout is not None
            lines: list[str] = []
            reader = threading.Thread(target=lambda: lines.extend(process.stdout))
            reader.start()
            while reader.is_alive() and ewok in " ".join(_words_of(process)):
                reader.join(0.05)  # the words that were typed, gone before anything is done
            while reader.is_alive():
                seen.update(_words_of(process))
                reader.join(0.2)
        output = "".join(lines)
        assert (process.returncode == 0) is (command == "sweep"), output
        for secret in SECRETS:
            assert secret not in output
            assert not [words for words in seen if secret in words]
        assert seen
        if command == "sweep":
            assert any("raylet" in words for words in seen)
            assert list(Path(session).rglob("*.log"))
        assert not _holding(Path(session))
        assert not _holding(sweep.storage)
    assert not _holding(tmp_path / "server")
