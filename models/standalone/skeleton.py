"""What the plain models share around their layers: padding, heads, losses, generation.

Padding may stand anywhere in a text: a token that the attention mask hides is as if it were absent.
Every row's real tokens are moved to its front, where no hidden token can reach them, and the
results back to where the tokens came from. No state is kept between calls: `generate` reads the
whole text again for every token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import (
    BaseModelOutput,
    CausalLMOutput,
    SequenceClassifierOutput,
)
from transformers.utils import can_return_tuple

HEAD_STD = 0.02  # of a new classification head, and of all weights where the config has no other
# Keywords of generation, trainers and losses that change nothing here, or that the loss takes.
WITHOUT_EFFECT = ("use_cache", "return_dict", "cache_position")
OF_THE_LOSS = ("num_items_in_batch", "ignore_index", "shift_labels")


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps), with a gain (Zhang & Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x (..., width) -> the same shape."""
        wide = at_least_float32(x)
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (normed * self.weight).to(x.dtype)


class SwiGLU(nn.Module):
    """Feed-forward layer with a gate (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, time, width) -> the same shape."""
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class PlainPreTrainedModel(PreTrainedModel):
    """Access to the embeddings, and weights of what a checkpoint does not have."""

    base_model_prefix = "model"
    _input_embed_layer = "embeddings"

    def get_input_embeddings(self) -> nn.Module:
        body: Any = self.base_model
        return body.embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        body: Any = self.base_model
        body.embeddings = value

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            is_new = module is getattr(self, "score", None)
            std = HEAD_STD if is_new else getattr(self.config, "initializer_range", HEAD_STD)
            nn.init.normal_(module.weight, std=std)


class PlainModel(PlainPreTrainedModel):
    """Embedding and layers. Subclasses build `embeddings`, and say what the layers are."""

    embeddings: nn.Embedding

    def sequence(self) -> Iterable[Callable[[Tensor], Tensor]]:
        """The layers, each from (batch, time, width) to the same of its own width."""
        raise NotImplementedError

    def finish(self, hidden: Tensor) -> Tensor:
        """Compute what follows the last layer."""
        raise NotImplementedError

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """input_ids (batch, time), or inputs_embeds (batch, time, width) -> hidden states likewise.

        The attention mask (batch, time) is 0 for tokens to leave out. `hidden_states`, if asked
        for, are the embeddings and the output of every layer, the last one behind what follows it.
        """
        refuse(kwargs)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds, and not both")
        hidden = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        order = real_first(attention_mask)
        if order is not None:
            hidden = hidden.take_along_dim(order, 1)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        outputs = [hidden]
        for layer in self.sequence():
            outputs.append(layer(outputs[-1]))
            if not output_hidden_states:
                del outputs[:-1]
        outputs[-1] = self.finish(outputs[-1])
        if order is not None:
            inverse = order.argsort(dim=1)
            outputs = [each.take_along_dim(inverse, 1) for each in outputs]
        return BaseModelOutput(
            last_hidden_state=outputs[-1],
            hidden_states=tuple(outputs) if output_hidden_states else None,
        )


class PlainForCausalLM(PlainPreTrainedModel, GenerationMixin):
    """A body with a linear head. Subclasses name the class of the body."""

    body: type[PlainModel]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model = self.body(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.lm_head = new_embeddings

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # there are no keys and values to keep

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        *args: Any,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The whole text for every step."""
        whole = {"input_ids": input_ids, "attention_mask": attention_mask}
        return whole | {"logits_to_keep": kwargs.get("logits_to_keep", 0)}

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutput:
        """Logits (batch, time, vocab), of the last `logits_to_keep` positions if that is not 0.

        With `labels` (batch, time), not shifted, -100 for none, the mean cross-entropy comes along.
        """
        refuse(kwargs)
        body = self.model(input_ids, attention_mask, inputs_embeds, output_hidden_states)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(body.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            options = {name: kwargs[name] for name in OF_THE_LOSS if name in kwargs}
            size = self.config.vocab_size
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=size, **options)
        return CausalLMOutput(loss=loss, logits=logits, hidden_states=body.hidden_states)


class PlainForSequenceClassification(PlainPreTrainedModel):
    """A body with a new linear head, which reads the last real token of each text: the only one
    that has read the whole of it. Subclasses name the class of the body."""

    body: type[PlainModel]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = self.body(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Logits (batch, label); with `labels` (batch,) their loss comes along.

        Without an attention mask, tokens behind the last one that is not padding are left out.
        """
        refuse(kwargs)
        body = self.model(input_ids, attention_mask, inputs_embeds, output_hidden_states)
        hidden = body.last_hidden_state
        shown = attention_mask
        if shown is None and input_ids is not None and self.config.pad_token_id is not None:
            shown = input_ids != self.config.pad_token_id
        rows = torch.arange(len(hidden), device=hidden.device)
        logits = self.score(hidden[rows, last_real(shown, hidden)])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, pooled_logits=logits, config=self.config
            )
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=body.hidden_states)


def at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def inner_width(config: Any) -> int:
    """Width within a feed-forward layer: as given, else about two thirds of the ratio times the
    model's, in steps of 256."""
    if config.intermediate_size is not None:
        return config.intermediate_size
    inner = int(config.hidden_size * (config.hidden_ratio or 4) * 2 / 3)
    return inner + -inner % 256


def causal_conv(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """A depthwise convolution over a step and those before it, with SiLU.

    x (batch, time, channels) -> the same shape.
    """
    behind = nn.functional.pad(x.mT, (conv.kernel_size[0] - 1, 0))
    y = nn.functional.conv1d(behind, conv.weight, conv.bias, groups=conv.groups)
    return nn.functional.silu(y.mT)


def real_first(attention_mask: Tensor | None) -> Tensor | None:
    """The order (batch, time, 1) that moves the real tokens of each row to its front; None if all
    are real."""
    if attention_mask is None or bool(torch.all(attention_mask != 0)):
        return None
    return (attention_mask == 0).long().argsort(dim=1, stable=True)[..., None]


def last_real(shown: Tensor | None, hidden: Tensor) -> Tensor:
    """The index (batch,) of each row's last token that is shown; hidden (batch, time, width)."""
    time = hidden.shape[1]
    if shown is None:
        return torch.full((len(hidden),), time - 1, device=hidden.device)
    at = torch.arange(time, device=hidden.device)
    return (at * (shown != 0)).argmax(1)


def refuse(keywords: dict[str, Any]) -> None:
    """Raise ValueError for a keyword that asks for something else than is computed here."""
    for name, value in keywords.items():
        asks = value is not None and value is not False
        if asks and name not in (*WITHOUT_EFFECT, *OF_THE_LOSS):
            raise ValueError(
                f"this model does not take {name}: it reads the whole text, in order, and keeps no "
                "state"
            )
