"""What every architecture must do, whatever is inside."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import models

VOCAB, CONTEXT = 512, 32
ARCHITECTURES = models.architectures()

pytestmark = pytest.mark.parametrize("arch", ARCHITECTURES)


def build(arch: str, seed: int = 0) -> Any:
    config = models.build_config(
        arch,
        "mini",
        vocab_size=VOCAB,
        context=CONTEXT,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )
    torch.manual_seed(seed)
    return models.build_model(config)


def random_ids(batch: int, time: int, seed: int = 1) -> Tensor:
    return torch.randint(2, VOCAB, (batch, time), generator=torch.Generator().manual_seed(seed))


def next_token_loss(model: Any, ids: Tensor) -> Tensor:
    logits = model(input_ids=ids).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def train(model: Any, ids: Tensor, steps: int) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    model.train()
    for _ in range(steps):
        loss = next_token_loss(model, ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_head_and_body_give_the_logits(arch: str) -> None:
    """The head applied to the base model's last hidden state is what the model returns."""
    model, ids = build(arch).eval(), random_ids(2, 20)
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    logits = model(input_ids=ids).logits
    head = model.get_output_embeddings()
    assert logits.shape == (2, 20, VOCAB)
    assert hidden.shape == (2, 20, head.in_features)
    torch.testing.assert_close(head(hidden), logits)


def test_head_is_not_tied_to_the_table(arch: str) -> None:
    """Input table and output head are two parameters, in the config and in memory."""
    model = build(arch)
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert not model.config.tie_word_embeddings
    assert table.data_ptr() != head.data_ptr()


def test_first_loss_is_that_of_a_guess(arch: str) -> None:
    """An untrained model spreads its belief: the loss is ln(vocabulary), at most 0.5 nats more."""
    with torch.no_grad():
        loss = next_token_loss(build(arch), random_ids(8, CONTEXT)).item()
    assert math.log(VOCAB) - 0.1 < loss < math.log(VOCAB) + 0.5


