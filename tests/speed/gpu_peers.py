"""What the project's training steps on a GPU are measured against, each in a plain loop.

Peers share the weights of our model, so that their losses can be compared, and train with the same
optimizer, clipping, autocast and micro-batches. They read batches that lie on the device.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import models
from models.kernels import paths
from tests.speed import library_models
from trainables.objectives import NextTokenObjective

Loss = Callable[[Tensor, Tensor], Tensor]
"""From inputs and targets to the mean loss in nats."""


class Unavailable(Exception):
    """A peer that cannot run here; the message says why."""


class Peer(Protocol):
    """A model of somebody else's, ready to train."""

    def step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Take an optimizer step; returns the mean loss in nats, on the device."""

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss without gradients and dropout."""

    def load(self, weights: dict[str, Tensor]) -> None:
        """Take over the weights of our model."""


class PlainLoop:
    """Forward, loss and backward in micro-batches under bf16 autocast, clipping, fused AdamW.

    Args:
        model: with our parameters' names, or those that `rename` makes of them.
        loss: of the model.
        micro_batch: sequences in one forward pass.
        lr: learning rate.
        fast_loss: the same to train with, e.g. compiled.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        micro_batch: int,
        lr: float,
        *,
        rename: Callable[[str], str] = str,
        fast_loss: Loss | None = None,
    ) -> None:
        self._model, self._loss, self._micro_batch, self._rename = model, loss, micro_batch, rename
        self._fast_loss = fast_loss or loss
        self._optimizer = torch.optim.AdamW(
            model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.1, fused=True
        )

    def step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        self._model.train()
        total = torch.zeros((), device=inputs.device)
        for piece, goal in self._pieces(inputs, targets):
            with torch.autocast(inputs.device.type, torch.bfloat16):
                loss = self._fast_loss(piece, goal) * (len(piece) / len(inputs))
            loss.backward()
            total += loss.detach()
        nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return total

    @torch.no_grad()
    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        self._model.eval()
        total = torch.zeros((), device=inputs.device)
        for piece, goal in self._pieces(inputs, targets):
            with torch.autocast(inputs.device.type, torch.bfloat16):
                total += self._loss(piece, goal) * (len(piece) / len(inputs))
        return total

    def _pieces(self, *batch: Tensor) -> Iterator[tuple[Tensor, ...]]:
        return zip(*(tensor.split(self._micro_batch) for tensor in batch), strict=True)

    def load(self, weights: dict[str, Tensor]) -> None:
        self._model.load_state_dict({self._rename(name): x for name, x in weights.items()})


Maker = Callable[[Any, int, float], Peer]
"""From our model, the micro-batch and the learning rate to a peer on the model's device."""


def peers_of(arch: str) -> dict[str, Maker]:
    """Those of an architecture by name, the ones that a target names first."""
    return {
        "transformer": {"LLaMA, torch.compile": compiled_llama},
        "lstm": {"nn.LSTM": plain_lstm},
        "xlstm": {"mlstm_kernels": on_library_kernels(("mlstm",), ("mlstm_kernels",))},
        "mamba": {
            "mamba-ssm": mamba_ssm,
            "mamba-ssm in our blocks": on_library_kernels(
                ("selective_scan", "depthwise_conv"), ("mamba_ssm", "causal_conv1d")
            ),
        },
        "hgrn2": {"fla": fla_model("hgrn2")},
        "gated_deltanet": {"fla": fla_model("gated_deltanet")},
    }[arch]


def compiled_llama(ours: Any, micro_batch: int, lr: float) -> Peer:
    """transformers' LLaMA with SDPA, model and loss through torch.compile; on a CPU not compiled,
    which would take a minute."""
    model = library_models.build("transformer", ours).to(ours.device)
    loss = full_loss(model)
    fast_loss = torch.compile(loss) if ours.device.type == "cuda" else None
    return PlainLoop(model, loss, micro_batch, lr, fast_loss=fast_loss)


