"""One file of Python of a plain model and what it shares with the others: for people who have
PyTorch and transformers, and not this project."""

from __future__ import annotations

import ast
import sys
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
# results are those of the version that it was trained with."""


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
        "AutoModel": "Model",
        "AutoModelForCausalLM": "ForCausalLM",
        "AutoModelForSequenceClassification": "ForSequenceClassification",
    }
    return {auto: f"{module_name(arch)}.{PLAIN[arch]}{kind}" for auto, kind in kinds.items()}


@dataclass(frozen=True)
class _Module:
    """The parts of a file of Python.

    Attributes:
        doc: its docstring.
        imports: by module, the names that are taken from it; "" for the module itself.
        body: what follows the imports.
    """

    doc: str
    imports: dict[str, set[str]]
    body: str


def joined(arch: str) -> str:
    """The text of the file: a plain model behind the skeleton, with the imports of both."""
    skeleton, model = (_read(FOLDER / f"{name}.py") for name in ("skeleton", arch))
    more = skeleton.doc.partition("\n\n")[2]  # its first paragraph speaks of several models
    imports = {
        module: skeleton.imports.get(module, set()) | model.imports.get(module, set())
        for module in sorted({*skeleton.imports, *model.imports})
    }
    ours = {name: each for name, each in imports.items() if _top(name) in sys.stdlib_module_names}
    theirs = {name: each for name, each in imports.items() if name not in ours}
    head = [f'"""{model.doc}\n\n{more}\n"""', "from __future__ import annotations"]
    head += [_lines(ours), _lines(theirs)]
    return "\n\n".join([_NOTICE, *head, skeleton.body, f"\n{model.body}\n"])


def _read(file: Path) -> _Module:
    text = file.read_text("utf-8")
    tree = ast.parse(text)
    imports: dict[str, set[str]] = {}
    end = 0
    for node in tree.body:
        if isinstance(node, ast.Import):
            for name in node.names:
                imports.setdefault(ast.unparse(name), set()).add("")
        elif isinstance(node, ast.ImportFrom):
            if node.module and _top(node.module) not in ("__future__", _top(__name__)):
                names = imports.setdefault(node.module, set())
                names.update(ast.unparse(name) for name in node.names)
        else:
            continue
        end = node.end_lineno or 0
    body = "\n".join(text.splitlines()[end:]).strip()
    return _Module(ast.get_docstring(tree) or "", imports, body)


def _top(module: str) -> str:
    return module.partition(".")[0]


def _lines(imports: dict[str, set[str]]) -> str:
    """Statements that import, those of whole modules first."""
    whole = [f"import {module}" for module, names in imports.items() if "" in names]
    parts = {
        module: sorted(names - {""}, key=lambda name: (name[0].islower(), name.lower()))
        for module, names in imports.items()
    }
    taken = [f"from {module} import {', '.join(names)}" for module, names in parts.items() if names]
    return "\n".join([*whole, *taken])
