"""Export a model as planned: write its folder, compare, and give it its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

import models
from analysis.errors import say_error
from analysis.signals import ending_on_signals
from analysis.terminal import open_console, showing
from analysis.whole_files import write_text
from models.registry import ParamCount
from models.standalone.checking import difference, plain_class
from models.standalone.joining import PLAIN, auto_map, joined, module_name
from sweeps.arguments import ExportArgs
from sweeps.engine.progress import QUIET_SECONDS
from sweeps.findings.export import card, show_export
from sweeps.plans.export import ExportPlan, plan_export
from trainables.corpus.tokenizer import save_tokenizer
from trainables.files import read_json, whole_folder, write_json, writing


def export(args: ExportArgs) -> int:
    """Export a model and print how to open it; returns the exit status."""
    console = open_console()
    try:
        looking = showing(console, "Looking for the model", pause=QUIET_SECONDS)
        with ending_on_signals(), looking as show:
            plan = plan_export(args)
            show(f"Reading the weights of the {plan.arch}")
            model = models.load(plan.model)
            show("Writing and comparing")
            largest = write_export(plan, model)
    except (ValueError, OSError) as error:
        return say_error(error)
    show_export(plan, largest, console)
    return 0


def write_export(plan: ExportPlan, model: PreTrainedModel) -> float:
    """Write the folder of a plan, whole or not at all.

    Returns:
        The largest difference between logits of the model and of the exported one.

    Raises:
        ValueError: the exported model computes something else.
        OSError: it cannot be written.
    """
    with whole_folder(plan.target) as partial, writing(plan.target):
        model.save_pretrained(partial)
        save_tokenizer(plan.tokenizer, partial)
        _complete_config(partial, plan.arch)
        if plan.arch in PLAIN:
            write_text(partial / f"{module_name(plan.arch)}.py", joined(plan.arch))
        largest = difference(model, partial, plan.arch)
        write_text(partial / "README.md", card(plan, _parameters(model), largest))
    return largest


def _parameters(model: PreTrainedModel) -> ParamCount:
    """How many a model has; of a table that is also the head, once."""
    tables: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
    embedding = sum(each.numel() for each in {table.weight for table in tables})
    return ParamCount(embedding, sum(each.numel() for each in model.parameters()) - embedding)


def _complete_config(folder: Path, arch: str) -> None:
    """Name the classes that open the model, where transformers has none of its own; the
    tokenizer's, too, without which its pipelines have none."""
    config = read_json(folder / "config.json", dict[str, Any])
    config["architectures"] = [plain_class(arch).__name__]
    if arch in PLAIN:
        tokenizer = read_json(folder / "tokenizer_config.json", dict[str, Any])
        config |= {"auto_map": auto_map(arch), "tokenizer_class": tokenizer["tokenizer_class"]}
    write_json(folder / "config.json", config)
