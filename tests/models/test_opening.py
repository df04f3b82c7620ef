"""Checkpoints of strangers: what is opened, and what is refused, with the reason in a line."""

from __future__ import annotations

import json
import logging
import logging.handlers
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BartConfig,
    BertConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MistralConfig,
    PreTrainedConfig,
    T5Config,
    ViTConfig,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import models
from models.registrations import keep_registrations, restore_registrations

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


@pytest.mark.parametrize(
    "name", ["weights.bin", "../weights.safetensors", "/weights.safetensors", "a\\b.safetensors"]
)
def test_an_index_of_other_files_is_refused(tmp_path: Path, name: str) -> None:
    """A pickle, which transformers would open, or what lies outside of the folder."""
    LlamaForCausalLM(LlamaConfig(**TINY)).save_pretrained(tmp_path / "model")
    folder, weights = tmp_path / "model", load_file(tmp_path / "model" / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "weights.bin")
    save_file(weights, tmp_path / "weights.safetensors", {"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(
        ValueError, match=r"index\.json of .* names .*: save the model again"
    ) as error:
        models.load(folder)
    assert str(folder) in str(error.value)
    assert name in str(error.value)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": {"x": 5}}', "[" * 100_000])
def test_a_damaged_index_is_explained(tmp_path: Path, content: str) -> None:
    """In a line that names it and the folder."""
    LlamaForCausalLM(LlamaConfig(**TINY)).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "model-1.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match=rf"index\.json of {tmp_path} is not valid \(.*\): save"):
        models.load(tmp_path)


def test_an_index_of_safetensors_is_opened(tmp_path: Path) -> None:
    """As transformers writes it for large models."""
    model = LlamaForCausalLM(LlamaConfig(**TINY))
    model.save_pretrained(tmp_path, max_shard_size=2000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert torch.equal(models.load(tmp_path).lm_head.weight, model.lm_head.weight)


@pytest.mark.parametrize("name", ["own.safetensors.index.json", "../model.safetensors"])
def test_a_config_names_no_other_files(tmp_path: Path, name: str) -> None:
    """Its field for the weights' file leads to no index that is not looked at."""
    LlamaForCausalLM(LlamaConfig(**TINY)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"transformers_weights": name}))
    with pytest.raises(ValueError, match=f"names the weights {name}, and only"):
        models.load(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (T5Config(), r"is an encoder-decoder \(model_type t5\): give a causal language model"),
        (BartConfig(), "is an encoder-decoder"),
        (ViTConfig(), "is no causal language model: transformers has none of model_type vit"),
    ],
)
def test_other_kinds_of_models_are_refused_in_a_line(
    tmp_path: Path, config: PreTrainedConfig, message: str
) -> None:
    """Before weights are looked for; transformers would list all types that it knows."""
    config.save_pretrained(tmp_path)
    for open_it in (models.load_config, models.load):
        with pytest.raises(ValueError, match=message) as error:
            open_it(tmp_path)
        assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    "config", [GPT2Config(), LlamaConfig(), MambaConfig(), BertConfig(), MistralConfig()]
)
def test_a_folder_without_a_tokenizer_is_said_to_have_none(
    tmp_path: Path, config: PreTrainedConfig
) -> None:
    """transformers makes one of special tokens alone, or of nothing, for most types."""
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"no tokenizer in {tmp_path}: expected tokenizer.json"):
        models.load_tokenizer(tmp_path)


def test_a_damaged_tokenizer_is_explained(tmp_path: Path) -> None:
    """Whatever the library raises."""
    LlamaConfig().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": 5}')
    with pytest.raises(ValueError, match=f"the tokenizer of {tmp_path} is not valid: "):
        models.load_tokenizer(tmp_path)


def test_damaged_weights_are_explained(tmp_path: Path) -> None:
    """Cut off in the middle of the file's header."""
    LlamaForCausalLM(LlamaConfig(**TINY)).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(ValueError, match=rf"transformers cannot open {tmp_path} \(llama\): "):
        models.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 9}, r"does not fit .* missing keys .* and 69 more"),
        ({"vocab_size": 8}, r"does not fit .* mismatched keys .*\[16, 8\]\), .*\[8, 8\]"),
        (
            {"attn_implementation": "none"},
            r"transformers cannot open .* \(llama\): .*_implementation",
        ),
        ({"vocab_size": "many"}, "config.json of .* is not valid: .*'vocab_size' expected int"),
    ],
)
def test_a_config_of_another_model_is_explained(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    """Beside weights of one: in a line that names the folder and what is wrong, whatever the
    library raises, prints or lists."""
    LlamaForCausalLM(LlamaConfig(**TINY)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ValueError, match=message) as error:
        models.load(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def test_a_checkpoint_with_more_layers_than_its_config_is_refused(tmp_path: Path) -> None:
    """Of any architecture: a part of it would be scored in its name."""
    LlamaForCausalLM(LlamaConfig(**TINY | {"num_hidden_layers": 3})).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    with pytest.raises(ValueError, match=r"does not fit .*unexpected keys model\.layers\.2\."):
        models.load(tmp_path)


def test_what_older_versions_kept_beside_the_parameters_does_no_harm(tmp_path: Path) -> None:
    """The masks of GPT-2's attention, which were once saved."""
    model = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_embd=8, n_layer=2, n_head=2))
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    masks = {f"transformer.h.{layer}.attn.bias": torch.ones(1, 1, 4, 4) for layer in range(2)}
    save_file(tensors | masks, tmp_path / "model.safetensors", {"format": "pt"})
    assert isinstance(models.load(tmp_path), GPT2LMHeadModel)


