"""Examine a cluster as planned: every node, and this process, which the sweep's will be like."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping

from ray.exceptions import RayError
from rich.markup import escape

from analysis.errors import EXIT_FAILED, say_error
from analysis.signals import ending_on_signals
from analysis.terminal import open_console, showing
from analysis.wording import count
from sweeps.arguments import DoctorArgs
from sweeps.engine.checkup.asking import Examiners, Node, Question, ask_here, living_nodes
from sweeps.engine.checkup.bucket import token_offered
from sweeps.engine.checkup.folder import SharedFolder, clear_folder
from sweeps.engine.checkup.store import HERE, artifact_place, remove_artifacts
from sweeps.engine.environment import is_local, secure_local_cluster
from sweeps.engine.progress import QUIET_SECONDS
from sweeps.engine.tuning import ray_cluster
from sweeps.engine.watch import RayDied
from sweeps.findings.doctor import show_checkup
from sweeps.findings.node_problems import Checkup, Examined, find_problems
from sweeps.plans.doctor import STORAGE, STORE, CheckupPlan, plan_checkup


def run_checkup(args: DoctorArgs) -> int:
    """Examine the cluster and print what was found; returns the exit status."""
    secure_local_cluster(args.address)
    console = open_console()
    try:
        with ending_on_signals():
            first = "Starting Ray" if is_local(args.address) else "Connecting to Ray"
            with showing(console, first, pause=QUIET_SECONDS) as show:
                plan = plan_checkup(args)
                checkup = examine(plan, show)
    except (ValueError, OSError) as error:
        return say_error(error)
    except (RayError, RayDied) as error:
        return say_error(error, EXIT_FAILED)
    findings = find_problems(checkup)
    show_checkup(checkup, findings, console)
    return EXIT_FAILED if any(each.is_problem for each in findings) else 0


def examine(plan: CheckupPlan, show: Callable[[str], None]) -> Checkup:
    """Ask this process and then all nodes.

    Args:
        plan: of the checkup.
        show: told what goes on, with rich's markup.

    Raises:
        ValueError: there is no cluster.
        OSError: the storage takes no file.
    """
    shared = SharedFolder(plan.storage)
    lost = ""
    with (
        ray_cluster(plan.args.address, dashboard=False),
        shared.opened(),
        token_offered(shared.path, shared.token),
    ):
        nodes = living_nodes()
        show(f"Asking {count(len(nodes), 'node')}")
        for name in (HERE, *(node.id for node in nodes)):
            shared.prepare(name)
        place = artifact_place(plan.uri, shared.path.name)
        try:
            here = Examined(None, ask_here(plan.questions(None, shared, place)))
            examined = _ask_all(plan, nodes, shared, place, show)
        finally:
            if place:
                lost = remove_artifacts(plan.uri, place)
    if (store := here.said_of(STORE)) is None or store.artifacts:
        lost = ""  # nothing was written that could be left
    left = [lost] if lost else []
    if shared.path.exists():
        left.append(str(shared.path))
    return Checkup(
        storage=plan.storage,
        uri=plan.uri,
        is_sqlite=plan.is_sqlite,
        here=here,
        nodes=tuple(examined),
        lock=shared.lock,
        free=shutil.disk_usage(plan.storage).free,
        left=tuple(left),
    )


def _ask_all(
    plan: CheckupPlan,
    nodes: list[Node],
    shared: SharedFolder,
    place: str,
    show: Callable[[str], None],
) -> list[Examined]:
    """What the nodes say, whether this process can replace what they wrote, and their clocks."""
    names = {node.id: node.name for node in nodes}

    def tell(waiting: Mapping[str, str]) -> None:
        rest = [f"{names[node]} ({topic})" for node, topic in waiting.items()]
        more = f" and {len(rest) - 3} more" if len(rest) > 3 else ""
        show(escape(f"Waiting for {', '.join(rest[:3])}{more}"))

    with Examiners(nodes) as examiners:
        questions = {node.id: plan.questions(node, shared, place) for node in nodes}
        answers = examiners.ask(questions, tell)
        wrote = [
            node
            for node, said in answers.items()
            if (use := said.found.get(STORAGE)) is not None and use.is_same and not use.refused
        ]
        returned = {node: shared.compare(node) for node in wrote}
        at_hand = {node for node, said in answers.items() if said.found and not said.silent}
        clear = [node for node in wrote if node in at_hand]
        examiners.ask(
            {node: [Question(STORAGE, clear_folder, (shared.path, node))] for node in clear}
        )
        return [
            Examined(
                node,
                answers[node.id],
                returned.get(node.id, ""),
                examiners.clock(node.id) if node.id in at_hand else None,
            )
            for node in nodes
        ]
