"""Opens an exported folder with the classes that people will have, beside the model it is of."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, MambaForCausalLM, PreTrainedModel

from models.opening import quietly
from models.standalone.joining import PLAIN

TOKENS = 48
"""Of the text that both read: past the ends of chunks, and short for a loop over time."""
LARGEST = 1e-3
"""Difference of two logits, as a share of the largest one, that rounding may have in float32."""


def plain_class(arch: str) -> type[PreTrainedModel]:
    """The class that opens an exported model of an architecture."""
    if arch in PLAIN:
        module = importlib.import_module(f"{__package__}.{arch}")
        found: type[PreTrainedModel] = getattr(module, f"{PLAIN[arch]}ForCausalLM")
        return found
    return {"transformer": LlamaForCausalLM, "mamba": MambaForCausalLM}[arch]


@quietly()
@torch.no_grad()
def difference(model: PreTrainedModel, folder: Path, arch: str) -> float:
    """The largest difference between logits of a model and of the one in a folder, in float32.

    Raises:
        ValueError: it is more than rounding explains.
    """
    plain = plain_class(arch).from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    table: Any = model.get_input_embeddings().weight
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(len(table), (1, TOKENS), generator=random)
    wanted, found = (each.eval().float()(input_ids=ids).logits for each in (model, plain))
    largest = float((wanted - found).abs().max())
    if not largest <= LARGEST * float(wanted.abs().max()):  # not of NaN either
        raise ValueError(
            f"the exported model does not compute what the {arch} does: its logits differ by "
            f"{largest:g} (nothing was written)"
        )
    return largest
