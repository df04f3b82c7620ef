"""What is checked on a GPU, as functions of the device, so that a CPU can check the checks."""

from __future__ import annotations

import copy
import gc
import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import models
from analysis.benchmarks.scoring import Span, token_log_probs
from trainables.corpus import Blocks, Corpus
from trainables.objectives import DistillationObjective, NextTokenObjective
from trainables.spec import TrialSpec
from trainables.trainer import Trainer, TrialData, World

VOCAB = 512
FORWARD_TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 1e-3
BF16_TOLERANCE = 5e-2  # of the log-probability of a token, in nats
STEPS = 5  # of the runs that several devices share


def build(arch: str, *, size: str = "mini", context: int = 256, vocab: int = VOCAB) -> Any:
    """A model with the same weights at every call."""
    config = models.build_config(arch, size, vocab_size=vocab, context=context, pad_token_id=1)
    torch.manual_seed(0)
    return models.build_model(config)


def random_ids(batch: int, time: int, vocab: int = VOCAB) -> Tensor:
    return torch.randint(2, vocab, (batch, time), generator=torch.Generator().manual_seed(1))


def mean_loss(model: Any, ids: Tensor) -> Tensor:
    """The training objective, in nats per token."""
    return NextTokenObjective(model)(ids[:, :-1], ids[:, 1:]) / ids[:, 1:].numel()


def results(model: Any, ids: Tensor) -> dict[str, Tensor]:
    """Logits, loss, and the gradient of every parameter by its name, on the CPU."""
    model.train()
    model.zero_grad()
    logits = model(input_ids=ids, use_cache=False).logits.detach()
    loss = mean_loss(model, ids)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {
        name: tensor.detach().cpu()
        for name, tensor in {"logits": logits, "loss": loss, **gradients}.items()
    }


def assert_agree(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    """Equal to the tolerances, relative to the largest entry of each tensor.

    Gradients far smaller than those of the whole model count as if they were a thousandth as large.
    """
    assert got.keys() == want.keys()
    gradients = want.keys() - {"logits", "loss"}
    floor = 1e-3 * max(want[name].abs().max() for name in gradients)
    for name, tensor in want.items():
        scale = tensor.abs().max()
        tolerance = FORWARD_TOLERANCE
        if name in gradients:
            scale, tolerance = max(scale, floor), GRADIENT_TOLERANCE
        error = ((got[name] - tensor).abs().max() / scale).item()
        assert error < tolerance, f"{name}: relative error {error:.1e}"


def check_agreement(arch: str, device: str, time: int) -> None:
    """Logits, loss and gradients on the device equal those on the CPU, from the same weights."""
    model, ids = build(arch), random_ids(2, time)
    moved = copy.deepcopy(model).to(device)
    assert_agree(results(moved, ids.to(device)), results(model, ids))


def check_generation(arch: str, device: str) -> None:
    """Token by token with a cache, `generate` sees the logits of the forward over the whole."""
    model, prompt = build(arch).to(device).eval(), random_ids(2, 70).to(device)
    generated = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=8,
        do_sample=False,
        eos_token_id=None,
        return_dict_in_generate=True,
        output_logits=True,
    )
    with torch.no_grad():
        whole = model(input_ids=generated.sequences, use_cache=False).logits[:, 69:-1]
    error = (torch.stack(generated.logits, 1) - whole).abs().max() / whole.abs().max()
    assert error < FORWARD_TOLERANCE, f"relative error {error:.1e}"


def check_bf16(arch: str, device: str) -> None:
    """Under autocast the loss is near that of float32, and a step with finite gradients lowers
    it."""
    model, ids = build(arch).to(device).train(), random_ids(4, 65).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with torch.no_grad():
        exact = mean_loss(model, ids).item()
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        with torch.autocast(torch.device(device).type, torch.bfloat16):  # backward as well
            loss = mean_loss(model, ids)
            loss.backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert abs(losses[0] / exact - 1) < 1e-2
    assert losses[1] < losses[0]


def check_small_gradients(arch: str, device: str) -> None:
    """Gradients of a loss that is a mean over many tokens survive bf16: within 5% of those of
    float32. In float16 they would vanish."""
    ids = random_ids(4, 65).to(device)
    gradients = []
    for enabled in (False, True):
        model = build(arch).to(device).train()
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=enabled):
            (mean_loss(model, ids) * 2.0**-15).backward()  # within, as a trial's step is
        gradients.append(torch.cat([p.grad.flatten().double() for p in model.parameters()]))
    exact, low = gradients
    error = ((low - exact).norm() / exact.norm()).item()
    assert error < 0.05, f"the gradients are off by {error:.1%}"


