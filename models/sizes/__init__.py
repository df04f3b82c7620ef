"""Shapes of every architecture at every size.

`mini`, `small` and `base` are matched: at one size the five architectures have the same number
of non-embedding parameters to within 2%. The free width is the FFN size of transformer, HGRN2
and xLSTM (here also the inner size of the mLSTM), and the hidden size of the LSTM; Mamba, which
has the coarsest steps, sets the target. `paper` is the table of the study by Haller et al. 2024
(arXiv 2412.15978), which matches totals only loosely.
"""

from __future__ import annotations

from typing import Any

from models.registry import choose

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    # About 0.45M: trains on one CPU thread.
    "mini": {
        "transformer": {
            "hidden_size": 128,
            "intermediate_size": 216,
            "num_layers": 3,
            "num_heads": 4,
        },
        "lstm": {"embedding_size": 128, "hidden_size": 172, "num_layers": 2},
        "xlstm": {
            "hidden_size": 128,
            "inner_size": 256,
            "ffn_size": 496,
            "num_layers": 3,
            "num_heads": 4,
            "slstm_at": (1,),
        },
        "mamba": {"hidden_size": 128, "num_layers": 4, "state_size": 8},
        "hgrn2": {
            "hidden_size": 128,
            "intermediate_size": 216,
            "num_layers": 3,
            "expand_ratio": 32,
        },
    },
    "small": {
        "transformer": {
            "hidden_size": 384,
            "intermediate_size": 752,
            "num_layers": 8,
            "num_heads": 6,
        },
        "lstm": {"embedding_size": 384, "hidden_size": 920, "num_layers": 2},
        "xlstm": {
            "hidden_size": 384,
            "inner_size": 832,
            "ffn_size": 512,
            "num_layers": 12,
            "num_heads": 4,
            "slstm_at": (1, 7),
        },
        "mamba": {"hidden_size": 384, "num_layers": 12, "state_size": 16},
        "hgrn2": {
            "hidden_size": 384,
            "intermediate_size": 752,
            "num_layers": 8,
            "expand_ratio": 128,
        },
    },
    "base": {
        "transformer": {
            "hidden_size": 768,
            "intermediate_size": 2048,
            "num_layers": 16,
            "num_heads": 12,
        },
        "lstm": {"embedding_size": 768, "hidden_size": 2944, "num_layers": 2},
        "xlstm": {
            "hidden_size": 768,
            "inner_size": 1616,
            "ffn_size": 1024,
            "num_layers": 30,
            "num_heads": 4,
            "slstm_at": (1, 11, 21),
        },
        "mamba": {"hidden_size": 768, "num_layers": 30, "state_size": 16},
        "hgrn2": {
            "hidden_size": 768,
            "intermediate_size": 2048,
            "num_layers": 16,
            "expand_ratio": 128,
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
    },
}


def shape(arch: str, size: str) -> dict[str, Any]:
    """Keyword arguments of `Architecture.build_config`; ValueError for an unknown name."""
    return choose(choose(PRESETS, size, "size"), arch, "architecture")
