"""The command `babysweep`: every script of the project as a subcommand, with the same flags.

babysweep lr-sweep --arch mamba        what python sweeps/lr_sweep.py --arch mamba does
"""

from __future__ import annotations

import difflib
import importlib
import sys
from pathlib import Path

if __name__ == "__main__":
    # The sibling packages, whether or not the project is installed; not this folder's modules.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from analysis.signals import start

COMMANDS = {
    "lr-sweep": "sweeps.lr_sweep",
    "epoch-study": "sweeps.epoch_study",
    "promote": "sweeps.promote",
    "distill": "sweeps.distill",
    "paper": "sweeps.paper",
    "evaluate": "sweeps.evaluate",
    "export": "sweeps.export",
    "submit": "sweeps.submit",
    "doctor": "sweeps.doctor",
    "report": "analysis.report",
    "compare": "analysis.compare",
}
"""The modules whose `main` each subcommand is."""


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand; returns its exit status."""
    from analysis.command_line import PROGRAM  # takes a while: not before `start`

    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help(PROGRAM))
        return 0 if words else 2
    name = words[0].replace("_", "-")
    if name not in COMMANDS:
        from analysis.errors import say_error

        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(COMMANDS)}"
        return say_error(ValueError(f"there is no command {words[0]!r}: {hint}"))
    command = importlib.import_module(COMMANDS[name])
    return command.main(words[1:], f"{PROGRAM} {name}")


def run() -> None:
    """The entry point."""
    start("sweeps.cli")


def _help(program: str) -> str:
    """The subcommands, each with the first sentence of its module."""
    lines = [f"usage: {program} COMMAND [--help] [OPTIONS]", ""]
    for name, module in COMMANDS.items():
        doc = importlib.import_module(module).__doc__ or ""
        sentence = " ".join(doc.split("\n\n")[0].split())
        lines.append(f"  {name:<12} {sentence}")
    return "\n".join([*lines, "", f"{program} COMMAND --help lists a command's flags."])


if __name__ == "__main__":
    run()
