"""Export a model: a folder that transformers opens where this project is not installed.

The folder holds weights (safetensors), tokenizer, a model card, and for architectures that
transformers lacks one file of plain PyTorch. Its logits are compared with the model's before it
gets its name.

    python sweeps/export.py models:/hgrn2@teacher my-hgrn2
    python sweeps/export.py runs/mini-mini/trials/.../checkpoints/step-00000774 exported/
    python sweeps/export.py models:/hgrn2@teacher my-hgrn2 --milestones --push me/my-hgrn2

Then, with torch, transformers and safetensors:

    AutoModelForCausalLM.from_pretrained("my-hgrn2", trust_remote_code=True)
    AutoTokenizer.from_pretrained("my-hgrn2", trust_remote_code=True)
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # The sibling packages, whether or not the project is installed; not this folder's modules.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from analysis.signals import start

    start("sweeps.export")

from analysis.command_line import parse
from sweeps.arguments import ExportArgs


def run_export(args: ExportArgs) -> int:
    """Export the model and say how to open it; returns the exit status."""
    from sweeps.running.export import export  # heavy imports: not before --help

    return export(args)


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the command; returns its exit status."""
    return run_export(parse(ExportArgs, argv, __doc__, prog))
