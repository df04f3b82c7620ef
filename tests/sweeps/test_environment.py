"""Which cluster a command uses, and what it says when none is there."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray.exceptions import AuthenticationError
from ray.runtime_env.runtime_env import _merge_runtime_env

from analysis.commands import SETTINGS
from analysis.signals import ENDING, ending_on_signals
from sweeps.engine import environment, tuning
from sweeps.engine.environment import check_address, is_local, secure_local_cluster
from sweeps.engine.probe import REFUSED, why
from sweeps.engine.watch import RayDied
from tests.analysis.test_commands import OTHER_VARIABLES
from tests.processes import ROOT
from tests.processes import environment as commands_environment
from tests.sweeps.ray_nodes import RayNodes


@pytest.fixture
def listening() -> Iterator[str]:
    """The address of a server that takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_an_empty_address_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """`RAY_ADDRESS=` joins no cluster that happens to run."""
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert is_local(None)
    check_address(None)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert not is_local(None)
    assert is_local("local")


def test_a_local_cluster_may_be_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is then kept to this machine, whoever asks; "auto" is what the variable says, if it does,
    as Ray has it."""
    monkeypatch.setattr(os, "environ", {**os.environ, "RAY_ADDRESS": "local", "RAY_AUTH_MODE": ""})
    for address in (None, "", "local", "auto"):
        assert is_local(address)
    assert not is_local("10.0.0.1:6379")
    secure_local_cluster(None)
    assert os.environ["RAY_AUTH_MODE"] == "token"
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert not is_local("auto")


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_a_cluster_that_is_not_there_is_named_at_once(form: str) -> None:
    """Not after minutes of waiting."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = form.format(server.getsockname()[1])
        with pytest.raises(ValueError, match=f"no Ray cluster answers at {address} "):
            check_address(address)  # bound, but it does not listen


@pytest.mark.parametrize("form", ["{}", "ray://{}"])
def test_who_listens_must_also_answer(
    form: str, listening: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong port, or a proxy without its cluster, is no cluster; that takes 20 s at most, the
    command's imports among them."""
    assert environment.ANSWER_SECONDS <= 10
    monkeypatch.setattr(environment, "ANSWER_SECONDS", 1.0)
    with pytest.raises(ValueError, match="no Ray cluster answers at .* has said nothing for 1 s"):
        check_address(form.format(listening))


@pytest.mark.parametrize(
    ("said", "status", "answer"),
    [
        ("AuthenticationError: wrong", 1, "refuses this command's token: set RAY_AUTH_MODE"),
        ("RpcError: Method not found!", 1, "no Ray cluster answers at .*Method not found"),
        ("", 3, "no Ray cluster answers at .*status 3"),
        ("", 0, ""),
    ],
)
def test_what_a_cluster_answers(
    said: str,
    status: int,
    answer: str,
    listening: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A token that it does not take is told from an answer of something else."""
    script = tmp_path / "probe.py"
    script.write_text(f"import sys; print({said!r}); sys.exit({status})")
    monkeypatch.setattr(environment.probe, "__file__", str(script))
    refusal = pytest.raises(ValueError, match=answer) if answer else contextlib.nullcontext()
    with refusal:
        check_address(listening)


def test_refused_tokens_of_both_protocols() -> None:
    """The errors of Ray's client say it in a code."""

    class RpcError(Exception):
        def code(self) -> SimpleNamespace:
            return SimpleNamespace(name="UNAUTHENTICATED")

        def details(self) -> str:
            return "Invalid or missing authentication token\nor so"

    for error in (RpcError(), AuthenticationError("RPC error: InvalidAuthToken")):
        line = why(error)
        assert line.startswith(REFUSED)
        assert "\n" not in line


@pytest.mark.slow
def test_a_real_cluster_and_its_token(ray_head: RayNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has the token is let in, who has another one is told so within seconds."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, ray_head.env[name])
    check_address(ray_head.address)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    with pytest.raises(ValueError, match="refuses this command's token"):
        check_address(ray_head.address)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:head", "an address is HOST:PORT, or ray://HOST:PORT"),
        ("127.0.0.1", "an address is HOST:PORT"),
        ("ray://head", "an address is HOST:PORT"),
        ("http://127.0.0.1:8265", "an address is HOST:PORT"),
        ("a\nb:1", "an address is HOST:PORT"),
        ("127.0.0.1:99999", "a port at most 65535"),
        ("no..host:6379", "UnicodeError"),
        ("me@127.0.0.1:1", "gaierror"),
    ],
)
def test_what_is_no_address(address: str, reason: str) -> None:
    """A host and a port, which is a number up to 65535."""
    with pytest.raises(ValueError, match="no Ray cluster answers at ") as error:
        check_address(address)
    assert reason in str(error.value)


def test_the_look_up_of_a_name_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that does not answer is waited for no longer than a cluster."""
    script = tmp_path / "probe.py"
    script.write_text(
        "import runpy, socket, time\n"
        "socket.getaddrinfo = lambda *_: time.sleep(60)\n"
        f"runpy.run_path({environment.probe.__file__!r}, run_name='__main__')\n"
    )
    monkeypatch.setattr(environment.probe, "__file__", str(script))
    monkeypatch.setattr(environment, "ANSWER_SECONDS", 0.5)
    with pytest.raises(ValueError, match="no Ray cluster answers at .* has said nothing for 0 s"):
        check_address("head:6379")


@pytest.fixture
def stub_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A stand-in for Ray, and the handlers of before afterwards."""
    stub = SimpleNamespace(
        init=lambda **options: None, shutdown=lambda: None, cluster_resources=lambda: {"CPU": 2.0}
    )
    for name in vars(stub):
        monkeypatch.setattr(tuning.ray, name, lambda name=name, **kw: getattr(stub, name)(**kw))
    monkeypatch.setattr(tuning, "watching_ray", contextlib.nullcontext)
    monkeypatch.setattr(os, "environ", {**os.environ})
    before = {number: signal.getsignal(number) for number in ENDING}
    yield stub
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    "error",
    [OSError("AF_UNIX path length cannot exceed 107 bytes: /x"), AuthenticationError("no token")],
)
def test_a_cluster_that_cannot_be_had(stub_ray: SimpleNamespace, error: Exception) -> None:
    """Is a line, which names what is the likely reason where it is too long."""

    def fail(**options: Any) -> None:
        raise error

    stub_ray.init = fail
    os.environ["RAY_TMPDIR"] = "/tmp/" + "x" * 70
    with (
        pytest.raises(ValueError, match=r"started or reached \(local\).*too long a path"),
        tuning.ray_cluster("local", dashboard=False),
    ):
        pass


