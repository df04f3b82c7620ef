"""Export a model as planned: write its folder, compare, give it its name, and push it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
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
from sweeps.findings.export import card, readdressed, show_export
from sweeps.plans.export import CARD, CONFIG, ExportPlan, plan_export
from sweeps.stored.hub import make_repo, push_folder
from trainables.corpus.tokenizer import save_tokenizer
from trainables.files import read_json, whole_folder, write_json, writing

_OF_OPENING = ("is_local", "local_files_only")
"""What transformers adds to a tokenizer's config where it was read from a folder."""


def export(args: ExportArgs) -> int:
    """Export a model, push it if asked to, and print how to open it; returns the exit status."""
    console = open_console()
    try:
        looking = showing(console, "Looking for the model", pause=QUIET_SECONDS)
        with ending_on_signals(), looking as show:
            plan = plan_export(args)
            largest = _largest_difference(plan, show)
            if args.push is not None:
                push_export(plan, args.push, show)
    except (ValueError, OSError) as error:
        return say_error(error)
    show_export(plan, largest, console)
    return 0


def _largest_difference(plan: ExportPlan, show: Callable[[str], None]) -> float | None:
    """Of an export that is written now; of one that lies there, None."""
    if not plan.is_written:
        return write_export(plan, show)
    for number, each in enumerate(plan.all.values(), start=1):
        show(f"Comparing what lies there{_place(plan, number)}")
        _check_same(each)
        file = each.target / CARD
        write_text(file, readdressed(file.read_text(encoding="utf-8"), each))
    return None


def write_export(plan: ExportPlan, show: Callable[[str], None]) -> float:
    """Write the folder of a plan, whole or not at all.

    Args:
        plan: of the export.
        show: called with what goes on.

    Returns:
        The largest difference between logits of the models and of the exported ones.

    Raises:
        ValueError: an exported model computes something else.
        OSError: it cannot be written.
    """
    with whole_folder(plan.target) as partial, writing(plan.target):
        found = [
            _write(each, partial / each.target.relative_to(plan.target), show, _place(plan, number))
            for number, each in enumerate(plan.all.values(), start=1)
        ]
    return max(found)


def _place(plan: ExportPlan, number: int) -> str:
    return f" ({number} of {len(plan.all)})" if plan.milestones else ""


def _write(plan: ExportPlan, folder: Path, show: Callable[[str], None], place: str) -> float:
    show(f"Reading the weights of the {plan.arch}{place}")
    model = models.load(plan.model)
    show(f"Writing and comparing{place}")
    model.save_pretrained(folder)
    save_tokenizer(plan.tokenizer, folder)
    _complete_config(folder, plan.arch)
    if plan.arch in PLAIN:
        write_text(folder / f"{module_name(plan.arch)}.py", joined(plan.arch))
    largest = difference(model, folder, plan.arch)
    write_text(folder / CARD, card(plan, _parameters(model), largest))
    return largest


def push_export(plan: ExportPlan, repo: str, show: Callable[[str], None]) -> None:
    """Push what was written, each milestone as a revision of its own.

    Args:
        plan: of the export.
        repo: OWNER/NAME.
        show: called with what goes on.

    Raises:
        ValueError: the hub refuses it, or cannot be reached.
    """
    for number, (revision, each) in enumerate(plan.all.items(), start=1):
        show(f"Pushing {revision} to {repo}{_place(plan, number)}")
        try:
            if each is plan:
                make_repo(repo, private=plan.args.private)
            push_folder(each.target, repo, revision)
        except ValueError as error:
            raise ValueError(
                f"{error}. The export lies in {plan.target}: the same command pushes it again, "
                "without what has arrived"
            ) from error


def _check_same(plan: ExportPlan) -> None:
    """See that an export which lies there is of the model that is asked for.

    Raises:
        ValueError: it is not, or is none.
    """
    try:
        wanted, found = (models.load(each).state_dict() for each in (plan.model, str(plan.target)))
        is_same = wanted.keys() == found.keys() and all(
            wanted[name].dtype == found[name].dtype and torch.equal(wanted[name], found[name])
            for name in wanted
        )
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{plan.target} holds no export of {plan.model}: give a DIR that is new or empty "
            f"({error})"
        ) from error
    if not is_same:
        raise ValueError(
            f"{plan.target} holds another model than {plan.model}: give a DIR that is new or empty"
        )


def _parameters(model: PreTrainedModel) -> ParamCount:
    """How many a model has; of a table that is also the head, once."""
    tables: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
    embedding = sum(each.numel() for each in {table.weight for table in tables})
    return ParamCount(embedding, sum(each.numel() for each in model.parameters()) - embedding)


def _complete_config(folder: Path, arch: str) -> None:
    """Name the classes that open the model, where transformers has none of its own; the
    tokenizer's, too, without which its pipelines have none. How files were opened here is not
    for others."""
    tokenizer = read_json(folder / "tokenizer_config.json", dict[str, Any])
    of_others = {name: each for name, each in tokenizer.items() if name not in _OF_OPENING}
    write_json(folder / "tokenizer_config.json", of_others)
    config = read_json(folder / CONFIG, dict[str, Any])
    config["architectures"] = [plain_class(arch).__name__]
    if arch in PLAIN:
        config |= {"auto_map": auto_map(arch), "tokenizer_class": tokenizer["tokenizer_class"]}
    write_json(folder / CONFIG, config)