def check_padding(arch: str, device: str) -> None:
    """Tokens behind padding, or in front of it, have the logits that they have alone."""
    model, ids = build(arch).to(device).eval(), random_ids(2, 70).to(device)
    with torch.no_grad():
        alone = model(input_ids=ids[:, :43], use_cache=False).logits
        for real in (slice(0, 43), slice(27, 70)):
            padded, mask = torch.ones_like(ids), torch.zeros_like(ids)
            padded[:, real], mask[:, real] = ids[:, :43], 1
            logits = model(input_ids=padded, attention_mask=mask, use_cache=False).logits
            error = (logits[:, real] - alone).abs().max() / alone.abs().max()
            assert error < FORWARD_TOLERANCE, f"{real}: relative error {error:.1e}"


def check_scores(arch: str, device: str) -> None:
    """Sentences of many lengths score as on the CPU, and in bf16 nearly so."""
    model = build(arch)
    ids = random_ids(1, 400)[0].tolist()
    spans = [Span(tuple(ids[i : i + 5 + 3 * i]), 1 + i % 3) for i in range(20)]
    want = token_log_probs(model, spans)
    moved = copy.deepcopy(model).to(device)
    for precision, tolerance in (("fp32", FORWARD_TOLERANCE), ("bf16", BF16_TOLERANCE)):
        got = token_log_probs(moved, spans, precision=precision)
        for mine, theirs in zip(got, want, strict=True):
            error = abs(mine - theirs).max()
            assert error < tolerance * abs(theirs).max(), f"{precision}: {error:.1e} nats"


def check_distillation(arch: str, device: str) -> None:
    """The loss of a student and its gradients are those on the CPU, and the teacher gets none."""
    student, ids = build(arch), random_ids(2, 65)
    torch.manual_seed(1)
    teacher = models.build_model(student.config)
    found = []
    for place in (device, "cpu"):
        pair = [copy.deepcopy(model).to(place) for model in (student, teacher)]
        objective = DistillationObjective(pair[0], pair[1:], 0.5, 2.0, False)
        inputs = ids.to(place)
        loss = objective(inputs[:, :-1], inputs[:, 1:]) / ids[:, 1:].numel()
        loss.backward()
        assert all(parameter.grad is None for parameter in pair[1].parameters())
        gradients = {name: parameter.grad for name, parameter in pair[0].named_parameters()}
        found.append({name: x.detach().cpu() for name, x in {"loss": loss, **gradients}.items()})
    assert_agree(*found)


def check_sharing(arch: str, device_type: str, corpus: Path, folder: Path) -> None:
    """Two workers, each with half of every batch, have the losses of one worker."""
    losses = []
    for workers in (1, 2):
        output = folder / f"{workers}.json"
        rendezvous = (folder / f"rendezvous-{workers}").as_uri()
        arguments = (workers, arch, device_type, corpus, rendezvous, output)
        torch.multiprocessing.spawn(_train, arguments, nprocs=workers)
        losses.append(json.loads(output.read_text()))
    alone, shared = losses
    assert alone[-1] < alone[0], "it did not learn, so that equal losses say nothing"
    worst = max(abs(b / a - 1) for a, b in zip(alone, shared, strict=True))
    assert worst < FORWARD_TOLERANCE, f"relative error {worst:.1e}"


def _train(
    rank: int, workers: int, arch: str, device_type: str, folder: Path, rendezvous: str, out: Path
) -> None:
    """Write, as one of the workers of a trial, the losses of a few steps and of validation."""
    device = torch.device("cpu") if device_type == "cpu" else torch.device(device_type, rank)
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if workers > 1:
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=rendezvous, rank=rank, world_size=workers)
    losses = _losses(arch, Corpus.open(folder), World(rank, workers, device))
    if rank == 0:
        out.write_text(json.dumps(losses))
    if workers > 1:
        # Whatever outlives the group and is its last owner, as DistributedDataParallel's reducer,
        # waits in its destructor, with Python's lock, for a thread of gloo that wants the lock.
        gc.collect()
        dist.destroy_process_group()


def _losses(arch: str, corpus: Corpus, world: World) -> list[float]:
    spec = TrialSpec(
        arch, "mini", corpus.name, corpus.hash, context=32, batch_size=4, lr=3e-3, epochs=1, seed=0
    )
    blocks = (Blocks(corpus.train, spec.context), Blocks(corpus.dev, spec.context))
    data = TrialData(corpus, *blocks, tokenizer=corpus.tokenizer(), suite=None)
    trainer = Trainer(spec, data, world, None)
    tokens = spec.batch_size * spec.context
    steps = [world.sum(trainer.step()[0].item())[0] / tokens for _ in range(STEPS)]
    return [*steps, trainer.validate()[0]]
