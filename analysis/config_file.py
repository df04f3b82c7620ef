"""Files of a command's flags: every run writes one, from which it can be repeated.

babysweep lr-sweep --config runs/mini-mini/commands/lr-sweep-1a2b3c4d.yaml --seeds 0 1 2
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from analysis.errors import is_secret, without_secret
from analysis.flag_values import MOST_SHOWN, NO_LETTER, PLACE, value_of
from analysis.places import check_came_along
from analysis.schema.typed import parse_json
from analysis.whole_files import write_text

NOT_KEPT = frozenset({"dry_run", "status"})
"""Fields that make a command print something instead of running."""


def read_config(path: Path, kind: type) -> dict[str, Any]:
    """The flags in a file, by field.

    Args:
        path: of JSON if it ends in .json, else of YAML.
        kind: the dataclass of the flags.

    Raises:
        ValueError: no such file, no mapping, an unknown field or a wrong value; it is named.
    """
    given = _mapping(path)
    hints = get_type_hints(kind)
    names = {each.name for each in fields(kind)}
    values = {}
    for key, value in given.items():
        key = NO_LETTER.sub("?", str(key))[:MOST_SHOWN]
        name = key.replace("-", "_")
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f": did you mean {near[0]}?" if near else ""
            raise ValueError(f"{path}: {key} is no flag of {command_name(kind)}{hint}")
        try:
            values[name] = value_of(name, hints[name], value)
        except ValueError as error:
            raise ValueError(f"{path}: {key}: {error}") from None
    return values


def save_config(folder: Path, args: Any) -> Path:
    """Write a command's flags, secrets left out, into the folder `commands` of another one.

    The file is named after its content: the same command again writes the same file.
    """
    command = command_name(type(args))
    kept = {each.name: each for each in fields(args) if each.name not in NOT_KEPT}
    values = {
        name: _plain(getattr(args, name), each.metadata.get(PLACE))
        for name, each in kept.items()
        if not is_secret(name)
    }
    text = yaml.dump(
        values,
        Dumper=_Dumper,
        sort_keys=False,
        default_flow_style=None,
        allow_unicode=True,
        width=100,
    )
    name = f"{command}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.yaml"
    path = folder / "commands" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    head = f"# To run it again: babysweep {command} --config {name}\n"
    write_text(path, head + text)
    return path


def command_name(kind: type) -> str:
    """Name of the command of a dataclass of flags: lr-sweep, of LrSweepArgs."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__.removesuffix("Args")).lower()


def _mapping(path: Path) -> dict[object, object]:
    check_came_along(path, "--config")
    path = Path(os.path.expanduser(path))
    if not os.path.isfile(path):
        raise ValueError(f"--config: there is no file {path}")
    try:
        text = path.read_text(encoding="utf-8-sig")
        found = parse_json(text) if path.suffix == ".json" else _parse_yaml(text)
    except ValueError as error:
        raise ValueError(
            f"--config: {path} cannot be read: {error}: write lines like `epochs: 3`, or in JSON "
            f'{{"epochs": 3}}'
        ) from None
    if not isinstance(found, dict):
        raise ValueError(f"--config: {path} must hold lines like `epochs: 3`")
    return found


def _parse_yaml(text: str) -> object:
    """The value that a text stands for.

    Raises:
        ValueError: it is no YAML, or nested too deeply. The problem and its line are told, and
            nothing of the text, which may hold a password.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        problem, line = "nested too deeply", None
    except yaml.reader.ReaderError as error:
        problem, line = error.reason, text.count("\n", 0, error.position)
    except yaml.MarkedYAMLError as error:
        # Quoted are names from the text and, of one letter or in <>, what YAML's grammar has.
        problem = re.sub(r"""'[^'<\s]{2,}'|"[^"<\s]{2,}\"""", "that it has", error.problem)
        line = error.problem_mark.line
    raise ValueError(problem if line is None else f"{problem} (line {line + 1})")


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML in which 1e-3 is a number, as it is in JSON, and a date a text; `<<`, by which a few
    lines become a mapping of millions, is a name like others."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge nothing into a mapping."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
        """The value of a part of the text.

        Raises:
            yaml.MarkedYAMLError: it is not what its tag says, at which YAML's own functions
                raise anything.
            RecursionError: it is nested too deeply.
        """
        try:
            return super().construct_object(node, deep)
        except (yaml.MarkedYAMLError, RecursionError):
            raise
        except Exception:
            problem = "a value that is not what its tag, or its look, says"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Writes YAML for `_Loader`, and quotes the texts that it would read as numbers."""


_RESOLVERS = {
    first: [pair for pair in pairs if not pair[0].endswith((":timestamp", ":float", ":merge"))]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+|[-+]?(\d+\.\d*|\.\d+)|[-+]?\.(inf|nan)")
for _kind in (_Loader, _Dumper):
    _kind.yaml_implicit_resolvers = {first: [*pairs] for first, pairs in _RESOLVERS.items()}
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def _plain(value: object, names: Sequence[str] | None) -> object:
    """A value as it is written: paths whole, since a file is used from anywhere.

    Args:
        value: of a flag.
        names: texts that are no paths, of a flag whose value may be a path.
    """
    if isinstance(value, tuple):
        return [_plain(each, names) for each in value]
    if not isinstance(value, str | Path):
        return value
    text = str(value)
    if names is not None and text not in names and Path(text).expanduser().exists():
        return str(Path(text).expanduser().absolute())
    return without_secret(text)
