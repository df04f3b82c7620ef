"""Checkpoints of strangers: no code of theirs runs, and no pickle is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import models

TINY = {
    **{"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8},
    **{"num_hidden_layers": 1, "num_attention_heads": 2},
}
CODE = """
from pathlib import Path
Path(__file__).with_name("was_run").touch()
from transformers import LlamaConfig as Config
"""


def stranger(folder: Path, model_type: str) -> Path:
    """A checkpoint that brings code of its own."""
    LlamaForCausalLM(LlamaConfig(**TINY)).save_pretrained(folder)
    (folder / "own.py").write_text(CODE)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": model_type, "auto_map": {"AutoConfig": "own.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_code_of_a_checkpoint_is_neither_run_nor_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a person might answer."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    folder = stranger(tmp_path, "of_my_own")
    for open_it in (models.load_config, models.load):
        with pytest.raises(ValueError, match="code that a checkpoint brings is never run"):
            open_it(folder)
    assert not list(tmp_path.rglob("was_run"))


def test_a_known_type_is_opened_without_the_code_beside_it(tmp_path: Path) -> None:
    """The library's own class serves."""
    folder = stranger(tmp_path, "llama")
    assert isinstance(models.load(folder), LlamaForCausalLM)
    assert not list(tmp_path.rglob("was_run"))


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    """With what to do; it is not opened to look inside."""
    model = LlamaForCausalLM(LlamaConfig(**TINY))
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="are a pickle, which can run code: save the model again"):
        models.load(tmp_path)