def test_a_full_disk_is_named(stub_ray: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray only says that it waited, in an error of no class of its own."""

    def fail(**options: Any) -> None:
        raise Exception("The current node timed out during startup.\nMore of it.")

    stub_ray.init = fail
    os.environ["RAY_TMPDIR"] = "/tmp"
    cluster = functools.partial(tuning.ray_cluster, "local", dashboard=False)
    said = r"\(local\): The current node timed out during startup\."
    for free, more in ((10 * 2**20, "; /tmp has only 10 MB left: free some space"), (2**40, "$")):
        monkeypatch.setattr(tuning.shutil, "disk_usage", lambda _, n=free: SimpleNamespace(free=n))
        with pytest.raises(ValueError, match=said + more), cluster():
            pass


@pytest.mark.slow
def test_a_folder_that_is_too_long_for_sockets() -> None:
    """Ray's own answer to a long `RAY_TMPDIR` is an error in a line, too."""
    done = subprocess.run(
        [sys.executable, "-c", CLUSTER, "False"],
        cwd=ROOT,
        env={**commands_environment(), "RAY_TMPDIR": "/tmp/" + "x" * 70},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "RAY_TMPDIR=/tmp/xxx" in done.stderr


def test_switches_go_along_to_a_cluster_that_runs(
    stub_ray: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that change how a trial computes, where they are set; nothing that is secret, or only
    the command's, or of a machine."""
    inits: list[dict[str, Any]] = []
    stub_ray.init = lambda **options: inits.append(options)
    monkeypatch.setattr(tuning, "check_address", lambda address: None)
    os.environ.update(dict.fromkeys(SETTINGS, "0") | {"BABYSWEEP_CPP": ""})
    os.environ.update(dict.fromkeys(OTHER_VARIABLES, "x"))
    with tuning.ray_cluster("10.0.0.1:6379", dashboard=False):
        pass
    sent = inits[0]["runtime_env"]["env_vars"]
    switches = {"BABYSWEEP_KERNELS": "0", "BABYSWEEP_CUDA_GRAPH": "0"}
    assert {name: sent[name] for name in sent if name.startswith("BABYSWEEP")} == switches
    assert sent.items() > environment.WORKER_ENVIRONMENT.items()


def test_what_a_job_hands_on_is_not_sent_twice(
    stub_ray: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray would take it for a conflict, and start nothing."""
    variables = {"BABYSWEEP_KERNELS": "torch", "MALLOC_TRIM_THRESHOLD_": "1"}
    job = {"runtime_env": {"env_vars": variables, "working_dir": "gcs://x.zip"}}
    os.environ.update({RAY_JOB_CONFIG_JSON_ENV_VAR: json.dumps(job), **variables})
    os.environ["BABYSWEEP_CPP"] = "0"
    sent = environment.worker_environment(SETTINGS)
    assert sent["BABYSWEEP_CPP"] == "0"
    assert sent.keys().isdisjoint(variables)
    assert _merge_runtime_env(job["runtime_env"], {"env_vars": sent}) is not None
    os.environ[RAY_JOB_CONFIG_JSON_ENV_VAR] = '{"runtime_env": null}'
    assert environment.worker_environment(SETTINGS)["BABYSWEEP_KERNELS"] == "torch"


def test_a_signal_while_ray_starts_or_ends(stub_ray: SimpleNamespace) -> None:
    """Ray has handlers of its own for that time, one of which ends the process: none is left."""

    def init(**options: Any) -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        signal.raise_signal(signal.SIGTERM)

    stub_ray.shutdown = lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with ending_on_signals():
        with tuning.ray_cluster("local", dashboard=False):
            pass
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    stub_ray.init = init
    with (
        pytest.raises(KeyboardInterrupt),
        ending_on_signals(),
        tuning.ray_cluster("local", dashboard=False),
    ):
        pass


def test_whoever_enters_a_cluster_watches_it(
    stub_ray: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluations as well as sweeps; what died is not waited for."""

    @contextlib.contextmanager
    def watching() -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt as error:
            raise RayDied("gone") from error

    ended = []
    stub_ray.shutdown = lambda: ended.append(True)
    monkeypatch.setattr(tuning, "watching_ray", watching)
    with pytest.raises(RayDied), tuning.ray_cluster("local", dashboard=False):
        raise KeyboardInterrupt
    assert not ended


@pytest.mark.slow
@pytest.mark.parametrize("before", ["", "import ray"])
@pytest.mark.parametrize("variables", [{}, {"RAY_ADDRESS": "local"}])
def test_nobody_else_reaches_a_local_cluster(variables: dict[str, str], before: str) -> None:
    """All of its servers, the dashboard's too, listen on loopback; also in a notebook that has
    imported Ray before."""
    done = subprocess.run(
        [sys.executable, "-c", f"{before}\n{CLUSTER}", "True"],
        cwd=ROOT,
        env=commands_environment() | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    places = done.stdout.split()
    assert len(places) > 3
    assert {*places} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


CLUSTER = """
import sys
from sweeps.engine.environment import secure_local_cluster
secure_local_cluster(None)
import psutil, ray
from analysis.errors import say_error
from sweeps.engine.tuning import ray_cluster

@ray.remote
def worker():
    return 1

try:
    with ray_cluster(None, dashboard=sys.argv[1] == "True"):
        assert ray.get(worker.remote()) == 1
        me = psutil.Process()
        for process in (me, *me.children(recursive=True)):
            for connection in process.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN:
                    print(connection.laddr.ip)
except ValueError as error:
    sys.exit(say_error(error))
"""
"""Prints where the processes of a cluster of its own listen."""


@pytest.mark.parametrize("number", ENDING)
def test_signals_interrupt_a_command_and_nothing_else(number: signal.Signals) -> None:
    """What was there before comes back, after an interrupted command as well."""
    before = {each: signal.getsignal(each) for each in ENDING}
    with pytest.raises(KeyboardInterrupt), ending_on_signals():
        signal.raise_signal(number)
    assert {each: signal.getsignal(each) for each in ENDING} == before


def test_what_nohup_ignores_stays_ignored() -> None:
    """A closed terminal does not end the command then."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending_on_signals():
            signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
