"""What LSTM, xLSTM and HGRN2 share around their layers: state, padding, generation, head.

This makes Hugging Face causal LMs of recurrent layers.

Padding may stand anywhere in a sequence: a token that the attention mask hides is as if it were
absent. Every row's real tokens are moved to its front, where no hidden token can reach them, and
the results back to where the tokens came from.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from models.calls import check_mask_covers, refuse_unknown
from models.registry import small_init_std

LayerState = tuple[Tensor, ...]  # each (batch, ...)
RecurrentLayer = Callable[
    [Tensor, LayerState | None, Tensor | None, bool], tuple[Tensor, LayerState | None]
]


_OF_THE_LOSS = frozenset({"ignore_index", "shift_labels"})


class RecurrentState:
    """The layers' memory of the tokens so far, as `generate` hands it from step to step.

    A forward pass leaves the state that it is given as it was, and returns a new one. It carries
    no gradient. The last four members are what transformers asks of its caches.
    """

    is_compileable = False
    is_croppable = False

    def __init__(self, layers: list[LayerState], num_tokens: int) -> None:
        self.layers = layers
        self.num_tokens = num_tokens

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens read so far, hidden ones included."""
        return self.num_tokens

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Give row i what row `beam_idx[i]` had, for beam search."""
        self.layers = [
            tuple(x.index_select(0, beam_idx.to(x.device)) for x in layer) for layer in self.layers
        ]


class RealFirst:
    """The order that moves the real tokens of each row to its front, and its inverse.

    `lengths` (batch,) are the numbers of real tokens.
    """

    def __init__(self, mask: Tensor) -> None:
        """mask (batch, time), not 0 for real tokens."""
        hidden = mask == 0
        self.lengths = (~hidden).sum(1)
        self._order = hidden.long().argsort(dim=1, stable=True)[..., None]
        self._inverse = self._order.argsort(dim=1)

    def sort(self, x: Tensor) -> Tensor:
        """x (batch, time, dim) -> the same with the real tokens in front."""
        return x.take_along_dim(self._order, 1)

    def restore(self, x: Tensor) -> Tensor:
        """The inverse of `sort`."""
        return x.take_along_dim(self._inverse, 1)


def last_inputs(x: Tensor, count: int, past: Tensor | None, lengths: Tensor | None) -> Tensor:
    """The last `count` steps that each row has read: the state of a convolution.

    x (batch, time, dim), of which row i has `lengths[i]` real steps (all if None); past
    (batch, count, dim), zeros if None -> (batch, count, dim).
    """
    before = x.new_zeros(len(x), count, x.shape[-1]) if past is None else past.to(x.dtype)
    steps = torch.cat([before, x.detach()], 1)
    if lengths is None:
        return steps[:, x.shape[1] :].clone()
    at = lengths[:, None] + torch.arange(count, device=x.device)
    return steps.take_along_dim(at[..., None], 1)


def behind_text(lengths: Tensor, time: int) -> Tensor:
    """Whether a step lies behind the real ones; lengths (batch,) -> (batch, time)."""
    return torch.arange(time, device=lengths.device) >= lengths[:, None]


class RecurrentPreTrainedModel(PreTrainedModel):
    """Initialisation, embedding access and flags; `base_model` is the attribute `model`."""

    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _input_embed_layer = "embeddings"
    _is_stateful = True  # the state cannot go back: no assisted generation

    def _init_weights(self, module: nn.Module) -> None:
        # The bodies initialise themselves in their constructors; table and head are ours.
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=small_init_std(module.embedding_dim))


class RecurrentModel(RecurrentPreTrainedModel):
    """Embedding and recurrent layers.

    Subclasses build `embeddings` and say what their layers are and what follows the last.
    A layer maps (hidden, state, lengths, keep_state) to (hidden, new state): hidden
    (batch, time, dim); the state before the first step or None; `lengths` as in `RealFirst`, or
    None if all tokens are real; the new state, behind the last real token, is None unless
    `keep_state`.
    """

    embeddings: nn.Embedding

    @abstractmethod
    def recurrent_layers(self) -> Iterable[RecurrentLayer]:
        """The layers, from the first."""

    @abstractmethod
    def finish(self, hidden: Tensor) -> Tensor:
        """Compute what follows the last layer."""

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: RecurrentState | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """input_ids (batch, time), or inputs_embeds (batch, time, dim) -> hidden states likewise.

        The attention mask is 0 for tokens to leave out, wherever they are; with a state its last
        `time` columns count, so that it may also cover the past. `past_key_values` is the state
        to go on from. With `use_cache` (default: the config's in evaluation, False in training) a
        new state comes along. `hidden_states`, if asked for, are the embeddings and the output of
        every layer, the last one behind the final norm or dropout.
        """
        refuse_unknown(self, kwargs)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds, and not both")
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        hidden = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        time = hidden.shape[1]
        padding = _padding(attention_mask, time)
        if padding is not None:
            hidden = padding.sort(hidden)

        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        past = past_key_values
        lengths = None if padding is None else padding.lengths
        outputs: list[Tensor] = [hidden]
        states: list[Any] = []
        for index, layer in enumerate(self.recurrent_layers()):
            before = None if past is None else past.layers[index]
            hidden, state = layer(hidden, before, lengths, use_cache)
            outputs.append(hidden)
            states.append(state)
            if not output_hidden_states:
                del outputs[:-1]  # of no use, and evaluation needs the memory
        outputs[-1] = self.finish(hidden)

        if padding is not None:
            outputs = [padding.restore(x) for x in outputs]
        new_state: Any = None  # not one of transformers' own caches
        if use_cache:
            new_state = RecurrentState(states, time + (0 if past is None else past.num_tokens))
        return BaseModelOutputWithPast(
            last_hidden_state=outputs[-1],
            past_key_values=new_state,
            hidden_states=tuple(outputs) if output_hidden_states else None,
        )


class RecurrentForCausalLM(RecurrentPreTrainedModel, GenerationMixin):
    """A body with a linear head.

    Subclasses build `self.model` and then call `add_head`.
    """

    def add_head(self, width: int, vocab_size: int) -> None:
        self.lm_head = nn.Linear(width, vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self.lm_head:
            nn.init.normal_(module.weight, std=small_init_std(module.in_features))

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.lm_head = new_embeddings

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # `generate` shall not bring a cache of keys and values; ours makes itself

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: RecurrentState | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (batch, time, vocab), of the last `logits_to_keep` positions if that is not 0.

        With `labels` (batch, time), not shifted, the mean cross-entropy comes along. The other
        arguments are those of the base model.
        """
        refuse_unknown(self, kwargs, also=_OF_THE_LOSS)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=logits.shape[-1], **kwargs
            )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
        )


def _padding(attention_mask: Tensor | None, time: int) -> RealFirst | None:
    """The order to compute in, or None if the mask hides none of the last `time` tokens."""
    if attention_mask is None:
        return None
    check_mask_covers(attention_mask, time)
    mask = attention_mask[:, -time:]
    return None if torch.all(mask) else RealFirst(mask)
