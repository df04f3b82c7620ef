"""What configs of flash-linear-attention (fla; Yang & Zhang 2024) have in common.

Models here have the fields, the defaults and the checkpoints of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

from transformers import PreTrainedConfig

FFN_MULTIPLE = 256
"""A feed-forward width that follows from `hidden_ratio` is a multiple of this."""

# Fields that only choose among kernels which give the same, with fla's defaults.
SAME_RESULT: dict[str, object] = {
    "attn_mode": "chunk",
    "fuse_norm": True,
    "fuse_swiglu": True,
    "fuse_cross_entropy": True,
    "fuse_linear_cross_entropy": False,
}


def refuse_variants(name: str, config: PreTrainedConfig, only: Mapping[str, object]) -> None:
    """Check that a config of fla's asks for nothing but what is computed here.

    Args:
        name: of the architecture.
        config: of the model.
        only: by field, the one value that is.

    Raises:
        ValueError: it has another value.
    """
    for field, computed in only.items():
        if (value := getattr(config, field)) != computed:
            raise ValueError(
                f"{name} is computed here for {field}={computed!r} only, not for {value!r}: open "
                "the checkpoint with flash-linear-attention"
            )


def feed_forward_width(
    hidden_size: int, intermediate_size: int | None, hidden_ratio: int | None
) -> int:
    """The width that is given, or about two thirds of the ratio (4) times the hidden size."""
    if intermediate_size is not None:
        return intermediate_size
    width = int(hidden_size * (hidden_ratio or 4) * 2 / 3)
    return width + -width % FFN_MULTIPLE
