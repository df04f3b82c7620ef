"""One file of Python of a plain model and what it shares with the others: for people who have
PyTorch and transformers, and not this project."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PLAIN = {
    "lstm": "LSTM",
    "xlstm": "XLSTM",
    "hgrn2": "HGRN2",
    "gated_deltanet": "GatedDeltaNet",
}
"""By architecture that transformers has none of, how the names of its classes begin."""
_NOTICE = """\
# Copyright (c) BabySweep contributors
# SPDX-License-Identifier: MIT
#
# A plain version of the model in PyTorch, which needs transformers and nothing else. Parameters and
# results are those of the version that it was trained with.
"""


def module_name(arch: str) -> str:
    """Name of the joined file, without its suffix."""
    return f"modeling_babysweep_{arch}"


def auto_map(arch: str) -> dict[str, str]:
    """By class of transformers, the class of the joined file that it opens; {} where transformers
    has the architecture itself."""
    if arch not in PLAIN:
        return {}
    kinds = {
        "AutoConfig": "Config",
        "AutoModelForCausalLM": "ForCausalLM",
        "AutoModelForSequenceClassification": "ForSequenceClassification",
    }
    return {auto: f"{module_name(arch)}.{PLAIN[arch]}{kind}" for auto, kind in kinds.items()}


@dataclass(frozen=True)
class _Module:
    """The parts of a file of Python.

    Attributes:
        doc: its docstring.
        imports: a line for each name that it takes from elsewhere.
        body: what follows the imports.
    """

    doc: str
    imports: tuple[str, ...]
    body: str


def joined(arch: str) -> str:
    """The text of the file: a plain model behind the skeleton, with the imports of both."""
    skeleton, model = (_read(FOLDER / f"{name}.py") for name in ("skeleton", arch))
    doc = f'"""{model.doc}\n\n{skeleton.doc}\n"""'
    imports = sorted({*skeleton.imports, *model.imports})
    head = [doc, "", "from __future__ import annotations", "", *imports]
    return "\n".join([_NOTICE, *head, "", skeleton.body, "", "", model.body, ""])


def _read(file: Path) -> _Module:
    text = file.read_text("utf-8")
    tree = ast.parse(text)
    imports, end = [], 0
    for node in tree.body:
        if isinstance(node, ast.ImportFrom | ast.Import):
            end = node.end_lineno or 0
            source = f"from {node.module} " if isinstance(node, ast.ImportFrom) else ""
            if not source.startswith((f"from {__package__}.", "from __future__ ")):
                imports += [f"{source}import {ast.unparse(name)}" for name in node.names]
    body = "\n".join(text.splitlines()[end:]).strip()
    return _Module(ast.get_docstring(tree) or "", tuple(imports), body)
