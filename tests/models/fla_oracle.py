"""Run fla's own HGRN2, with its real Triton kernels, in Triton's interpreter.

Usage: python -m tests.models.fla_oracle FOLDER, which holds a checkpoint of ours and
`inputs.safetensors`. It adds `recurrence.safetensors`; `defaults.json`, fla's default config;
`first.safetensors`, the parameters that fla starts with from seed 0; and `outputs.safetensors`, the
`logits` of the checkpoint and the gradient of their weighted sum for every parameter.
"""

from __future__ import annotations

import builtins
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig
from triton.runtime import autotuner

from models import hgrn2
from models.kernels.gpu import gated_linear_library


class LoopIndex(int):
    """The interpreter loops over plain ints, on which the kernels call `.to(type)`."""

    def to(self, *_: Any) -> LoopIndex:
        return self


def kernel_range(*bounds: Any) -> Iterator[LoopIndex]:
    return map(LoopIndex, builtins.range(*(int(bound) for bound in bounds)))


def take_first_config() -> None:
    """Without a device there is nothing to tune by: keep one configuration of every kernel."""
    original = autotuner.Autotuner.__init__

    def init(self: Any, fn: Any, arg_names: Any, configs: Any, *args: Any, **kwargs: Any) -> None:
        original(self, fn, arg_names, list(configs)[:1], *args, **kwargs)

    autotuner.Autotuner.__init__ = init


def mend_loops() -> None:
    """Of the modules of fla that are imported."""
    for name, module in list(sys.modules.items()):
        if name.startswith(("fla.ops", "fla.modules")):
            module.range = kernel_range  # type: ignore[attr-defined]


def recurrence(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Output, last state and gradients of the recurrence on fla's kernels, as the package calls
    them; nothing else of fla is imported for it."""
    gated_linear_library._kernels()
    assert not {"fla.layers", "fla.models"} & sys.modules.keys()
    assert type(AutoConfig.for_model("hgrn2")) is hgrn2.HGRN2Config
    mend_loops()
    names = ("q", "f", "v", "lower_bound", "initial_state")
    q, f, v, bound, state = (inputs[name] for name in names)
    leaves = [x.requires_grad_() for x in (q, f, v, bound)]
    o, end = gated_linear_library.hgrn2_attention(q, f, v, bound, state)
    gradients = torch.autograd.grad((o * inputs["output_weight"]).sum(), leaves)
    results = (o.detach(), end, *gradients)
    return dict(zip(("o", "end", "dq", "df", "dv", "dlower_bound"), results, strict=True))


def main(folder: str) -> None:
    take_first_config()
    inputs = load_file(f"{folder}/inputs.safetensors")
    save_file(recurrence(inputs), f"{folder}/recurrence.safetensors")

    from fla.models.hgrn2 import HGRN2Config, HGRN2ForCausalLM

    mend_loops()
    Path(folder, "defaults.json").write_text(json.dumps(HGRN2Config().to_dict()))
    torch.manual_seed(0)
    first = HGRN2ForCausalLM(HGRN2Config.from_pretrained(folder)).state_dict()
    save_file(first, f"{folder}/first.safetensors")
    model, report = HGRN2ForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    logits = model(input_ids=inputs["input_ids"], use_cache=False).logits
    (logits * inputs["weight"]).sum().backward()
    gradients = {name: p.grad.contiguous() for name, p in model.named_parameters()}
    save_file(
        {"logits": logits.detach().contiguous(), **gradients}, f"{folder}/outputs.safetensors"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