def plain_lstm(ours: Any, micro_batch: int, lr: float) -> Peer:
    """Layers of `nn.LSTM`, cuDNN's on a GPU, with all logits at once."""
    model = library_models.build("lstm", ours).to(ours.device)
    return PlainLoop(model, full_loss(model), micro_batch, lr)


def full_loss(model: nn.Module) -> Loss:
    """PyTorch's cross-entropy in float32 of all logits at once."""

    def loss(inputs: Tensor, targets: Tensor) -> Tensor:
        logits = library_models.logits(model, inputs)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    return loss


def on_library_kernels(kernels: tuple[str, ...], packages: tuple[str, ...]) -> Maker:
    """Our blocks with the libraries' versions of these kernels, and ours of all others."""

    def make(ours: Any, micro_batch: int, lr: float) -> Peer:
        _need_gpu(ours)
        for package in packages:
            _import(package)
        with library_kernels(*kernels):
            model: Any = models.build_model(copy.deepcopy(ours.config)).to(ours.device)
        objective = NextTokenObjective(model)

        def loss(inputs: Tensor, targets: Tensor) -> Tensor:
            with library_kernels(*kernels):
                return objective(inputs, targets) / targets.numel()

        return PlainLoop(model, loss, micro_batch, lr)

    return make


@contextlib.contextmanager
def library_kernels(*names: str) -> Iterator[None]:
    """Let these kernels take the paths of `BABYSWEEP_KERNELS=library`.

    For all others the table names no library meanwhile: the override would else keep them from
    Triton, and the peer slow.
    """
    table, before = dict(paths.TABLE), os.environ.get(paths.VARIABLE)
    others = {k: replace(row, library="") for k, row in table.items() if k not in names}
    paths.TABLE.update(others)
    os.environ[paths.VARIABLE] = "library"
    try:
        yield
    finally:
        paths.TABLE.update(table)
        if before is None:
            del os.environ[paths.VARIABLE]
        else:
            os.environ[paths.VARIABLE] = before


def mamba_ssm(ours: Any, micro_batch: int, lr: float) -> Peer:
    """mamba-ssm's own language model, with its fused norm and causal-conv1d."""
    _need_gpu(ours)
    _import("causal_conv1d")
    _import("mamba_ssm")
    config_class = _import("mamba_ssm.models.config_mamba").MambaConfig
    model_class = _import("mamba_ssm.models.mixer_seq_simple").MambaLMHeadModel
    shape = ours.config
    config = config_class(
        d_model=shape.hidden_size,
        n_layer=shape.num_hidden_layers,
        vocab_size=shape.vocab_size,
        ssm_cfg={"layer": "Mamba1", "d_state": shape.state_size},
        tie_embeddings=False,
    )
    model = model_class(config, device=ours.device)

    def loss(inputs: Tensor, targets: Tensor) -> Tensor:
        logits = model(inputs).logits
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    def rename(name: str) -> str:
        return name.replace("backbone.embeddings.", "backbone.embedding.")

    return PlainLoop(model, loss, micro_batch, lr, rename=rename)


FLA_MODELS = {"hgrn2": "HGRN2ForCausalLM", "gated_deltanet": "GatedDeltaNetForCausalLM"}
"""fla's classes by their package in `fla.models`."""


def fla_model(name: str) -> Maker:
    """fla's own model with all that it fuses, its kernels with one configuration each."""

    def make(ours: Any, micro_batch: int, lr: float) -> Peer:
        _need_gpu(ours)
        model: Any = build_fla(name, ours.config).to(ours.device)
        fused = _import("fla.modules").FusedLinearCrossEntropyLoss()
        fix_configurations("fla")

        def loss(inputs: Tensor, targets: Tensor) -> Tensor:
            hidden = model.model(input_ids=inputs, use_cache=False).last_hidden_state.bfloat16()
            # Not through labels, which fla shifts: a block's last target is no input of it.
            return fused(hidden, targets, model.lm_head.weight.bfloat16())

        return PlainLoop(model, loss, micro_batch, lr)

    return make


