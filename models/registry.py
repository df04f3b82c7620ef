"""The architectures under comparison, by name.

Every architecture has one file, which calls `register`. It says how to build a Hugging Face
config from a shape, and how many parameters, FLOPs and numbers of state it stands for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig


@dataclass(frozen=True)
class ParamCount:
    """Number of parameters; `embedding` is the input table plus the output head."""

    embedding: int
    non_embedding: int

    @property
    def total(self) -> int:
        return self.embedding + self.non_embedding


@dataclass(frozen=True)
class TextShape:
    """The part of a model that its data dictates: vocabulary, context length and special tokens."""

    vocab_size: int
    context: int
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None

    def special_tokens(self) -> dict[str, Any]:
        return {
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_token_id,
            "pad_token_id": self.pad_token_id,
        }


@dataclass(frozen=True)
class Architecture:
    """An architecture: how it is built, and how its parts are counted.

    `build_config(text, **shape)` returns a complete config with untied embeddings; the shapes
    are the presets of `models.sizes`. `num_params(config)` counts by formula.

    `flops_per_token(config, context)` is the forward pass, head included, in a sequence of
    `context` tokens. Every operation on a number counts one, be it a multiplication or an
    exponential, so that a multiply-add counts two. Counted are all matrix products and
    convolutions, attention without a discount for causality, and the arithmetic of the recurrences
    step by step: what the algorithm asks for, whatever the chunks in which a kernel computes it.
    Norms, biases, and activations and other element-wise work outside the recurrences are left out.

    `state_size(config, context)` is how many numbers the model keeps of one sequence to continue it
    behind `context` tokens.

    `revision` counts the changes of shapes or initialisation that make earlier training runs
    another experiment.
    """

    name: str
    model_type: str  # the Hugging Face name of the config class
    build_config: Callable[..., PreTrainedConfig]
    num_params: Callable[[Any], ParamCount]
    flops_per_token: Callable[[Any, int], int]
    state_size: Callable[[Any, int], int]
    revision: int = 1


_ARCHITECTURES: dict[str, Architecture] = {}


def register(architecture: Architecture) -> None:
    """Make an architecture known under its name."""
    assert architecture.name not in _ARCHITECTURES, f"{architecture.name} is registered twice"
    _ARCHITECTURES[architecture.name] = architecture


def names() -> tuple[str, ...]:
    """Names of all registered architectures, in order of registration."""
    return tuple(_ARCHITECTURES)


def get(name: str) -> Architecture:
    """The architecture called `name`; ValueError with the valid names if there is none."""
    return choose(_ARCHITECTURES, name, "architecture")


def is_own(config: PreTrainedConfig) -> bool:
    """Whether the config is of an architecture's type of model."""
    return any(each.model_type == config.model_type for each in _ARCHITECTURES.values())


def of_config(config: PreTrainedConfig) -> Architecture:
    """The architecture that `config` belongs to; ValueError if it is none of ours."""
    by_type = {architecture.model_type: architecture for architecture in _ARCHITECTURES.values()}
    return choose(by_type, config.model_type, "model type")


def choose(options: Mapping[str, Any], name: str, kind: str) -> Any:
    """`options[name]`, or a ValueError that lists the valid names."""
    if name not in options:
        raise ValueError(f"unknown {kind} {name!r}; choose one of: {', '.join(options)}")
    return options[name]


def small_init_std(width: int) -> float:
    """Standard deviation sqrt(2 / (5 * width)) for weights that read a vector of `width`.

    "Small init" of Nguyen & Salazar 2019 (Transformers without Tears): the usual 0.02 at width
    1024, and the same size of activations and of first logits at every other width.
    """
    return math.sqrt(2 / (5 * width))
