"""Shapes of every architecture at every size, matched by non-embedding parameters.

In a shape at most one width is a `SolvedWidth`: the narrowest with which the architecture has no
fewer non-embedding parameters than Mamba, which has the coarsest steps and so sets the target. The
steps are fine enough to stay within 2% of it. Of the study's architectures `paper` is given in
full: it is the table of Haller et al. 2024 (arXiv 2412.15978), which matches totals only loosely;
others match its Mamba. Given is the HGRN2 of `large`, too, which is the study's final model, and
whose size the other architectures have there.
"""

from __future__ import annotations

import functools
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

from models import registry
from models.registry import TextShape, choose

ANCHOR = "mamba"
_WIDEST = 2**16


@dataclass(frozen=True)
class SolvedWidth:
    """A width to be solved: a multiple of `step`."""

    step: int


Shape = dict[str, Any]

PRESETS: dict[str, dict[str, Shape]] = {
    # About 0.45M: trains on one CPU thread.
    "mini": {
        "transformer": {
            "hidden_size": 128,
            "intermediate_size": SolvedWidth(step=8),
            "num_layers": 3,
            "num_heads": 4,
        },
        "lstm": {"embedding_size": 128, "hidden_size": SolvedWidth(step=4), "num_layers": 2},
        "xlstm": {
            "hidden_size": 128,
            "inner_size": 256,
            "ffn_size": SolvedWidth(step=16),
            "num_layers": 3,
            "num_heads": 4,
            "slstm_at": (1,),
        },
        "mamba": {"hidden_size": 128, "num_layers": 4, "state_size": 8},
        "hgrn2": {
            "hidden_size": 128,
            "intermediate_size": SolvedWidth(step=8),
            "num_layers": 3,
            "expand_ratio": 32,
        },
        "gated_deltanet": {
            "hidden_size": 128,
            "intermediate_size": SolvedWidth(step=8),
            "num_layers": 3,
            "num_heads": 3,
            "head_dim": 32,
        },
    },
    "small": {
        "transformer": {
            "hidden_size": 384,
            "intermediate_size": SolvedWidth(step=16),
            "num_layers": 8,
            "num_heads": 6,
        },
        # Four layers: oneDNN's LSTM gains from bf16, and its weights stay in the caches, only up to
        # widths of about 600. Two layers, twice as slow, would be 920 wide.
        "lstm": {"embedding_size": 384, "hidden_size": SolvedWidth(step=8), "num_layers": 4},
        "xlstm": {
            "hidden_size": 384,
            "inner_size": SolvedWidth(step=16),
            "ffn_size": 512,
            "num_layers": 12,
            "num_heads": 4,
            "slstm_at": (1, 7),
        },
        "mamba": {"hidden_size": 384, "num_layers": 12, "state_size": 16},
        "hgrn2": {
            "hidden_size": 384,
            "intermediate_size": SolvedWidth(step=16),
            "num_layers": 8,
            "expand_ratio": 128,
        },
        "gated_deltanet": {
            "hidden_size": 384,
            "intermediate_size": SolvedWidth(step=16),
            "num_layers": 8,
            "num_heads": 3,
            "head_dim": 96,
        },
    },
    "base": {
        "transformer": {
            "hidden_size": 768,
            "intermediate_size": SolvedWidth(step=16),
            "num_layers": 16,
            "num_heads": 12,
        },
        "lstm": {"embedding_size": 768, "hidden_size": SolvedWidth(step=16), "num_layers": 2},
        "xlstm": {
            "hidden_size": 768,
            "inner_size": SolvedWidth(step=16),
            "ffn_size": 1024,
            "num_layers": 30,
            "num_heads": 4,
            "slstm_at": (1, 11, 21),
        },
        "mamba": {"hidden_size": 768, "num_layers": 30, "state_size": 16},
        "hgrn2": {
            "hidden_size": 768,
            "intermediate_size": SolvedWidth(step=16),
            "num_layers": 16,
            "expand_ratio": 128,
        },
        "gated_deltanet": {
            "hidden_size": 768,
            "intermediate_size": SolvedWidth(step=16),
            "num_layers": 16,
            "num_heads": 6,
            "head_dim": 96,
        },
    },
    "paper": {
        "transformer": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_layers": 22,
            "num_heads": 32,
            "num_kv_heads": 4,
        },
        "lstm": {"embedding_size": 512, "hidden_size": 4096, "num_layers": 2, "dropout": 0.1},
        "xlstm": {
            "hidden_size": 1024,
            "inner_size": 2048,
            "ffn_size": 1344,
            "num_layers": 48,
            "num_heads": 4,
            "slstm_at": (3, 5, 7, 40, 42, 44),
        },
        "mamba": {"hidden_size": 1024, "num_layers": 48, "state_size": 8},
        "hgrn2": {
            "hidden_size": 1024,
            "intermediate_size": 2816,
            "num_layers": 26,
            "expand_ratio": 128,
        },
        "gated_deltanet": {
            "hidden_size": 1024,
            "intermediate_size": SolvedWidth(step=16),
            "num_layers": 24,
            "num_heads": 6,
            "head_dim": 128,
        },
    },
    # About 922M: the study's final HGRN2, 990.5M with its vocabulary, and what matches it.
    "large": {
        "transformer": {
            "hidden_size": 2048,
            "intermediate_size": SolvedWidth(step=16),
            "num_layers": 18,
            "num_heads": 16,
        },
        "lstm": {"embedding_size": 2048, "hidden_size": SolvedWidth(step=16), "num_layers": 2},
        # Eight heads keep the mLSTM's memories and the sLSTM's heads as large as at `paper`.
        "xlstm": {
            "hidden_size": 2048,
            "inner_size": 4096,
            "ffn_size": SolvedWidth(step=16),
            "num_layers": 36,
            "num_heads": 8,
            "slstm_at": (1, 13, 25),
        },
        "mamba": {"hidden_size": 2048, "num_layers": 35, "state_size": 8},
        "hgrn2": {
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "num_layers": 18,
            "expand_ratio": 128,
        },
        "gated_deltanet": {
            "hidden_size": 2048,
            "intermediate_size": SolvedWidth(step=16),
            "num_layers": 18,
            "num_heads": 6,
            "head_dim": 256,
        },
    },
}


def shape(arch: str, size: str) -> Shape:
    """Keyword arguments of `Architecture.build_config`; ValueError for an unknown name."""
    preset = choose(choose(PRESETS, size, "size"), arch, "architecture")
    return {**preset, **solved_width(arch, size)}


@functools.cache
def solved_width(arch: str, size: str) -> Shape:
    """Name and value of the width that is solved for; empty if all of the shape is given."""
    preset = PRESETS[size][arch]
    free = {name: value.step for name, value in preset.items() if isinstance(value, SolvedWidth)}
    if not free:
        return {}
    ((width, step),) = free.items()
    multiples = range(step, _WIDEST, step)
    target = non_embedding_params(ANCHOR, PRESETS[size][ANCHOR])
    index = bisect_left(
        multiples, target, key=lambda value: non_embedding_params(arch, {**preset, width: value})
    )
    return {width: multiples[index]}


def non_embedding_params(arch: str, shape: Shape) -> int:
    """Parameters of a shape that do not depend on the vocabulary."""
    architecture = registry.get(arch)
    text = TextShape(vocab_size=1, context=1)
    return architecture.num_params(architecture.build_config(text, **shape)).non_embedding
