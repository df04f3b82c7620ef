"""Opens a language model of a folder or of the hub: config, tokenizer and weights, and no code."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, cached_file, logging

from models import registry
from models.registrations import restore_registrations

_BLANKS = " \u2581"
"""What vocabularies write for a space: an empty one may hold it."""
_SHARD = re.compile(r"[^/\\\0]+\.safetensors")
"""Name of a file of weights beside the index."""
_LONGEST_REASON = 200
"""Letters of an error of the library's that are shown; some list all that they know."""


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keeps the library's warnings from the lines of a command: what matters of them is an error
    here, and the rest is of generation, or of speed."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


@quietly()
def load_config(path: str | Path) -> PreTrainedConfig:
    """The config of the causal language model in the directory `path`, or on the hub under this id.

    Raises ValueError if the model's type is not known (it may bring code of its own, which is
    neither run nor asked about), or is none of a causal language model.
    """
    restore_registrations()
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except OSError:
        raise
    except ValueError as error:
        raise ValueError(
            f"{path} is of no type of model that transformers or this project knows; code that a "
            "checkpoint brings is never run"
        ) from error
    except Exception as error:
        raise ValueError(f"the config.json of {path} is not valid: {_in_a_line(error)}") from error
    kind = config.model_type
    if config.is_encoder_decoder:
        raise ValueError(
            f"{path} is an encoder-decoder (model_type {kind}): give a causal language model, "
            "which predicts each token from those before it"
        )
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise ValueError(
            f"{path} is no causal language model: transformers has none of model_type {kind}"
        )
    return config


@quietly()
def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer in the directory `path`, or on the hub under this id; runs no code of its.

    Raises ValueError if there is none: transformers would make one without a vocabulary. Also if it
    cannot be read.
    """
    restore_registrations()
    missing = f"no tokenizer in {path}: expected tokenizer.json, or the files of its vocabulary"
    folder = Path(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except OSError:
        raise
    except Exception as error:
        if folder.is_dir() and not any(folder.glob("*token*")):
            raise ValueError(missing) from error
        raise ValueError(f"the tokenizer of {path} is not valid: {_in_a_line(error)}") from error
    special = set(tokenizer.all_special_tokens)
    if not any(token.strip(_BLANKS) for token in set(tokenizer.get_vocab()) - special):
        raise ValueError(missing)
    return tokenizer


@quietly()
def load(path: str | Path) -> PreTrainedModel:
    """The model saved in the directory `path`, or on the hub under this id.

    Only safetensors are read, and no code of the checkpoint's is run.

    Raises ValueError if parameters of the model are not in the file, or of another shape:
    from_pretrained alone would go on with random ones. Also if there are more layers than the model
    has; for our own architectures if there is anything more. Also if the weights are a pickle or
    cannot be read, and see `load_config`.
    """
    config = load_config(path)
    if list(Path(path).glob("pytorch_model*.bin")) and not list(Path(path).glob("*.safetensors")):
        raise ValueError(
            f"the weights in {path} are a pickle, which can run code: save the model again with "
            "transformers, which writes model.safetensors"
        )
    _check_files(path, getattr(config, "transformers_weights", None))
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are told below
        )
    except OSError:
        raise
    except Exception as error:
        raise ValueError(
            f"transformers cannot open {path} ({config.model_type}): {_in_a_line(error)}"
        ) from error
    model, report = loaded
    if not registry.is_own(model.config):
        # Old checkpoints hold buffers that transformers has given up since: they are left out.
        known = {_any_layer(name) for name, _ in model.named_parameters()}
        more = report["unexpected_keys"]
        report["unexpected_keys"] = {name for name in more if _any_layer(name) in known}
    wrong = [
        f"{kind.replace('_', ' ')} {_some(sorted(map(str, names)))}"
        for kind, names in report.items()
        if names
    ]
    if wrong:
        raise ValueError(
            f"the checkpoint {path} does not fit its config.json, or this version of "
            f"{type(model).__name__}: {'; '.join(wrong)}"
        )
    return model


def _check_files(path: str | Path, told: str | None) -> None:
    """Check that the files of the weights are safetensors of the checkpoint: transformers opens
    whatever an index names, that of a config (`told`) before the usual one.

    Raises ValueError if another is named, or the index is not valid.
    """
    if told is not None and not _SHARD.fullmatch(str(told)):
        raise ValueError(
            f"the config.json of {path} names the weights {_in_a_line(str(told))}, and only "
            "*.safetensors beside it are opened: take out its transformers_weights"
        )
    file = cached_file(
        path,
        SAFE_WEIGHTS_INDEX_NAME,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if file is None:
        return
    try:
        index = json.loads(Path(file).read_bytes())
        names = set(index["weight_map"].values())
        wrong = sorted(name for name in names if not _SHARD.fullmatch(name))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"the {SAFE_WEIGHTS_INDEX_NAME} of {path} is not valid ({_in_a_line(error)}): save the "
            "model again with transformers, which writes it"
        ) from error
    if wrong:
        raise ValueError(
            f"the {SAFE_WEIGHTS_INDEX_NAME} of {path} names {_in_a_line(_some(wrong))}, and only "
            "*.safetensors beside it are opened, for others can run code: save the model again "
            "with transformers"
        )


def _any_layer(name: str) -> str:
    """The name of a parameter without the number of its layer."""
    return re.sub(r"\d+", "#", name)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _in_a_line(error: Exception | str) -> str:
    said = " ".join(str(error).split()) or type(error).__name__
    return said if len(said) <= _LONGEST_REASON else f"{said[:_LONGEST_REASON]}..."
