"""Plan of a checkup: the storage, the MLflow store, and what each node is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from analysis.addresses import address_of
from analysis.commands import SETTINGS
from analysis.flag_values import checked
from analysis.store import tracking_uri
from sweeps.arguments import DoctorArgs
from sweeps.engine.checkup.asking import Node, Question
from sweeps.engine.checkup.bucket import use_bucket
from sweeps.engine.checkup.folder import SharedFolder, use_folder
from sweeps.engine.checkup.machine import gpus_of_torch, look_at_machine
from sweeps.engine.checkup.software import look_at_software
from sweeps.engine.checkup.store import HERE, use_store
from sweeps.engine.environment import check_address
from sweeps.stored.trials import resolve_storage

SOFTWARE, MACHINE, TORCH = "its packages", "its hardware", "PyTorch's GPUs"
STORAGE, STORE, BUCKET = "the storage", "MLflow", "the bucket"
"""Topics of questions."""
_SQLITE = "sqlite:///"


@dataclass(frozen=True)
class CheckupPlan:
    """A cluster to be examined.

    Attributes:
        storage: that studies will lie in.
        uri: of the MLflow store.
    """

    args: DoctorArgs
    storage: Path
    uri: str

    @property
    def is_sqlite(self) -> bool:
        """Whether the store is a file."""
        return self.uri.startswith("sqlite:")

    def questions(self, node: Node | None, shared: SharedFolder, place: str) -> list[Question]:
        """What a node is asked, one after the other; what may hang comes last.

        Args:
            node: None for the process that asks.
            shared: the folder that it made in the storage.
            place: of artifacts, see `artifact_place`.
        """
        name = HERE if node is None else node.id
        asked = [Question(SOFTWARE, look_at_software, (SETTINGS,))]
        if node is not None:
            asked.append(Question(MACHINE, look_at_machine, (node.folder,)))
            if node.gpus:
                asked.append(Question(TORCH, gpus_of_torch))
        if address_of(self.storage) is None:
            asked.append(Question(STORAGE, use_folder, (shared.path, name, shared.token)))
        else:
            asked.append(Question(BUCKET, use_bucket, (shared.path, name, shared.token)))
        if not self.is_sqlite or Path(self.uri.removeprefix(_SQLITE)).exists():
            asked.append(Question(STORE, use_store, (self.uri, place, name)))
        return asked


def plan_checkup(args: DoctorArgs) -> CheckupPlan:
    """Resolve the places, and see that the cluster answers.

    Raises:
        ValueError: a flag, the storage or the address is wrong; the message says what to do.
    """
    args = checked(args)
    check_address(args.address)
    storage = resolve_storage(args.storage)
    return CheckupPlan(args, storage, tracking_uri(storage))
