"""What every architecture must do, whatever is inside."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import models
from models.kernels import paths

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
    logits = model(input_ids=ids, use_cache=False).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def gradients(model: Any) -> dict[str, Tensor]:
    """The gradients, which it then clears."""
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def carried(outputs: Any) -> dict[str, Any]:
    """The argument that hands the state or cache of a forward pass to the next one."""
    names = ("past_key_values", "cache_params")
    return {name: outputs[name] for name in names if outputs.get(name) is not None}


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


def test_embeddings_may_take_the_place_of_tokens(arch: str) -> None:
    """`inputs_embeds` from the table gives the logits of the tokens."""
    model, ids = build(arch).eval(), random_ids(2, 20)
    embeddings = model.get_input_embeddings()(ids)
    torch.testing.assert_close(model(inputs_embeds=embeddings).logits, model(input_ids=ids).logits)


def test_labels_give_the_loss(arch: str) -> None:
    """`labels`, unshifted and -100 where there is nothing to predict, give the mean loss."""
    model, ids = build(arch).eval(), random_ids(2, 20)
    labels = ids.clone()
    labels[0, :7] = labels[1, 12:] = -100
    outputs = model(input_ids=ids, labels=labels)
    log_probs = outputs.logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    torch.testing.assert_close(outputs.loss, -log_probs[labels[:, 1:] != -100].mean())


def test_hidden_states_end_with_the_last(arch: str) -> None:
    """`output_hidden_states` gives those of every layer; the last are the base model's output."""
    model, ids = build(arch).eval(), random_ids(2, 20)
    outputs = model.base_model(input_ids=ids, use_cache=False, output_hidden_states=True)
    assert len(outputs.hidden_states) > model.config.num_hidden_layers
    assert all(hidden.shape[:2] == ids.shape for hidden in outputs.hidden_states)
    torch.testing.assert_close(outputs.hidden_states[-1], outputs.last_hidden_state)


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


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(arch: str, side: str) -> None:
    """Logits of real tokens, and gradients through them, do not depend on padding beside them."""
    model = build(arch).train()
    texts = [random_ids(1, time, seed=time) for time in (17, 9, 1)]
    weights = [torch.randn(1, text.shape[1], VOCAB) for text in texts]
    alone = [model(input_ids=text, use_cache=False).logits for text in texts]
    torch.stack([(a * w).sum() for a, w in zip(alone, weights, strict=True)]).sum().backward()
    expected = gradients(model)

    def pad(x: Tensor, value: int) -> Tensor:
        missing = 20 - x.shape[1]
        return F.pad(x, (missing, 0) if side == "left" else (0, missing), value=value)

    ids = torch.cat([pad(text, 1) for text in texts])
    mask = torch.cat([pad(torch.ones_like(text), 0) for text in texts])
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    real = logits[mask.bool()]
    torch.testing.assert_close(real, torch.cat(alone, 1)[0], rtol=0, atol=1e-5)
    (real * torch.cat(weights, 1)[0]).sum().backward()
    for name, gradient in gradients(model).items():
        scale = expected[name].abs().max().clamp(min=1)
        torch.testing.assert_close(
            gradient / scale, expected[name] / scale, rtol=0, atol=1e-5, msg=name
        )


def test_padding_on_the_right_needs_no_mask(arch: str) -> None:
    """Tokens behind a sequence change nothing in it."""
    model, ids = build(arch).eval(), random_ids(2, 17)
    with torch.no_grad():
        alone = model(input_ids=ids).logits
        with_padding = model(input_ids=F.pad(ids, (0, 9), value=1)).logits
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


