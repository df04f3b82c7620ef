"""The command line of a dataclass of flags: the panels of `--help`, and what is typed.

A command's flags are a flat dataclass, composed of classes that each name the panel of `--help`
that their fields stand in (`PANEL`). A field keeps the panel of the class that declares it first.
"""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
import math
import re
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import MISSING, field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from analysis.errors import hide_secret_flags, is_secret, say_error
from analysis.flag_values import NO_LETTER, Flags, ValueFormat, format_of
from analysis.schema.ranges import check, flag_of
from analysis.signals import say_loading
from analysis.wording import quoted

PANELS = {
    "main": "What the command is to do.",
    "grid": "What is tried.",
    "data": "The text to train on, and the benchmarks to score.",
    "training": "How it is trained.",
    "machine": "Which part of the machine, or cluster, it takes.",
    "output": "Where the results go.",
}
"""The panels of every command's help in their order, by title, and what they are for."""
PROGRAM = "babysweep"
_ROOT = Path(__file__).resolve().parent.parent
_LETTERS = re.compile(r"-(?!(?:h|inf|infinity|nan)$)[^\W\d][^\s=]*", re.IGNORECASE)
"""Flags of one dash, but for -h: there are none. Some numbers look like them."""


class _WrongValue(Exception):
    """A flag's value that cannot be; the message names both."""


def parse(
    kind: type[Flags], argv: Sequence[str] | None, doc: str | None, prog: str | None = None
) -> Flags:
    """Parse the words of a command line; ends the process after help and wrong words.

    The imports of a command come after it, which it says.

    Args:
        kind: the dataclass of the flags.
        argv: the words, by default those of this process.
        doc: what the command does, shown above the flags.
        prog: the command's name, by default that of the running script.
    """
    words = sys.argv[1:] if argv is None else [*argv]
    panels = {name: _panel(kind, name) for name in PANELS}
    panels = {name: panel for name, panel in panels.items() if fields(panel)}
    config: Any = Annotated[
        Path | None,
        tyro.conf.arg(
            help="File of flags (YAML, JSON) like the one every run writes; flags beside it win.",
            help_behavior_hint="",
            metavar="FILE",
        ),
        _spec("config", format_of(Path | None)),
    ]
    whole: Any = make_dataclass(
        "Flags", [("config", config, None), *panels.items()], frozen=True, kw_only=True
    )
    try:
        _check_words(words, kind)
        hide_secret_flags(words)
        parsed = tyro.cli(
            whole,
            args=words,
            description=_as_called(doc or "", prog),
            prog=prog,
            config=(tyro.conf.OmitArgPrefixes,),
            default=_from_file(words, kind, whole, panels),
        )
        given = {k: v for name in panels for k, v in vars(getattr(parsed, name)).items()}
        args = kind(**given)
        check(args, flags=True)  # before the command's own imports
    except BrokenPipeError:  # of `--help | head`: not a wrong flag
        raise
    except (_WrongValue, ValueError, OSError) as error:
        sys.exit(say_error(error))
    say_loading()
    return args


def called(script: str) -> list[str]:
    """The words that call a command, as who typed this process's would call it.

    Args:
        script: of the command, as "sweeps/lr_sweep.py".
    """
    if Path(sys.argv[0]).stem != PROGRAM and (_ROOT / script).is_file():
        return ["python", script]
    return [PROGRAM, Path(script).stem.replace("_", "-")]


def to_type(script: str, *words: str) -> str:
    """A command with its flags as a line for a shell, see `called`."""
    return quoted(*called(script), *words)


