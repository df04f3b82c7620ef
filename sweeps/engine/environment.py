"""The environment: what Ray reads while it is imported (import this first), what a trial gets."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

from sweeps.engine import probe
from sweeps.engine.probe import CLIENT, REFUSED

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # analysis.signals has ours
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its banner ignores verbose=0

ANSWER_SECONDS = 10.0
"""For the address of a cluster's head, a connection to it, and its answer to a question."""
_ADDRESS = re.compile(rf"({CLIENT})?[^\s/]+:(?P<port>[0-9]+)")

WORKER_ENVIRONMENT = {
    # A process that was given no GPU sees none: it cannot take memory of one by accident.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    # Seconds that a stopped trial has to leave its process to the next one; two by default.
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",
    # Waiting threads spin for some 50 us: between two steps of a recurrence, but not for as long as
    # to take the core of another process.
    "GOMP_SPINCOUNT": "10000",
    # Keep freed memory: fetching the pages of every large temporary anew from the system cost 15%
    # to 25% of a step of Mamba and xLSTM on a CPU.
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Variable in which Ray tells the command of a submitted job what its processes get."""


def worker_environment(settings: Iterable[str]) -> dict[str, str]:
    """Variables that a command's processes get, on whatever node.

    Those of a submitted job's runtime environment they get in any case: for Ray it is an error to
    name them again.

    Args:
        settings: names of variables that go along where they are set.
    """
    here = {name: value for name in settings if (value := os.environ.get(name))}
    job = json.loads(os.environ.get(_JOB) or "{}").get("runtime_env") or {}
    known = job.get("env_vars") or {}
    return {
        name: value for name, value in {**WORKER_ENVIRONMENT, **here}.items() if name not in known
    }


def cluster_address(address: str | None) -> str:
    """Address of the cluster: for "auto" the environment may have it; an empty address is none."""
    return (address != "auto" and address) or os.environ.get("RAY_ADDRESS") or address or "local"


def is_local(address: str | None) -> bool:
    """Whether a cluster is started for this command, rather than one connected to."""
    return cluster_address(address) == "local"


def check_address(address: str | None) -> None:
    """Check that a cluster answers where one is said to be: Ray itself waits for minutes.

    Raises:
        ValueError: none does, or it takes no orders from here.
    """
    place = cluster_address(address)
    problem = "" if place == "local" else _problem(place)
    if problem.startswith(REFUSED):
        raise ValueError(
            f"the Ray cluster at {place} refuses this command's token: set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH, as the cluster has them"
        )
    if problem:
        raise ValueError(
            f"no Ray cluster answers at {place} ({problem}): start it, or correct --address or "
            "RAY_ADDRESS; without them a cluster is started for this command"
        )


def _problem(place: str) -> str:
    """Reason why a cluster cannot be used, "" if it can."""
    found = _ADDRESS.fullmatch(place)
    if place != "auto" and not (found and 0 < int(found["port"]) < 2**16):  # others wrap round
        return f"an address is HOST:PORT, or {CLIENT}HOST:PORT, and a port at most 65535"
    try:
        asked = subprocess.run(
            [sys.executable, "-P", probe.__file__, place],
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"it has said nothing for {ANSWER_SECONDS:.0f} s"
    said = asked.stdout.strip() or asked.stderr.strip() or f"status {asked.returncode}"
    return said.splitlines()[-1] if asked.returncode else ""


def secure_local_cluster(address: str | None) -> None:
    """Keep a cluster of this command's own to this machine and this command.

    Ray's servers would run code for anyone who reaches them: they listen on loopback only, and with
    a secret token they answer nobody but this command and its processes.
    """
    if is_local(address):
        # The address of this node is then 127.0.0.1, as it is by default on systems where Ray has
        # no clusters of several nodes; `ray.init` has no argument for it.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        if "ray" in sys.modules:
            _read_environment_again()


def _read_environment_again() -> None:
    """Read again what Ray reads while it is imported: in a notebook it may have been before us.

    Ray has no public way to do this; without the token its own processes would be refused.
    """
    from ray import _raylet
    from ray._private import ray_constants

    raylet: Any = _raylet
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()
    ray_constants.ENABLE_RAY_CLUSTER = False
