"""How the LSTM starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import models
from models import lstm
from models.lstm import LSTMLayer


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


def test_an_lstm_in_another_type_is_the_lstm() -> None:
    """What a GPU takes under autocast: float32 bitwise, bf16 within its rounding; gradients reach
    the float32 weights."""
    torch.manual_seed(0)
    layer = LSTMLayer(16, 24, dropout=0.0)
    x, past = torch.randn(3, 9, 16), tuple(torch.randn(2, 1, 3, 24))
    want, end = layer.lstm(x, past)
    same, same_end = layer.run_in(torch.float32, x, past)
    assert torch.equal(same, want)
    assert all(map(torch.equal, same_end, end))
    low, _ = layer.run_in(torch.bfloat16, x, past)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), want, rtol=0, atol=0.03)
    exact = torch.autograd.grad(want.sum(), list(layer.parameters()))
    for got, wanted in zip(
        torch.autograd.grad(low.float().sum(), list(layer.parameters())), exact, strict=True
    ):
        assert got.dtype == torch.float32
        assert (got - wanted).norm() < 0.03 * wanted.norm()


def test_without_bf16_in_onednn_autocast_computes_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on CPUs without AVX-512, where PyTorch fails; from a state as well."""
    monkeypatch.setattr(lstm, "_onednn_knows_bf16", lambda: False)
    torch.manual_seed(0)
    layer, x = LSTMLayer(8, 16, 0.0), torch.randn(2, 5, 8)
    expected, _ = layer(x, None, None, False)
    with torch.autocast("cpu", torch.bfloat16):
        first, state = layer(x[:, :3], None, None, True)
        rest, _ = layer(x[:, 3:], state, None, False)
    torch.testing.assert_close(torch.cat([first, rest], 1), expected)
