"""Defaults of a sweep by what the machine has. Every value can be overridden by its flag."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import tyro

from analysis.schema.axes import short

Size = Literal["mini", "small", "base", "paper", "large"]
PresetName: TypeAlias = Literal["auto", Size]
"""Each size has a preset of its name; auto chooses one."""


@dataclass(frozen=True)
class Preset:
    """A sensible sweep: a model size with the data, the schedule and the grid that suit it."""

    size: str
    corpus: str
    vocab_size: int
    context: int
    batch_size: int
    epochs: int
    lrs: tuple[float, ...]
    cpus_per_trial: int
    gpus_per_trial: float


PRESETS = {
    # Minutes on a laptop: two trials at once on two CPU cores. The grid is centred on where the
    # five optima were found to lie.
    "mini": Preset("mini", "mini", 2048, 64, 32, 3, (3e-3, 1e-2, 3e-2, 1e-1), 1, 0),
    # One small GPU, or a patient CPU.
    "small": Preset(
        "small", "babylm-strict-small", 8192, 256, 32, 5, (3e-4, 1e-3, 3e-3, 1e-2), 2, 0.5
    ),
    "base": Preset(
        "base", "babylm-strict-small", 16000, 512, 64, 5, (1e-4, 3e-4, 1e-3, 3e-3), 4, 1
    ),
    # BabyHGRN's sweep (Haller et al. 2024, arXiv 2412.15978): 330-360M parameters, 10M words.
    "paper": Preset(
        "paper", "babylm-strict-small", 16000, 512, 64, 5, (1e-6, 1e-5, 1e-4, 1e-3), 8, 1
    ),
    # The study's final model, 1B parameters, around its rate of 4e-4; a GPU of 80 GB.
    "large": Preset(
        "large", "babylm-strict-small", 16000, 512, 64, 5, (1e-4, 2e-4, 4e-4, 8e-4), 8, 1
    ),
}


def choose(name: str, gpus: float) -> Preset:
    """The preset by name; "auto" is mini, on a quarter of a GPU for each trial if there is one."""
    if name == "auto":
        return replace(PRESETS["mini"], gpus_per_trial=0.25 if gpus else 0)
    if name == "small" and not gpus:
        return replace(PRESETS["small"], gpus_per_trial=0)
    return PRESETS[name]


def preset_default(name: str) -> Any:
    """Words of help for a flag whose default is the preset's field of this name."""
    names: dict[str, list[str]] = {}
    for preset, values in PRESETS.items():
        value = getattr(values, name)
        shown = " ".join(map(short, value)) if isinstance(value, tuple) else str(value)
        names.setdefault(shown, []).append(preset)
    words = "; ".join(f"{', '.join(presets)}: {shown}" for shown, presets in names.items())
    return tyro.conf.arg(help_behavior_hint=f"(default of preset {words})")
