"""`python -m models.sizes`: parameters of every preset, and how well they match."""

from __future__ import annotations

from statistics import mean

from rich.console import Console
from rich.table import Table

import models

# Vocabulary and context that each size is meant for.
TYPICAL = {"mini": (2048, 64), "small": (8192, 256), "base": (16_000, 512), "paper": (16_000, 512)}


def table(size: str) -> Table:
    """Parameters and FLOPs of every architecture at one size."""
    vocab_size, context = TYPICAL[size]
    result = Table(
        title=f"{size}: vocabulary {vocab_size:,}, context {context}",
        caption="parameters in millions; deviation: non-embedding against the mean of the size",
    )
    result.add_column("arch")
    for column in ("non-embedding", "deviation", "embedding", "total", "MFLOP/token"):
        result.add_column(column, justify="right")
    configs = {
        arch: models.build_config(arch, size, vocab_size=vocab_size, context=context)
        for arch in models.architectures()
    }
    counts = {arch: models.num_params(config) for arch, config in configs.items()}
    average = mean(count.non_embedding for count in counts.values())
    for arch, count in counts.items():
        result.add_row(
            arch,
            f"{count.non_embedding / 1e6:.3f}",
            f"{count.non_embedding / average - 1:+.2%}",
            f"{count.embedding / 1e6:.3f}",
            f"{count.total / 1e6:.3f}",
            f"{models.flops_per_token(configs[arch], context) / 1e6:,.2f}",
        )
    return result


def main() -> None:
    console = Console()
    for size in models.sizes():
        console.print(table(size))


if __name__ == "__main__":
    main()
