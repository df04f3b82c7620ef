"""How the LSTM starts."""

from __future__ import annotations

import torch

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
