"""Refuses a call that asks for something else than the model computes.

transformers' models take any keyword, and say nothing about those that they do not know: a state
under another model's name for it is then left out, and the result is that of another text.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping

from torch import Tensor, nn

# What `generate`, trainers and decorators add; it changes no result here.
WITHOUT_EFFECT = frozenset({"return_dict", "cache_position", "num_items_in_batch"})
_HINTS = {
    "cache_params": "the state to go on from is past_key_values here",
    "past_key_values": "the state to go on from is cache_params here",
    "output_attentions": "it has no attention weights",
    "position_ids": "it reads tokens in their order; hide some with attention_mask",
    "token_type_ids": "it knows no types of tokens",
}


def refuse_unknown(
    module: nn.Module, arguments: Mapping[str, object], also: frozenset[str] = frozenset()
) -> None:
    """Check the keywords of a call of `module`; None and False ask for nothing.

    Args:
        module: the model.
        arguments: the call's keywords.
        also: keywords that it honours beside those of its `forward`.

    Raises:
        ValueError: it does not know one.
    """
    known = _parameters(type(module).forward) | WITHOUT_EFFECT | also
    for name, value in arguments.items():
        if name not in known and not _asks_for_nothing(name, value):
            hint = f": {_HINTS[name]}" if name in _HINTS else ""
            raise ValueError(f"{type(module).__name__} does not take the argument {name}{hint}")


def check_mask_covers(attention_mask: Tensor, time: int) -> None:
    """Check that a mask has a column for each of the `time` tokens that are given, or more.

    Raises:
        ValueError: it has not.
    """
    if attention_mask.ndim != 2 or attention_mask.shape[1] < time:
        raise ValueError(
            f"the attention mask has shape {tuple(attention_mask.shape)}; "
            f"it must be (batch, time) and cover the {time} tokens that are given"
        )


def mask_of_call(args: tuple[object, ...], kwargs: Mapping[str, object]) -> Tensor | None:
    """A call's attention mask (batch, time), of the tokens that are given; None if it has none.

    Raises:
        ValueError: it has fewer columns than there are tokens.
    """
    mask = kwargs.get("attention_mask")
    texts = (*args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds"))
    given = next((x for x in texts if isinstance(x, Tensor)), None)
    if given is None or not isinstance(mask, Tensor) or mask.ndim != 2:
        return None
    check_mask_covers(mask, given.shape[1])
    return mask[:, -given.shape[1] :]


def _asks_for_nothing(name: str, value: object) -> bool:
    if isinstance(value, Tensor):  # tokenizers of pairs of texts say so of single ones
        return name == "token_type_ids" and not bool(value.any())
    return value is None or value is False


@functools.cache
def _parameters(forward: Callable[..., object]) -> frozenset[str]:
    parameters = inspect.signature(forward).parameters.values()
    return frozenset(p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD)