def test_the_library_warns_of_nothing(tmp_path: Path) -> None:
    """Neither of ids that only generation has a use for, nor of kernels, nor of weights that an
    error is told of; afterwards it speaks as before."""
    sizes = {**TINY, "num_heads": 2, "head_dim": 8, "n_groups": 1, "state_size": 4}
    Mamba2ForCausalLM(Mamba2Config(**sizes, bos_token_id=99)).save_pretrained(tmp_path)
    library, told = logging.getLogger("transformers"), logging.handlers.MemoryHandler(1000)
    level = library.level
    library.addHandler(told)
    try:
        models.load(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 8}))
        with pytest.raises(ValueError, match="mismatched keys"):
            models.load(tmp_path)
    finally:
        library.removeHandler(told)
    assert [record.getMessage() for record in told.buffer] == []
    assert library.level == level


IMPORTS_FLA = """
import sys, torch, transformers, models
from pathlib import Path
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
folder, before = sys.argv[1], set(CONFIG_MAPPING)
sizes = dict(vocab_size=32, hidden_size=16, num_hidden_layers=1, state_size=4)
for name, more in (("Mamba", {}), ("Mamba2", dict(num_heads=2, head_dim=16, n_groups=1))):
    config = getattr(transformers, name + "Config")(**sizes, **more)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(f"{folder}/{name}")
for arch in ("hgrn2", "gated_deltanet"):
    config = models.build_config(arch, "mini", vocab_size=32, context=16)
    models.build_model(config).save_pretrained(f"{folder}/{arch}")
assert "fla" not in sys.modules
import fla.models
assert type(transformers.AutoConfig.for_model("mamba2")).__module__.startswith("fla")
for path in sorted(Path(folder).iterdir()):
    model = models.load(path)
    print(type(model).__module__, model(torch.arange(8)[None]).logits.shape[-1])
assert before < set(CONFIG_MAPPING)  # fla's own types stay
"""
TAKEN_OVER_BY_FLA = """
import sys
from transformers import AutoModel, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
for name in sys.argv[1].split():
    __import__(name)
import models
if sys.argv[1].startswith("models"):
    models.build_model(models.build_config("lstm", "mini", vocab_size=32, context=16))
of_fla = {kind for kind, each in CONFIG_MAPPING._extra_content.items() if "fla." in str(each)}
assert "gla" in of_fla and not of_fla & set(CONFIG_MAPPING._mapping), of_fla
theirs, ours = "bitnet mamba mamba2 llama", "babysweep_lstm babysweep_xlstm hgrn2 gated_deltanet"
for kind in f"{theirs} {ours}".split():
    config = CONFIG_MAPPING[kind]
    print(kind, config.__module__.split(".")[0], end=" ")
    for mapping in (AutoModel._model_mapping, AutoModelForCausalLM._model_mapping):
        print(mapping[config].__module__.split(".")[0] if config in mapping else "none", end=" ")
    print()
"""


@pytest.mark.slow
def test_models_that_fla_takes_over_open_as_before(tmp_path: Path) -> None:
    """transformers' Mamba2 among them, on a CPU, whoever imported fla in the meantime."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS_FLA, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        *("models.mamba", "32", "transformers.models.mamba2.modeling_mamba2", "32"),
        *("models.gated_deltanet", "32", "models.hgrn2", "32"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("order", ["fla.models models", "models fla.models"])
def test_whoever_is_imported_first(order: str) -> None:
    """Types that transformers or this project has open with their classes, in all three mappings,
    from the import on or the first model that is built."""
    done = subprocess.run(
        [sys.executable, "-c", TAKEN_OVER_BY_FLA, order],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ours = "models"
    theirs = "transformers"
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["bitnet", theirs, theirs, theirs],
        ["mamba", theirs, theirs, ours],
        ["mamba2", theirs, theirs, theirs],
        ["llama", theirs, theirs, ours],
        ["babysweep_lstm", ours, "none", ours],
        ["babysweep_xlstm", ours, "none", ours],
        ["hgrn2", ours, "none", ours],
        ["gated_deltanet", ours, "none", ours],
    ]


def test_any_library_gives_the_place_back() -> None:
    """Not fla alone: what was registered before `keep_registrations` and after it."""
    other = type("OtherConfig", (GPT2Config,), {"__module__": "elsewhere.models"})
    for keep in (keep_registrations, lambda: None):
        CONFIG_MAPPING.register("gpt2", other, exist_ok=True)
        keep()
        restore_registrations()
        assert CONFIG_MAPPING["gpt2"] is GPT2Config