def test_every_parameter_gets_a_finite_gradient(arch: str) -> None:
    """The backward reaches every parameter, with numbers only."""
    model = build(arch)
    next_token_loss(model, random_ids(4, CONTEXT)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_the_future_does_not_reach_the_past(arch: str) -> None:
    """Changing the token at t leaves all logits before t as they were, to rounding, and changes
    those from t on."""
    model, ids = build(arch).eval(), random_ids(2, 24)
    changed = ids.clone()
    changed[:, 13] = (ids[:, 13] + 1) % VOCAB
    with torch.no_grad():
        before, after = model(input_ids=ids).logits, model(input_ids=changed).logits
    torch.testing.assert_close(after[:, :13], before[:, :13], rtol=0, atol=1e-5)
    assert (after[:, 13:] - before[:, 13:]).abs().max() > 1e-4


@pytest.mark.parametrize("with_mask", [False, True])
def test_padding_on_the_right_changes_nothing(arch: str, with_mask: bool) -> None:
    """Logits of a sequence's own tokens do not depend on padding behind it."""
    model, ids = build(arch).eval(), random_ids(2, 17)
    padded = F.pad(ids, (0, 9), value=1)
    mask = F.pad(torch.ones_like(ids), (0, 9)) if with_mask else None
    with torch.no_grad():
        alone = model(input_ids=ids).logits
        with_padding = model(input_ids=padded, attention_mask=mask).logits
    torch.testing.assert_close(with_padding[:, :17], alone, rtol=0, atol=1e-5)


def test_batched_is_unbatched(arch: str) -> None:
    """A sequence's logits do not depend on what else is in the batch."""
    model, ids = build(arch).eval(), random_ids(3, 20)
    with torch.no_grad():
        together = model(input_ids=ids).logits
        alone = torch.cat([model(input_ids=row[None]).logits for row in ids])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_sequences_may_be_longer_than_the_training_context(arch: str) -> None:
    """Benchmarks hold sentences longer than the context: they run, and stay causal."""
    model, ids = build(arch).eval(), random_ids(1, 3 * CONTEXT)
    with torch.no_grad():
        long, short = model(input_ids=ids).logits, model(input_ids=ids[:, :CONTEXT]).logits
    torch.testing.assert_close(long[:, :CONTEXT], short, rtol=0, atol=1e-5)


def test_a_saved_model_is_the_same_model(arch: str, tmp_path: Path) -> None:
    """Saved as safetensors and loaded by the Auto class: same class, weights and logits."""
    model = build(arch)
    train(model, random_ids(4, 16), steps=2)
    model.save_pretrained(tmp_path)
    loaded = models.load(tmp_path)
    assert [path.suffix for path in tmp_path.glob("*model*")] == [".safetensors"]
    assert type(loaded) is type(model)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    ids = random_ids(2, 20)
    with torch.no_grad():
        assert torch.equal(model.eval()(input_ids=ids).logits, loaded(input_ids=ids).logits)


def test_the_seed_decides_the_initial_weights(arch: str) -> None:
    """Two builds with one seed are bitwise equal; with two seeds they are not."""
    first, again, other = build(arch, 0), build(arch, 0), build(arch, 1)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    head = first.get_output_embeddings().weight
    assert not torch.equal(head, other.get_output_embeddings().weight)


def test_two_identical_runs_end_in_identical_parameters(arch: str) -> None:
    """Training on the CPU is bitwise deterministic."""
    ends = []
    for _ in range(2):
        model = build(arch)
        train(model, random_ids(4, CONTEXT), steps=3)
        ends.append(model.state_dict())
    for name, tensor in ends[0].items():
        assert torch.equal(tensor, ends[1][name]), name


def test_it_learns_a_repeating_sequence(arch: str) -> None:
    """Forty steps on one short pattern take the loss from ln(vocabulary) below a fifth of it."""
    pattern = random_ids(1, 6).repeat(4, 5)
    losses = train(build(arch), pattern, steps=40)
    assert losses[-1] < losses[0] / 5, f"{losses[0]:.2f} -> {losses[-1]:.2f}"


def test_bfloat16_autocast_is_close(arch: str) -> None:
    """Mixed precision trains on the CPU: finite loss and gradients, logits near float32 ones."""
    model, ids = build(arch), random_ids(4, CONTEXT)
    exact = model(input_ids=ids).logits
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        logits = model.get_output_embeddings()(hidden)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), ids.flatten())
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    torch.testing.assert_close(logits.float(), exact, rtol=0, atol=0.1)


def test_gradient_checkpointing_changes_no_gradient(arch: str) -> None:
    """Where the library offers to recompute activations, the gradients stay the same."""
    model, ids = build(arch).train(), random_ids(2, CONTEXT)
    if not model.supports_gradient_checkpointing:
        pytest.skip("not offered")
    next_token_loss(model, ids).backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.gradient_checkpointing_enable()
    next_token_loss(model, ids).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], msg=name)


def test_generation_is_the_repeated_forward(arch: str) -> None:
    """Greedy `generate`, with a cache where there is one, picks what whole forwards pick."""
    model, ids = build(arch).eval(), random_ids(2, 5)
    train(model, random_ids(2, CONTEXT), steps=5)
    model.eval()
    expected = ids
    with torch.no_grad():
        for _ in range(6):
            last = model(input_ids=expected).logits[:, -1]
            expected = torch.cat([expected, last.argmax(-1, keepdim=True)], 1)
    got = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=6,
        do_sample=False,
        eos_token_id=None,
    )
    assert torch.equal(got, expected)


@pytest.mark.parametrize("size", models.sizes())
def test_every_size_has_the_parameters_of_its_formula(arch: str, size: str) -> None:
    """Every preset builds, and its parameters are as many as `num_params` says."""
    config = models.build_config(arch, size, vocab_size=1000, context=64)
    with torch.device("meta"):
        model: Any = models.build_model(config)
    count = models.num_params(config)
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert count.total == sum(p.numel() for p in model.parameters())
    assert count.embedding == table.weight.numel() + head.weight.numel()
    assert count.total == count.embedding + count.non_embedding
