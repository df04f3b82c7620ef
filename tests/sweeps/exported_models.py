"""Tiny models of all architectures as checkpoints, and the program that opens their exports where
this project is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaConfig, MambaConfig, PreTrainedConfig

import models
from models.gated_deltanet import GatedDeltaNetConfig
from models.hgrn2 import HGRN2Config
from models.lstm import LSTMConfig
from models.standalone.joining import PLAIN
from models.xlstm import XLSTMConfig
from sweeps import export
from trainables.corpus.tokenizer import save_tokenizer, train_tokenizer

VOCAB = 262
TEXT = ["the cat sees the dog", "a small cat likes old dogs and runs here now"]
_COMMON = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
_WIDTH = {**_COMMON, "hidden_size": 32}
_DELTA = {**_WIDTH, "num_hidden_layers": 2, "num_heads": 2, "head_dim": 8, "intermediate_size": 40}

CONFIGS: dict[str, dict[str, PreTrainedConfig]] = {
    "transformer": {
        "plain": LlamaConfig(
            **_WIDTH, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
        ),
        "tied": LlamaConfig(
            **_WIDTH,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        ),
    },
    "mamba": {
        "plain": MambaConfig(
            **_WIDTH, num_hidden_layers=2, state_size=8, tie_word_embeddings=False
        ),
        "tied": MambaConfig(**_WIDTH, num_hidden_layers=2, state_size=4, tie_word_embeddings=True),
    },
    "lstm": {
        "plain": LSTMConfig(**_WIDTH, embedding_size=24, num_hidden_layers=2),
        "dropout": LSTMConfig(**_WIDTH, embedding_size=24, num_hidden_layers=1, dropout=0.1),
    },
    "xlstm": {
        "both": XLSTMConfig(
            **_WIDTH, inner_size=64, ffn_size=48, num_hidden_layers=3, num_heads=4, slstm_at=(1,)
        ),
        "matrix": XLSTMConfig(**_WIDTH, inner_size=48, num_hidden_layers=2, num_heads=2),
        "scalar": XLSTMConfig(
            **_WIDTH, ffn_size=40, num_hidden_layers=2, num_heads=2, slstm_at=(0, 1)
        ),
    },
    "hgrn2": {
        "plain": HGRN2Config(**_WIDTH, num_hidden_layers=3, expand_ratio=8, intermediate_size=40),
        "tied": HGRN2Config(
            **_WIDTH,
            num_hidden_layers=2,
            expand_ratio=None,
            num_heads=2,
            use_lower_bound=False,
            tie_word_embeddings=True,
        ),
    },
    "gated_deltanet": {
        "plain": GatedDeltaNetConfig(**_DELTA),
        "grouped": GatedDeltaNetConfig(**_DELTA, num_v_heads=4, expand_v=1.5),
        "tied": GatedDeltaNetConfig(**_DELTA, allow_neg_eigval=True, tie_word_embeddings=True),
    },
}
"""By architecture and variant."""

ABSENT = {
    *("models", "trainables", "sweeps", "analysis", "fla", "xlstm", "mamba_ssm", "causal_conv1d"),
    *("ray", "mlflow"),
}
TIME = 70

OPENED = """
import sys

class Absent:
    # As where this project and what it needs besides are not installed.
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent)
import torch
from pathlib import Path
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, pipeline
)

torch.set_num_threads(1)
remote = {{"trust_remote_code": True}} if "{remote}" else {{}}
for place in map(Path, sys.argv[1:]):
    wanted = load_file(place / "wanted.safetensors")
    folder = place / "exported"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer({text!r}, padding=True, return_tensors="pt")
    assert torch.equal(ids["input_ids"], wanted["text"])
    model = AutoModelForCausalLM.from_pretrained(folder, **remote).eval()
    assert not type(model).__module__.startswith("models.")
    with torch.no_grad():
        left = model(wanted["ids"], attention_mask=wanted["mask"], output_hidden_states=True)
        whole = model(wanted["ids"], labels=wanted["ids"])
    greedy = dict(max_new_tokens=6, do_sample=False, eos_token_id=None)
    found = {{"logits": whole.logits, "masked": left.logits, "loss": whole.loss[None]}}
    found |= {{f"hidden{{n}}": each for n, each in enumerate(left.hidden_states)}}
    found["generated"] = model.generate(
        wanted["ids"][:, :9], attention_mask=wanted["mask"][:, :9], **greedy
    )
    # As the BabyLM pipelines fine-tune: a head of their own on the last token's state.
    body = AutoModel.from_pretrained(folder, **remote).eval()
    with torch.no_grad():
        state = body(wanted["ids"]).last_hidden_state
        assert torch.equal(state, model.base_model(wanted["ids"]).last_hidden_state)
    first, second = ["the cat runs", "an old dog sees"] * 8, ["the dog runs"] * 16
    pairs = tokenizer(first, second, padding=True, return_tensors="pt")
    labels = torch.tensor([0, 2] * 8)
    torch.manual_seed(0)
    head = torch.nn.Linear(body.config.hidden_size, 3)
    optimizer = torch.optim.AdamW([*body.parameters(), *head.parameters()], lr=1e-2)

    def loss_of(batch):
        given = {{k: v[batch] for k, v in pairs.items()}}
        states = body(**given, output_hidden_states=True).hidden_states[-1]
        rows = torch.arange(len(batch))
        last = pairs["attention_mask"][batch].sum(1) - 1
        return torch.nn.functional.cross_entropy(head(states[rows, last]), labels[batch])

    before = float(loss_of(torch.arange(16)).detach())
    for batch in torch.arange(16).split(4):  # an epoch of a task such as GLUE's
        loss_of(batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    after = float(loss_of(torch.arange(16)).detach())
    assert after < 0.9 * before, (before, after)
    writer = pipeline("text-generation", str(folder), **remote)
    (said,) = writer("the cat", max_new_tokens=2, do_sample=False)
    assert said["generated_text"].strip().startswith("the cat")
    if "{classifier}":
        torch.manual_seed(0)
        heads = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3, **remote)
        heads.train()
        shown = wanted["behind"]
        padded = wanted["ids"].where(shown != 0, model.config.pad_token_id)
        out = heads(padded, attention_mask=shown, labels=torch.tensor([0, 2, 1]))
        out.loss.backward()
        body = heads.base_model
        assert all(each.grad is not None for each in heads.parameters())
        assert all(bool(each.grad.isfinite().all()) for each in heads.parameters())
        heads.eval()
        assert torch.equal(heads(padded).logits, heads(padded, attention_mask=shown).logits)
        found["score"] = heads.score.weight.detach().clone()
        found["classes"] = heads(padded, attention_mask=shown).logits.detach()
        optimizer = torch.optim.AdamW(heads.parameters(), lr=1e-2)
        before = float(heads(**pairs, labels=labels).loss.detach())
        for batch in torch.arange(16).split(4):  # an epoch of a task such as GLUE's
            heads(**{{k: v[batch] for k, v in pairs.items()}}, labels=labels[batch]).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        assert float(heads(**pairs, labels=labels).loss.detach()) < 0.8 * before
    save_file({{name: each.contiguous() for name, each in found.items()}}, place / "found")
