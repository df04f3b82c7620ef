"""`python -m models.sizes`: parameters of every preset and how well they match, FLOPs and state."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

import models
from models.sizes import ANCHOR, solved_width

# Vocabulary and context that each size is meant for.
TYPICAL = {
    "mini": (2048, 64),
    "small": (8192, 256),
    "base": (16_000, 512),
    "paper": (16_000, 512),
    "large": (16_000, 512),
}


def table(size: str) -> Table:
    """The numbers of every architecture at one size, and the widths that were solved."""
    vocab_size, context = TYPICAL[size]
    result = Table(
        title=f"{size}: vocabulary {vocab_size:,}, context {context}", caption=_solved(size)
    )
    result.add_column("arch")
    for column in ("non-emb.", "deviation", "embedding", "total", "FLOPs", "state"):
        result.add_column(column, justify="right")
    configs = {
        arch: models.build_config(arch, size, vocab_size=vocab_size, context=context)
        for arch in models.architectures()
    }
    target = models.num_params(configs[ANCHOR]).non_embedding
    for arch, config in configs.items():
        count = models.num_params(config)
        result.add_row(
            arch,
            f"{count.non_embedding / 1e6:.3f}",
            f"{count.non_embedding / target - 1:+.2%}",
            f"{count.embedding / 1e6:.3f}",
            f"{count.total / 1e6:.3f}",
            f"{models.flops_per_token(config, context) / 1e6:,.2f}",
            f"{models.state_size(config, context) / 1e3:,.1f}",
        )
    return result


def _solved(size: str) -> str:
    widths = {arch: solved_width(arch, size) for arch in models.architectures()}
    return ", ".join(
        f"{arch} {name} {value}" for arch, width in widths.items() for name, value in width.items()
    )


def main(argv: list[str] | None = None) -> None:
    argparse.ArgumentParser("python -m models.sizes", description=__doc__).parse_args(argv)
    console = Console()
    for size in models.sizes():
        console.print(table(size))
    console.print(
        f"Parameters in millions; deviation from {ANCHOR} of those outside the embeddings; "
        "millions of FLOPs of one token's forward pass; thousands of numbers of state behind a "
        "sequence of `context` tokens. Below a table: the widths that were solved to match."
    )


if __name__ == "__main__":
    main()
