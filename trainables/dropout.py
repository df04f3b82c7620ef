"""Dropout for every architecture alike: on the embeddings, and on what each layer adds to them.

The places of Vaswani et al. 2017 (section 5.4), with one mask for a whole layer where they have one
for each of its two halves. It comes beside the dropout that a preset's config has itself, and it is
of the training only: the model's config and its checkpoints know nothing of it.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer


def add_dropout(model: PreTrainedModel, rate: float) -> None:
    """Drop a share of the embeddings' output, and of what each layer adds to its input.

    Layers are the `GradientCheckpointingLayer`s of the body; `hidden_states` or `hidden` is what
    they read and add to, (batch, time, dim). One that says `is_residual = False` adds nothing: of
    it the output is dropped (the LSTM). Masks are drawn from torch's global generator, in training
    mode only.

    Args:
        model: any causal language model of transformers.
        rate: the share, at least 0 and below 1; what stays is divided by 1 - `rate`.

    Raises:
        ValueError: the layers cannot be found, there are not as many as the config says, or it
            cannot be told what one adds to.
    """
    layers = [m for m in model.base_model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers or len(layers) != model.config.num_hidden_layers:
        raise ValueError(
            f"dropout needs the {model.config.num_hidden_layers} layers of {type(model).__name__}, "
            f"and finds {len(layers)}: each must be a GradientCheckpointingLayer of transformers, "
            "with no other inside"
        )
    embeddings = model.get_input_embeddings()
    for module in (embeddings, *layers):
        # A child, so that it follows `train` and `eval`, and is found by whoever asks for dropout.
        module.add_module(_NAME, nn.Dropout(rate))
    embeddings.register_forward_hook(_drop_output)
    for layer in layers:
        layer.register_forward_hook(
            functools.partial(_drop_update, _stream_of(layer)), with_kwargs=True
        )


_NAME = "trial_dropout"
_Stream = tuple[str, int]
"""Name and position of the argument that a layer adds to."""


def _stream_of(layer: nn.Module) -> _Stream:
    names = list(inspect.signature(layer.forward).parameters)
    for name in ("hidden_states", "hidden"):
        if name in names:
            return name, names.index(name)
    raise ValueError(
        f"dropout cannot tell what {type(layer).__name__} adds to: its forward takes "
        f"{', '.join(names)}, and neither hidden_states nor hidden"
    )


def _drop_output(module: nn.Module, args: tuple[object, ...], output: Tensor) -> Tensor:
    return module.get_submodule(_NAME)(output)


def _drop_update(
    stream_of: _Stream,
    layer: nn.Module,
    args: tuple[object, ...],
    kwargs: dict[str, Any],
    output: Any,
) -> Any:
    """The output of a layer, a tensor or a tuple that begins with one, after dropout."""
    if not layer.training:
        return output
    dropout = layer.get_submodule(_NAME)
    hidden = output[0] if isinstance(output, tuple) else output
    if getattr(layer, "is_residual", True):
        name, position = stream_of
        stream = kwargs[name] if name in kwargs else args[position]
        hidden = stream + dropout(hidden - stream)
    else:
        hidden = dropout(hidden)
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden
