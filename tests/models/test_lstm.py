"""How the LSTM starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import models


def test_the_lstm_starts_with_open_forget_gates_and_lively_layers() -> None:
    """Forget biases of 1, all others 0; no layer's output is much smaller than the one before."""
    config = models.build_config("lstm", "small", vocab_size=128, context=16)
    torch.manual_seed(0)
    model = models.build_model(config)
    for layer in model.model.layers:
        bias = layer.lstm.bias_ih_l0.view(4, config.hidden_size)
        assert torch.equal(bias[1], torch.ones_like(bias[1]))
        assert not bias[[0, 2, 3]].any()
        assert not layer.lstm.bias_hh_l0.any()
    with torch.no_grad():
        outputs = model(torch.randint(0, 128, (4, 16)), output_hidden_states=True).hidden_states
    sizes = [output.square().mean().sqrt().item() for output in outputs[1:]]
    assert min(sizes) > 0.8 * max(sizes), sizes


def test_a_checkpoint_with_other_parameters_is_refused(tmp_path: Path) -> None:
    """A model that would start with random weights says so instead."""
    config = models.build_config("lstm", "mini", vocab_size=64, context=16)
    models.build_model(config).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors["model.lstm.weight_ih_l0"] = tensors.pop("model.layers.0.lstm.weight_ih_l0")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="does not fit.*layers.0.lstm.weight_ih_l0"):
        models.load(tmp_path)