assert not set(sys.modules) & {absent}
"""


def write_checkpoint(config: PreTrainedConfig, folder: Path, seed: int = 0) -> None:
    """A checkpoint of a model with weights larger than a new one's, where rounding shows."""
    torch.manual_seed(seed)
    model = models.build_model(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    model.save_pretrained(folder)
    save_tokenizer(train_tokenizer(TEXT * 4, VOCAB), folder)


def inputs() -> dict[str, torch.Tensor]:
    """Ids of three texts, a mask that leaves out some before them, and one behind them."""
    ids = torch.randint(2, VOCAB, (3, TIME), generator=torch.Generator().manual_seed(1))
    mask, behind = torch.ones_like(ids), torch.ones_like(ids)
    mask[0, :4], mask[1, :1] = 0, 0
    behind[0, 20:], behind[2, 69:] = 0, 0
    return {"ids": ids, "mask": mask, "behind": behind}


def wanted_of(folder: Path) -> dict[str, torch.Tensor]:
    """What the exported model is to compute, as the project's own does."""
    model, given = models.load(folder).eval(), inputs()
    with torch.no_grad():
        masked = model(given["ids"], attention_mask=given["mask"], output_hidden_states=True)
        whole = model(given["ids"], labels=given["ids"])
        body = model.base_model(input_ids=given["ids"], use_cache=False).last_hidden_state
    wanted = {"logits": whole.logits, "masked": masked.logits, "loss": whole.loss[None]}
    wanted |= {f"hidden{n}": each for n, each in enumerate(masked.hidden_states)}
    rows = torch.arange(3)
    wanted["pooled"] = body[rows, given["behind"].sum(1) - 1]  # as in `trainables.classifier`
    wanted["generated"] = model.generate(
        given["ids"][:, :9],
        attention_mask=given["mask"][:, :9],
        max_new_tokens=6,
        do_sample=False,
        eos_token_id=None,
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    wanted["text"] = tokenizer(TEXT, padding=True, return_tensors="pt")["input_ids"]
    return wanted


def open_elsewhere(python: Path | str, folder: Path, arch: str, *places: Path) -> None:
    """Open exports in an interpreter without this project, in a folder without it."""
    code = OPENED.format(
        absent=ABSENT,
        text=TEXT,
        remote="yes" if arch in PLAIN else "",
        classifier="" if arch == "mamba" else "yes",  # transformers has none
    )
    done = subprocess.run(
        [str(python), "-I", "-c", code, *map(str, places)],
        cwd=folder,
        env={"HF_HOME": str(folder / "hub"), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def check_exports(arch: str, folder: Path, python: Path | str = sys.executable) -> None:
    """Export the tiny models of an architecture, open them in an interpreter without this project,
    and see that all is the same: logits, loss, hidden states, tokens, generated text; that the
    classifier reads the last real token, and learns from an epoch of pairs."""
    places = {variant: folder / variant for variant in CONFIGS[arch]}
    for variant, place in places.items():
        write_checkpoint(CONFIGS[arch][variant], place / "checkpoint")
        assert export.main([str(place / "checkpoint"), str(place / "exported")]) == 0
        save_file(
            {
                name: each.contiguous()
                for name, each in (inputs() | wanted_of(place / "checkpoint")).items()
            },
            place / "wanted.safetensors",
        )
    open_elsewhere(python, folder, arch, *places.values())
    for variant, place in places.items():
        wanted, found = load_file(place / "wanted.safetensors"), load_file(place / "found")
        if arch != "mamba":
            wanted["classes"] = wanted["pooled"] @ found["score"].T
        real = wanted["mask"].bool()
        assert {"logits", "masked", "loss", "hidden0", "generated"} <= found.keys()
        for name in found.keys() & wanted.keys():
            of_mask = name == "masked" or name.startswith("hidden")
            first, second = ((x[real] if of_mask else x) for x in (wanted[name], found[name]))
            assert torch.allclose(second, first, rtol=1e-5, atol=1e-5), name
        apart = float((wanted["logits"] - found["logits"]).abs().max())
        largest = float(wanted["logits"].abs().max())
        print(f"{arch} {variant}: logits of up to {largest:.1f} differ by {apart:.1e}")
