"""The commands that made a study: how each is recorded with it, read back in the order of time, and
named to whoever stopped it.

A recorded line can be typed anywhere: flags of a file stand in it one by one, what the command took
from the study as well, and `$BABYSWEEP_STORAGE` where its storage was. Secrets, and places that it
only wrote to, are left out.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.command_line import PROGRAM, called
from analysis.config_file import NOT_KEPT, command_name
from analysis.errors import SECRET_FLAGS, without_secret, without_secrets
from analysis.flag_values import PLACE
from analysis.schema.axes import short
from analysis.schema.ranges import flag_of
from analysis.signals import EXIT_INTERRUPTED
from analysis.store import EARLIEST_FIRST, all_runs
from analysis.terminal import say, show_whole
from analysis.wording import as_flag, quoted

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from rich.console import Console

COMMAND_TAG = "babysweep.command"
"""Of a sweep's run the commands that ran it, of a trial's those that promoted or scored it; one in
a line, each with its time as a comment."""
LONGEST = 8000
"""Letters of a tag that MLflow keeps."""
CUT = "# earlier commands, more than a tag holds"
"""In the place of lines that are lost."""
STORAGE = "BABYSWEEP_STORAGE"
SETTINGS = ("BABYSWEEP_KERNELS", "BABYSWEEP_CPP", "BABYSWEEP_CUDA_GRAPH")
"""Variables that change how a trial computes; they stand before the command."""
_RATES = {"lr", "lrs"}
"""Parts of the names of flags for learning rates."""
_LEFT_OUT = NOT_KEPT | {"storage", "address", "output"}
_ROOT = Path(__file__).resolve().parent.parent
_TIME = "%Y-%m-%d %H:%M:%S.%f"
_LINE = re.compile(r"(.+)  # (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}) UTC")
_whole: ContextVar[Any] = ContextVar("whole", default=None)


@dataclass(frozen=True)
class Recorded:
    """A command of a study.

    Attributes:
        time: when it was recorded, in UTC; of an earlier version's, when its run began.
        line: to be typed.
        is_as_typed: whether an earlier version recorded it, with the storage and file of then.
    """

    time: datetime
    line: str
    is_as_typed: bool = False


@contextlib.contextmanager
def part_of(args: Any) -> Iterator[None]:
    """Record this command in place of those that it runs within."""
    token = _whole.set(args)
    try:
        yield
    finally:
        _whole.reset(token)


def is_part() -> bool:
    """Whether another command runs this one as a part of itself."""
    return _whole.get() is not None


def record(
    client: MlflowClient,
    run_ids: Iterable[str],
    args: Any,
    storage: Path,
    taken: Mapping[str, Any] | None = None,
) -> None:
    """Add a command to those that these runs name; one that only goes on is not named twice.

    Args:
        client: of the MLflow store.
        run_ids: of runs in one study.
        args: of the command.
        storage: that it works in, resolved.
        taken: values of its flags that it took from the study.
    """
    whole = _whole.get()
    line = typed(replace(args, **(taken or {})) if whole is None else whole, storage)
    stamped = f"{line}  # {datetime.now(UTC).strftime(_TIME)} UTC"
    for run_id in run_ids:
        run = client.get_run(run_id)
        newest = recorded(client, run.info.experiment_id)[-1:]
        lines = run.data.tags.get(COMMAND_TAG, "").splitlines()
        if lines and [_parsed(lines[-1])[0]] == [line] == [each.line for each in newest]:
            continue
        client.set_tag(run_id, COMMAND_TAG, _fitting([*lines, stamped]))


def recorded(client: MlflowClient, experiment_id: str) -> list[Recorded]:
    """The commands of a study in the order of time; of equal ones in a row the first."""
    found: dict[Recorded, None] = {}
    condition = f"tags.`{COMMAND_TAG}` LIKE '%'"
    for run in all_runs(client, experiment_id, condition, EARLIEST_FIRST):
        began = datetime.fromtimestamp(run.info.start_time / 1000, UTC)
        for text in run.data.tags[COMMAND_TAG].splitlines():
            line, time = _parsed(text)
            found[Recorded(time or began, line, time is None and line != CUT)] = None
    ordered = sorted(found, key=lambda each: each.time)
    return [
        each
        for before, each in zip([None, *ordered], ordered, strict=False)
        if before is None or before.line != each.line
    ]


def typed(args: Any, storage: Path | None = None) -> str:
    """A command's arguments as a line to type, in the project's folder where it is a checkout.

    Args:
        args: an instance of a dataclass of flags.
        storage: what `$BABYSWEEP_STORAGE` stands for, resolved; None for nothing in the line.
    """
    kind = type(args)
    name = command_name(kind)
    variables = [f"{each}={quoted(os.environ[each])}" for each in SETTINGS if os.environ.get(each)]
    words = called(f"{kind.__module__.split('.')[0]}/{name.replace('-', '_')}.py")
    flags = []
    for each in fields(kind):
        value = getattr(args, each.name)
        flag = flag_of(each.name)
        if each.name in _LEFT_OUT or flag[2:] in SECRET_FLAGS or value == each.default:
            continue
        if isinstance(value, bool):
            flags.append(flag if value else f"--no-{flag[2:]}")
            continue
        values = value if isinstance(value, tuple) else (value,)
        names = each.metadata.get(PLACE)
        number = short if _RATES & {*each.name.split("_")} else "{:g}".format
        flags.append(as_flag(flag[2:], *(_word(one, names, storage, number) for one in values)))
    return without_secret(" ".join([*variables, quoted(*words), *flags]))


def _word(
    value: Any,
    names: tuple[str, ...] | None,
    storage: Path | None,
    number: Callable[[float], str],
) -> str:
    """A value in the shell's quotes.

    Args:
        value: of a flag.
        names: texts that are no paths, of a flag whose value may be a path.
        storage: of the command.
        number: the short form of a number, taken where it loses nothing.
    """
    text = str(value)
    if isinstance(value, float) and float(number(value)) == value:
        text = number(value)
    if names is None or text in names or not (place := Path(text).expanduser()).exists():
        return quoted(text)
    if storage is not None and (real := place.resolve()).is_relative_to(storage):
        return f'"${STORAGE}"/{quoted(str(real.relative_to(storage)))}'
    place = Path(os.path.abspath(place))  # a link stays one: its name may be the corpus's
    inside = str(place.relative_to(_ROOT)) if place.is_relative_to(_ROOT) else ""
    return quoted(inside if inside and inside not in names else str(place))


def say_how_to_continue(console: Console, status: int = EXIT_INTERRUPTED) -> int:
    """Say that this process's command was stopped, and what to type; returns the status."""
    python = [] if Path(sys.argv[0]).stem == PROGRAM else [sys.executable]
    say(console, "\nStopped. To continue, run it again:")
    show_whole(console, "  ", quoted(*python, *without_secrets(sys.argv)))
    return status


def _parsed(text: str) -> tuple[str, datetime | None]:
    """Command and time of a recorded line; an earlier version's has no time."""
    found = _LINE.fullmatch(text)
    if found is None:
        return text, None
    return found[1], datetime.strptime(found[2], _TIME).replace(tzinfo=UTC)


def _fitting(lines: list[str]) -> str:
    """The newest lines, as many as a tag holds."""
    kept = [line for line in lines if line != CUT]
    is_cut = len(kept) < len(lines)
    while sum(len(line) + 1 for line in (CUT, *kept)) > LONGEST and len(kept) > 1:
        kept, is_cut = kept[1:], True
    return "\n".join([CUT, *kept] if is_cut else kept)