def build_fla(name: str, config: Any) -> Any:
    """fla's model of a config of ours, whose fields are fla's."""
    model_class = getattr(_import(f"fla.models.{name}"), FLA_MODELS[name])
    theirs = model_class.config_class.from_dict(config.to_dict())
    theirs.fuse_norm = theirs.fuse_swiglu = True
    return model_class(theirs)


# The best of fla's configurations on an H100 with bf16 and heads of 128, where somebody has
# measured them; of the others the one most like these.
BEST_CONFIGURATIONS: dict[str, dict[str, int]] = {
    "chunk_local_cumsum_vector_kernel": {"BS": 64, "num_warps": 4, "num_stages": 3},
    "chunk_fwd_kernel_h": {"BK": 64, "BV": 64, "num_warps": 4, "num_stages": 3},
    "chunk_bwd_kernel_dh": {"BK": 64, "BV": 64, "num_warps": 4, "num_stages": 3},
    "chunk_gla_fwd_A_kernel_intra_sub_inter": {"BK": 32, "num_warps": 1, "num_stages": 3},
    "chunk_gla_fwd_A_kernel_intra_sub_intra": {"num_warps": 2, "num_stages": 2},
    "chunk_gla_fwd_kernel_o": {"BK": 64, "BV": 128, "num_warps": 8, "num_stages": 3},
    "chunk_gla_bwd_kernel_dv": {"BK": 64, "BV": 64, "num_warps": 4, "num_stages": 3},
    "chunk_gla_bwd_kernel_inter": {"BK": 64, "BV": 64, "num_warps": 4, "num_stages": 3},
    "swish_fwd_kernel": {"B": 512, "num_warps": 4},
    "swish_bwd_kernel": {"B": 512, "num_warps": 4},
    "swiglu_fwd_kernel": {"B": 1024, "num_warps": 8},
    "swiglu_fwdbwd_kernel": {"B": 512, "num_warps": 8},
    "layer_norm_fwd_kernel_row": {"num_warps": 2},
    "layer_norm_bwd_kernel_row": {"num_warps": 8},
}
USUAL_CONFIGURATION = {"num_warps": 4, "num_stages": 3}


def fix_configurations(package: str) -> int:
    """Leave every tuned kernel of a package's imported modules one configuration; returns how many
    kernels these are."""
    from triton.runtime.autotuner import Autotuner, Heuristics

    tuners: dict[int, Any] = {}
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == package:
            for value in list(vars(module).values()):
                while isinstance(value, Heuristics):
                    value = value.fn
                if isinstance(value, Autotuner):
                    tuners[id(value)] = value
    for tuner in tuners.values():
        name = getattr(tuner.base_fn, "__name__", "")
        wanted = BEST_CONFIGURATIONS.get(name, USUAL_CONFIGURATION)
        tuner.configs = [nearest(tuner.configs, wanted)]
    return len(tuners)


def nearest(configurations: Sequence[Any], wanted: dict[str, int]) -> Any:
    """The configuration that agrees in most of what is wanted; of equals the first."""

    def agreement(configuration: Any) -> int:
        values = {**configuration.kwargs, **_launch_options(configuration)}
        return sum(values.get(name) == value for name, value in wanted.items())

    return max(configurations, key=agreement)


def _launch_options(configuration: Any) -> dict[str, int]:
    return {
        "num_warps": configuration.num_warps,
        "num_stages": configuration.num_stages,
    }


def _need_gpu(ours: Any) -> None:
    if ours.device.type != "cuda":
        raise Unavailable("its kernels need a GPU")


def _import(name: str) -> Any:
    """The module; Unavailable in one line if it is not there, or broken."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # extensions of another version fail in many ways
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Unavailable(f"{name} cannot be imported: {reason}") from None
