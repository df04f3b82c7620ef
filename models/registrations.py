"""Which class transformers' Auto classes open each type of model with.

Other libraries put models of their own in the place of several of transformers' and of ours, when
they are imported: flash-linear-attention (fla) does, and its models run on a GPU only.
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
_AT_HOME = ("transformers", __name__.partition(".")[0])
_kept: list[dict[Any, Any]] = []


def keep_registrations() -> None:
    """Remember what this package has registered, for `restore_registrations`.

    What another library registered before is not kept: it may have been imported first.
    """
    _kept[:] = [
        {key: value for key, value in mapping._extra_content.items() if not _is_intruder(value)}
        for mapping in _MAPPINGS
    ]


def restore_registrations() -> None:
    """Undo what other libraries have registered in the place of transformers' classes and ours.

    Their own types of models stay.
    """
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
    return isinstance(value, type) and value.__module__.partition(".")[0] not in _AT_HOME