def _check_words(words: Sequence[str], kind: type) -> None:
    """Name what no flag is called, also where required ones are missing, and what no value is.

    Raises:
        ValueError: there is such a word.
    """
    forms = _forms(kind)
    known = ["--config", "--help", *forms]
    known += [f"--no-{flag[2:]}" for flag, form in forms.items() if form is None]
    words = _without_secret_values(words, known)
    for word in words:
        name = word.partition("=")[0].replace("_", "-")
        is_flag = name.startswith("--") or _LETTERS.fullmatch(name)
        if is_flag and name not in known:
            near = difflib.get_close_matches(f"--{name.lstrip('-').lower()}", known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ValueError(f"there is no flag {name}: {hint}--help lists all")
    flag = "a word"
    for word in words:
        flag = word.partition("=")[0] if word.startswith("-") else flag
        if word in ("", f"{flag}="):
            raise ValueError(f"{flag} is empty: give a value, or leave the flag out")
        if NO_LETTER.search(word):
            raise ValueError(f"{flag} has a character that cannot be printed: {word!r}")
    _check_places(words, kind)


def _without_secret_values(words: Sequence[str], known: Sequence[str]) -> list[str]:
    """The words as errors may show them. A secret is all that stands behind its flag, up to the
    next one that is known.

    Raises:
        ValueError: a secret flag's value cannot be, or is more than one; it is not shown.
    """
    shown: list[str] = []
    rest = [*words]
    while rest:
        flag, is_joined, value = rest.pop(0).partition("=")
        if not (flag.startswith("-") and is_secret(flag)):
            shown.append(f"{flag}{is_joined}{value}")
            continue
        values = [value] if is_joined else []
        while rest and rest[0] != "-h" and rest[0].partition("=")[0].replace("_", "-") not in known:
            values.append(rest.pop(0))
        if values[1:]:
            raise ValueError(
                f"{flag}: what stands behind its value (not shown: it may be part of it) is no "
                f"flag: put a value with spaces in quotes; --help lists all flags"
            )
        if not is_joined and values and values[0].startswith("--"):
            raise ValueError(
                f"{flag}: join a value that begins with dashes to it, as in {flag}=VALUE"
            )
        if values and NO_LETTER.search(values[0]):
            raise ValueError(f"{flag} has a character that cannot be printed (it is not shown)")
        shown.append(f"{flag}={values[0] and '***'}" if values else flag)
    return shown


def _forms(kind: type) -> dict[str, ValueFormat | None]:
    """How the values of each flag are written; None for what is true or false."""
    hints = get_type_hints(kind, include_extras=True)
    return {flag_of(each.name): format_of(hints[each.name]) for each in fields(kind)}


def _check_places(words: Sequence[str], kind: type) -> None:
    """Check that every value stands behind a flag that takes it, or is one that needs no flag.

    Raises:
        ValueError: one does not, or a flag lacks its value.
    """
    hints, forms = get_type_hints(kind, include_extras=True), _forms(kind)
    free = sum(tyro.conf.Positional in get_args(hint) for hint in hints.values())
    flag, room = "", 0.0
    for word in [*words, "-h"]:
        if word.startswith("--") or word == "-h":
            if room == 1:
                raise ValueError(f"{flag} needs a value")
            flag, is_joined, value = word.partition("=")
            flag = flag.replace("_", "-")
            form = forms.get(flag)
            room = 1 if flag == "--config" else 0
            if form is not None:
                room = math.inf if form.several else 1
            if is_joined and not room:
                raise ValueError(f"{flag} takes no value: leave ={value} out")
            room = 0 if is_joined else room
        elif room:
            room -= 1
        elif free:
            free -= 1
        else:
            where = f" behind {flag}" if flag else ""
            raise ValueError(f"{word!r}{where} is no flag's value: --help lists all")


def _from_file(words: Sequence[str], kind: type, whole: Any, panels: dict[str, Any]) -> Any:
    """The flags with the values of the file that `--config` names, if it does."""
    path = None
    for word, after in zip(words, [*words[1:], None], strict=False):
        name, is_joined, value = word.partition("=")
        if name == "--config":
            path = value if is_joined else after
    if path is None:
        return tyro.MISSING_NONPROP
    from analysis.config_file import read_config  # YAML, which --help has no need of

    given = read_config(Path(path), kind)
    filled = {}
    for name, panel in panels.items():
        values = {each.name: given.get(each.name, _default(each)) for each in fields(panel)}
        filled[name] = panel(**values)
    return whole(config=Path(path), **filled)


def _default(each: Any) -> Any:
    return tyro.MISSING if each.default is MISSING else each.default


def _panel(kind: type, name: str) -> Any:
    """A dataclass of the fields that stand in a panel, each with its help."""
    hints = get_type_hints(kind, include_extras=True)
    members = []
    for each in fields(kind):
        if name != _declaring(kind, each.name)[-1].PANEL:
            continue
        hint = hints[each.name]
        bare, *own = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        settings: list[Any] = [
            tyro.conf.arg(help=help_of(kind, each.name), help_behavior_hint=_default_hint(each))
        ]
        if form := format_of(bare):
            settings.append(_spec(flag_of(each.name), form))
        annotated: Any = Annotated[(bare, *settings, *own)]  # of several settings the last ones win
        default = {} if each.default is MISSING else {"default": each.default}
        members.append((each.name, annotated, field(**default)))
    namespace = {"__doc__": PANELS[name]}
    return make_dataclass(name.title(), members, namespace=namespace, frozen=True, kw_only=True)


def _default_hint(each: Any) -> str | None:
    """Words of help for a field's default; None for the value itself."""
    if isinstance(each.default, bool):
        return f"(default: {'on' if each.default else 'off'})"
    return "" if each.default in (None, ()) else None


def _spec(flag: str, form: ValueFormat | None) -> PrimitiveConstructorSpec[Any]:
    """tyro's view of how a flag's values are written."""
    assert form is not None

    def read(words: list[str]) -> Any:
        try:
            return form.of_words(words)
        except ValueError as error:
            raise _WrongValue(f"{flag}: {error}") from None

    def texts(value: Any) -> list[str]:
        values = value if isinstance(value, tuple) else (value,)
        return [f"{each:g}" if isinstance(each, float) else str(each) for each in values]

    return PrimitiveConstructorSpec(
        nargs="*" if form.several else 1,
        metavar=form.metavar,
        instance_from_str=read,
        is_instance=lambda value: True,
        str_from_instance=texts,
    )


def _declaring(kind: type, name: str) -> list[Any]:
    """The classes that declare a field, the last one to do so first."""
    return [each for each in kind.__mro__ if name in vars(each).get("__annotations__", {})]


def help_of(kind: type, name: str) -> str | None:
    """Help for a flag: the text below its field where it is declared last, as one line."""
    return _texts(_declaring(kind, name)[0]).get(name)


@functools.cache
def _texts(owner: type) -> dict[str, str]:
    """The text below each field that a class declares; none for a class made at run time."""
    try:
        source = textwrap.dedent(inspect.getsource(owner))
    except OSError:
        return {}
    (body,) = ast.parse(source).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for statement, after in zip(body.body, body.body[1:], strict=False):
        match statement, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=text)):
                found[name] = " ".join(str(text).split())
    return found


def _as_called(doc: str, prog: str | None) -> str:
    """A description whose examples call the program as this one was called."""
    if prog is None or not prog.startswith(PROGRAM):
        return doc
    return re.sub(
        r"python \w+/(\w+)\.py", lambda found: f"{PROGRAM} {found[1].replace('_', '-')}", doc
    )
