"""The numbers beside a model, computed by formula, are those of the model itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

import models
from tests.architectures import FACTS

CONTEXT = 12


# Operations that count once for every number they give; `sum` counts for every number it reads.
ARITHMETIC = "abs|add_?|div|exp|log_sigmoid_forward|maximum|mul_?|neg|sigmoid_?|sub|tanh_?"
# Copies, views, constants and types.
FREE = (
    "_to_copy|clone|constant_pad_nd|stack|(|new_)full(|_like)|(|new_)zeros(|_like)|promote_types|"
    "_unsafe_view|detach|expand|permute|select|slice|(|unsafe_)split|t|transpose|unbind|"
    "(|un)squeeze|view"
)


class ArithmeticCounter(TorchDispatchMode):
    """Counts element-wise arithmetic; an operation without a price fails.

    Matrix products and convolutions are left to torch's counter.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if re.fullmatch(ARITHMETIC, name):
            self.total += (result[0] if isinstance(result, tuple) else result).numel()
        elif name == "sum":
            self.total += args[0].numel()
        elif func.overloadpacket not in flop_registry:
            assert re.fullmatch(FREE, name), f"what does {name} count?"
        return result

    def watch(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` with its arithmetic counted."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return watched


@pytest.fixture
def recurrences(monkeypatch: pytest.MonkeyPatch) -> Iterator[ArithmeticCounter]:
    """The arithmetic of all recurrences, which for this test are computed step by step."""
    counter = ArithmeticCounter()
    for facts in FACTS.values():
        for target, replacement in facts.recurrences(counter.watch).items():
            monkeypatch.setattr(target, replacement)
    # Without oneDNN the LSTM runs as matrix products and arithmetic that can be seen.
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
        yield counter


def small_model(arch: str) -> Any:
    config = models.build_config(arch, "mini", vocab_size=96, context=CONTEXT)
    return models.build_model(config).eval().double()  # the type of the references


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # from switching oneDNN off
@pytest.mark.parametrize("arch", models.architectures())
def test_flops_are_those_of_a_forward_pass(arch: str, recurrences: ArithmeticCounter) -> None:
    """Matrix products, by torch's counter, and arithmetic of the recurrences, by our own, add up
    to exactly what the formula says."""
    model = small_model(arch)
    if arch == "transformer":
        model.set_attn_implementation("eager")  # torch does not count its fused attention on CPUs
    with FlopCounterMode(display=False) as products:
        model(input_ids=torch.zeros(1, CONTEXT, dtype=torch.long), use_cache=False)
    # The angles of the rotary embedding are a product, too, but of positions, not of tokens.
    angles = products.get_flop_counts().get("LlamaForCausalLM.model.rotary_emb", {})
    counted = products.get_total_flops() - sum(angles.values()) + recurrences.total
    assert CONTEXT * models.flops_per_token(model.config, CONTEXT) == counted


@pytest.mark.parametrize("arch", models.architectures())
def test_state_is_what_the_model_keeps(arch: str) -> None:
    """A cache behind `context` tokens holds as many numbers per sequence as the formula says."""
    model, batch = small_model(arch), 2
    ids = torch.zeros(batch, CONTEXT, dtype=torch.long)
    with torch.no_grad():
        output = model(input_ids=ids, use_cache=True)
    cache = output.cache_params if arch == "mamba" else output.past_key_values
    assert count_numbers(cache.layers) == batch * models.state_size(model.config, CONTEXT)


@pytest.mark.parametrize("arch", models.architectures())
def test_only_a_transformer_pays_for_the_context(arch: str) -> None:
    """FLOPs per token and state grow with the context in attention, and nowhere else."""
    config = small_model(arch).config
    grows = arch == "transformer"
    assert (models.flops_per_token(config, 200) > models.flops_per_token(config, 100)) == grows
    assert (models.state_size(config, 200) == 2 * models.state_size(config, 100)) == grows


def count_numbers(cache: Any) -> int:
    """Numbers in all tensors of a cache, whatever it is made of."""
    if isinstance(cache, Tensor):
        return cache.numel()
    if isinstance(cache, dict):
        return sum(map(count_numbers, cache.values()))
    if isinstance(cache, list | tuple):
        return sum(map(count_numbers, cache))
    return count_numbers(vars(cache)) if hasattr(cache, "__dict__") else 0
