"""Which class transformers' Auto classes open each type of model with.

flash-linear-attention (fla), once anything imports it, puts models of its own in the place of
several of transformers' and of ours; they run on a GPU only.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoModel, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

# By type of model or config class, each with what was registered beside the library's own classes.
_MAPPINGS: tuple[Any, ...] = (
    CONFIG_MAPPING,
    AutoModel._model_mapping,
    AutoModelForCausalLM._model_mapping,
)
_INTRUDER = "fla"
_kept: list[dict[Any, Any]] = []


def keep_registrations() -> None:
    """Remember what is registered now, for `restore_registrations`."""
    _kept[:] = [dict(mapping._extra_content) for mapping in _MAPPINGS]


def restore_registrations() -> None:
    """Undo what fla has registered since `keep_registrations` in the place of another class."""
    for mapping, kept in zip(_MAPPINGS, _kept, strict=True):
        registered = mapping._extra_content
        for key, value in list(registered.items()):
            if _is_intruder(value) and not _is_intruder(key):
                if key in kept:
                    registered[key] = kept[key]
                else:  # the library's own class is below
                    del registered[key]
                    if key not in mapping:
                        registered[key] = value


def _is_intruder(value: Any) -> bool:
    return getattr(value, "__module__", "").partition(".")[0] == _INTRUDER
