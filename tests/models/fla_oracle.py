"""Run fla's own HGRN2, with its real Triton kernels, in Triton's interpreter.

Usage: python fla_oracle.py CHECKPOINT IDS OUTPUT: safetensors with `input_ids` in, with `logits`
and the gradient of their weighted sum for every parameter out.
"""

from __future__ import annotations

import builtins
import os
import sys
from collections.abc import Iterator
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported

from triton.runtime import autotuner


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


def main(checkpoint: str, ids: str, output: str) -> None:
    take_first_config()
    from fla.models.hgrn2 import HGRN2ForCausalLM
    from safetensors.torch import load_file, save_file

    for name, module in list(sys.modules.items()):
        if name.startswith(("fla.ops", "fla.modules")):
            module.range = kernel_range  # type: ignore[attr-defined]
    model, report = HGRN2ForCausalLM.from_pretrained(checkpoint, output_loading_info=True)
    assert not any(report.values()), report
    inputs = load_file(ids)
    logits = model(input_ids=inputs["input_ids"], use_cache=False).logits
    (logits * inputs["weight"]).sum().backward()
    gradients = {name: p.grad.contiguous() for name, p in model.named_parameters()}
    save_file({"logits": logits.detach().contiguous(), **gradients}, output)


if __name__ == "__main__":
    main(*sys.argv[1:])