@pytest.fixture(scope="module")
def logits_of_a_fresh_process(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Logits of every architecture's saved model, opened in a process that only imports `models`
    and asks transformers' Auto classes. It is without fla, with transformers' own other models."""
    folder = tmp_path_factory.mktemp("saved")
    for arch in ARCHITECTURES:
        build(arch).save_pretrained(folder / arch)
    save_file({"ids": random_ids(2, 20)}, folder / "ids.safetensors")
    script = """
import sys, pathlib, torch, transformers, models
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
folder = pathlib.Path(sys.argv[1])
ids, logits = load_file(folder / "ids.safetensors")["ids"], {}
for path in filter(pathlib.Path.is_dir, folder.iterdir()):
    model = AutoModelForCausalLM.from_pretrained(path)
    assert type(AutoConfig.from_pretrained(path)) is type(model.config)
    with torch.no_grad():
        logits[path.name] = model(input_ids=ids).logits
save_file(logits, folder / "logits.safetensors")
with torch.device("meta"):
    for config in map(AutoConfig.for_model, ("mamba", "mamba2", "rwkv")):
        assert type(config).__module__.startswith("transformers."), config
        model = AutoModelForCausalLM.from_config(config)
        assert isinstance(model, getattr(transformers, type(model).__name__)), model
import sweeps.lr_sweep, trainables.trial
assert "fla" not in sys.modules
"""
    root = Path(models.__file__).parents[1]
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True, cwd=root)
    return load_file(folder / "logits.safetensors")


def test_auto_classes_open_it_after_one_import(
    arch: str, logits_of_a_fresh_process: dict[str, Tensor]
) -> None:
    """After `import models` a saved model opens with `AutoModelForCausalLM.from_pretrained`."""
    with torch.no_grad():
        expected = build(arch).eval()(input_ids=random_ids(2, 20)).logits
    torch.testing.assert_close(logits_of_a_fresh_process[arch], expected)


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


@pytest.mark.parametrize("kernels", ["auto", "torch"])
def test_backward_under_autocast_is_the_backward_behind_it(
    arch: str, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training step differentiates before autocast ends, on every path of the kernels."""
    monkeypatch.setenv(paths.VARIABLE, kernels)
    model, ids = build(arch).eval(), random_ids(2, CONTEXT)
    found = []
    for inside in (False, True):
        with torch.autocast("cpu", torch.bfloat16):
            loss = next_token_loss(model, ids)
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        found.append(gradients(model))
    for name, gradient in found[0].items():
        scale = gradient.abs().max()
        torch.testing.assert_close(found[1][name], gradient, rtol=0, atol=0.02 * float(scale))


def test_a_bfloat16_model_is_close(arch: str) -> None:
    """With its parameters in bfloat16 a model gives about the same logits, and gradients."""
    model, ids = build(arch).eval(), random_ids(4, CONTEXT)
    with torch.no_grad():
        exact = model(input_ids=ids).logits
    model.to(torch.bfloat16)
    logits = model(input_ids=ids).logits
    torch.testing.assert_close(logits.float(), exact, rtol=0, atol=0.1)
    next_token_loss(model, ids).backward()
    assert all(gradient.isfinite().all() for gradient in gradients(model).values())


@pytest.mark.parametrize("bfloat16", [False, True])
def test_gradient_checkpointing_changes_no_gradient(arch: str, bfloat16: bool) -> None:
    """Activations are computed again in the backward, and give the same gradients."""
    model, ids = build(arch).train(), random_ids(2, CONTEXT)
    calls: list[nn.Module] = []
    inner = next(x for x in model.base_model.modules() if isinstance(x, nn.Linear | nn.LSTM))
    inner.register_forward_pre_hook(lambda module, _: calls.append(module))

    def run() -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = next_token_loss(model, ids)
        loss.backward()
        return gradients(model)

    expected = run()
    assert len(calls) == 1
    model.gradient_checkpointing_enable()
    for name, gradient in run().items():
        torch.testing.assert_close(gradient, expected[name], msg=name)
    assert len(calls) == 3


def test_a_carried_state_continues_the_text(arch: str) -> None:
    """A text in pieces, of one or several tokens, each with the state behind the one before,
    gives the logits of the whole."""
    model, ids = build(arch).eval(), random_ids(2, 17)
    state: dict[str, Any] = {}
    logits = []
    with torch.no_grad():
        whole = model(input_ids=ids).logits
        for piece in ids.split([9, 1, 1, 5, 1], dim=1):
            outputs = model(input_ids=piece, use_cache=True, **state)
            logits.append(outputs.logits)
            state = carried(outputs)
    torch.testing.assert_close(torch.cat(logits, 1), whole, rtol=0, atol=1e-5)


def decided(arch: str) -> Any:
    """An untrained model whose next tokens differ in probability by more than rounding."""
    model = build(arch).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(4)
    return model


def generate(model: Any, ids: Tensor, **options: Any) -> Any:
    """`generate` with six new tokens, greedily unless `options` say otherwise."""
    options.setdefault("attention_mask", torch.ones_like(ids))
    options.setdefault("do_sample", False)
    return model.generate(ids, max_new_tokens=6, eos_token_id=None, **options)


def test_generation_is_the_repeated_forward(arch: str) -> None:
    """Greedy `generate`, with and without a cache, picks what whole forwards pick."""
    model, ids = decided(arch), random_ids(2, 5)
    expected = ids
    with torch.no_grad():
        for _ in range(6):
            last = model(input_ids=expected).logits[:, -1]
            expected = torch.cat([expected, last.argmax(-1, keepdim=True)], 1)
    for use_cache in (True, False):
        assert torch.equal(generate(model, ids, use_cache=use_cache), expected)


def test_prompts_of_different_lengths_generate_together(arch: str) -> None:
    """Padded on the left into one batch, every prompt goes on as it does alone."""
    model, long, short = decided(arch), random_ids(1, 9, seed=1), random_ids(1, 4, seed=2)
    ids = torch.cat([long, F.pad(short, (5, 0), value=1)])
    mask = torch.cat([torch.ones_like(long), F.pad(torch.ones_like(short), (5, 0))])
    together = generate(model, ids, attention_mask=mask)
    alone = [generate(model, long)[:, 9:], generate(model, short)[:, 4:]]
    assert torch.equal(together[:, 9:], torch.cat(alone))


def test_sampling_is_reproducible(arch: str) -> None:
    """One seed draws one text, another seed another."""
    model, ids, draws = decided(arch), random_ids(2, 5), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(generate(model, ids, do_sample=True))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_beam_search_reorders_the_cache(arch: str) -> None:
    """Beam search finds the same texts, with the same scores, with a cache as without."""
    model, ids = decided(arch), random_ids(2, 5)
    options = {"num_beams": 4, "return_dict_in_generate": True, "output_scores": True}
    with_cache = generate(model, ids, **options)
    without = generate(model, ids, use_cache=False, **options)
    assert torch.equal(with_cache.sequences, without.sequences)
    torch.testing.assert_close(with_cache.sequences_scores, without.sequences_scores)


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
