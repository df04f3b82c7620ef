"""Run fla's own Gated DeltaNet on a checkpoint of ours, or its recurrence, in a process of its own.

Usage: python -m tests.models.fla_gated_deltanet HOW FOLDER: reads the checkpoint in FOLDER,
strictly, and `inputs.safetensors` with `input_ids` and `weight`; writes `outputs.safetensors` with
`logits` and the gradient of their weighted sum for every parameter, `fla/`, the model as fla saves
it, and `defaults.json`, those of fla's config. HOW is "naive", fla's step-by-step recurrence with
PyTorch in place of its other Triton kernels, or "interpreter", fla's kernels in Triton's
interpreter. With HOW "recurrence" the inputs are q, k, v, g, beta and a state, and the outputs o
and the last state of fla's naive recurrence.
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.models.fla_oracle import mend_loops, take_first_config  # sets TRITON_INTERPRET


def be_naive(config: Any) -> None:
    """Make fla's layers run on a CPU."""
    import fla.layers.gated_deltanet as layer
    import fla.modules.mlp as mlp
    from fla.ops.gated_delta_rule.naive import naive_recurrent_gated_delta_rule

    def rule(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, **options: Any) -> Any:
        assert options["use_qk_l2norm_in_kernel"]
        assert options["use_gate_in_kernel"]
        assert options["use_beta_sigmoid_in_kernel"]
        q, k = (x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt() for x in (q, k))
        g = -options["A_log"].exp() * F.softplus(g + options["dt_bias"])
        beta = beta.sigmoid() * (2 if options["allow_neg_eigval"] else 1)
        groups = v.shape[2] // q.shape[2]
        q, k = (x.repeat_interleave(groups, 2) for x in (q, k))
        return naive_recurrent_gated_delta_rule(q, k, v, beta, g)[0], None

    def convolution(x: Tensor, weight: Tensor, **_: Any) -> tuple[Tensor, None]:
        padded = F.pad(x.mT, (weight.shape[1] - 1, 0))
        return F.silu(F.conv1d(padded, weight[:, None], groups=len(weight))).mT, None

    def gated_norm(self: Any, x: Tensor, gate: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps) * F.silu(gate)

    layer.chunk_gated_delta_rule = rule
    layer.causal_conv1d = convolution
    layer.FusedRMSNormGated.forward = gated_norm
    mlp.swiglu = lambda gate, x: F.silu(gate) * x
    config.fuse_norm = config.fuse_swiglu = False


def run_model(how: str, folder: Path) -> None:
    from fla.models.gated_deltanet import GatedDeltaNetConfig, GatedDeltaNetForCausalLM

    config = GatedDeltaNetConfig.from_pretrained(folder)
    if how == "naive":
        be_naive(config)
    mend_loops()
    model, report = GatedDeltaNetForCausalLM.from_pretrained(
        folder, config=config, output_loading_info=True
    )
    assert not any(report.values()), report
    inputs = load_file(folder / "inputs.safetensors")
    logits = model(input_ids=inputs["input_ids"], use_cache=False).logits
    (logits * inputs["weight"]).sum().backward()
    gradients = {name: p.grad.contiguous() for name, p in model.named_parameters()}
    outputs = {"logits": logits.detach().contiguous(), **gradients}
    save_file(outputs, folder / "outputs.safetensors")
    model.save_pretrained(folder / "fla")
    parameters = inspect.signature(GatedDeltaNetConfig.__init__).parameters
    defaults = {n: p.default for n, p in parameters.items() if n not in ("self", "kwargs")}
    (folder / "defaults.json").write_text(json.dumps(defaults))


def run_recurrence(folder: Path) -> None:
    from fla.ops.gated_delta_rule.naive import naive_recurrent_gated_delta_rule

    x = load_file(folder / "inputs.safetensors")
    named = {"initial_state": x.pop("state"), "output_final_state": True}
    o, last = naive_recurrent_gated_delta_rule(**x, **named)
    save_file({"o": o, "state": last.contiguous()}, folder / "outputs.safetensors")


if __name__ == "__main__":
    torch.manual_seed(0)
    take_first_config()
    way, place = sys.argv[1], Path(sys.argv[2])
    if way == "recurrence":
        run_recurrence(place)
    else:
        run_model(way, place)
