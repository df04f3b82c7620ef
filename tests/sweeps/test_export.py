"""`python sweeps/export.py`: what it writes opens where this project is not, and is the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

import models
from models.standalone.joining import PLAIN
from sweeps import export
from tests.architectures import FACTS
from tests.sweeps.exported_models import CONFIGS, OPENED, TEXT, VOCAB, write_checkpoint

ABSENT = {
    *("models", "trainables", "sweeps", "analysis", "fla", "xlstm", "mamba_ssm", "causal_conv1d"),
    *("ray", "mlflow"),
}
TIME = 70
MANY = [
    pytest.param(arch, marks=[] if arch in ("xlstm", "gated_deltanet") else [pytest.mark.slow])
    for arch in CONFIGS
]


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


def open_elsewhere(folder: Path, arch: str, *places: Path) -> None:
    """Open exports in a Python without this project, in a folder without it."""
    code = OPENED.format(
        absent=ABSENT,
        text=TEXT,
        remote="yes" if arch in PLAIN else "",
        classifier="" if arch == "mamba" else "yes",  # transformers has none
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, *map(str, places)],
        cwd=folder,
        env={"HF_HOME": str(folder / "hub"), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_all_architectures_are_tried() -> None:
    assert tuple(CONFIGS) == tuple(sorted(CONFIGS, key=list(CONFIGS).index))
    assert set(CONFIGS) == set(FACTS) == set(models.architectures())


@pytest.mark.parametrize("arch", MANY)
def test_an_export_opens_without_the_project(arch: str, tmp_path: Path) -> None:
    """With the same logits, loss, hidden states, tokens and generated text; the classifier reads
    the last real token, and learns."""
    places = {variant: tmp_path / variant for variant in CONFIGS[arch]}
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
    open_elsewhere(tmp_path, arch, *places.values())
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
