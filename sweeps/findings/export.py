"""The model card of an export, of what is known and nothing else; and how to open the folder."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from huggingface_hub import HfApi
from rich.console import Console

from analysis.schema.axes import short
from analysis.terminal import say, show_whole
from analysis.wording import OVER_ITEMS, count, with_error
from models.registry import ParamCount
from models.standalone.joining import PLAIN, module_name
from sweeps.plans.export import ExportPlan, Origin
from sweeps.stored.hub import MAIN
from trainables.spec import TrialSpec

_NAMES = {
    "transformer": "a transformer in the format of Llama",
    "mamba": "Mamba (Gu & Dao 2023, arXiv 2312.00752)",
    "lstm": "an LSTM (Hochreiter & Schmidhuber 1997)",
    "xlstm": "xLSTM (Beck et al. 2024, arXiv 2405.04517)",
    "hgrn2": "HGRN2 (Qin et al. 2024, arXiv 2404.07904)",
    "gated_deltanet": "Gated DeltaNet (Yang, Kautz & Hatamizadeh 2024, arXiv 2412.06464)",
}
_FRONT = """\
---
library_name: transformers
pipeline_tag: text-generation
tags:
- babysweep
- {arch}
---
"""
_OPENING = """\
## How to open it

With `torch`, `transformers` and `safetensors`{where}:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({opened})
tokenizer = AutoTokenizer.from_pretrained({opened})
```

{code}
"""
_HERE = ", where this folder is"
_OPENED = re.compile(
    r"(from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
    r"model = AutoModelForCausalLM\.from_pretrained)\((.*)\)\n"
    r"(tokenizer = AutoTokenizer\.from_pretrained)\(\2\)$",
    re.MULTILINE,
)
_QUOTE = functools.partial(json.dumps, ensure_ascii=False)
_PLAIN = (
    "`{module}.py` beside the weights is all of the model's code, one file of PyTorch to read "
    "before you trust it. It computes what the training code computes, more slowly: `generate` "
    "keeps no state, and reads the whole text again for every token. "
    "`AutoModelForSequenceClassification` opens the model with a new head on each text's last real "
    "token."
)
_LIBRARY = "transformers has this architecture: no other code runs."


def show_export(plan: ExportPlan, difference: float | None, console: Console) -> None:
    """Print what was compared, where the export is, and how to open it.

    Args:
        plan: of the export.
        difference: of logits, of the models and the exported ones; None of an export that lay
            there.
        console: where to print.
    """
    if difference is None:
        say(console, "The export that lay there holds the same weights: it was left as it is.")
    elif plan.milestones:
        models = f"{count(len(plan.all), 'exported model')}' logits are the models'"
        say(console, f"The {models}{_within(difference)}, in float32.")
    else:
        model = f"exported {plan.arch}'s logits are the model's"
        say(console, f"The {model}{_within(difference)}, in float32.")
    show_whole(console, "Exported", str(plan.target))
    if plan.args.push is not None:
        show_whole(console, "Pushed", f"{HfApi().endpoint}/{plan.args.push}")
    if plan.milestones:
        where = "revisions" if plan.args.push else "folders in it"
        say(console, f"Milestones are {where}: {', '.join(plan.milestones)}")
    lines = [
        f"AutoModelForCausalLM.from_pretrained({_opened(each, str(each.target), repr)})"
        for each in (plan, *[*plan.milestones.values()][-1:])
    ]
    show_whole(console, "Open with", *lines)


def readdressed(text: str, plan: ExportPlan) -> str:
    """A card, which a person may have changed since, with the lines of `_OPENING` for where the
    plan pushes it to."""
    opened = _opened(plan, _name(plan), _QUOTE)
    text = _OPENED.sub(lambda found: f"{found[1]}({opened})\n{found[3]}({opened})", text, count=1)
    intro = _OPENING.partition("\n\n```")[0].format(where=_HERE)
    return text.replace(intro, intro.replace(_HERE, "")) if plan.args.push else text


def _name(plan: ExportPlan) -> str:
    """Of the folder; of a milestone's, within that of the export."""
    return "/".join(plan.target.parts[-1 if plan.revision == MAIN else -2 :])


def _opened(plan: ExportPlan, place: str, quote: Callable[[str], str]) -> str:
    """Arguments of `from_pretrained`, of model and tokenizer: where they were pushed to, else a
    place."""
    arguments = [quote(plan.args.push or place)]
    if plan.args.push is not None and plan.revision != MAIN:
        arguments.append(f"revision={quote(plan.revision)}")
    if plan.arch in PLAIN:
        arguments.append("trust_remote_code=True")  # without it the tokenizer asks, and waits
    return ", ".join(arguments)


def _within(difference: float) -> str:
    return f" to {difference:.0e}" if difference else ""


def card(plan: ExportPlan, parameters: ParamCount, difference: float) -> str:
    """The text of the model card.

    Args:
        plan: of the export.
        parameters: their number, each shared one once.
        difference: of logits, of the model and the exported one.
    """
    name, opened = _name(plan), _opened(plan, _name(plan), _QUOTE)
    code = _PLAIN.format(module=module_name(plan.arch)) if plan.arch in PLAIN else _LIBRARY
    where = "" if plan.args.push else _HERE
    opening = _OPENING.format(opened=opened, where=where, code=code)
    sections = [
        _FRONT.format(arch=plan.arch),
        f"# {name}",
        f"A causal language model: {_NAMES[plan.arch]}.",
        _list("Model", _model(plan, parameters, difference)),
        *_training(plan.origin),
        opening,
        _licence(plan.arch),
    ]
    return "\n\n".join(section.strip() for section in sections) + "\n"


def _list(title: str, lines: Iterator[str]) -> str:
    return "\n".join([f"## {title}", "", *(f"- {line}" for line in lines)])


def _model(plan: ExportPlan, parameters: ParamCount, difference: float) -> Iterator[str]:
    yield (
        f"{count(parameters.total, 'parameter')}, {parameters.non_embedding:,} of them besides "
        "embedding and head"
    )
    yield f"vocabulary: {count(plan.config.vocab_size, 'token')}"
    if plan.origin.words is not None:
        yield f"as it was after {count(plan.origin.words, 'word')} of its training, not at the end"
    if plan.origin.spec is not None:
        yield f"trained on texts of up to {count(plan.origin.spec.context, 'token')}"
    version = importlib.metadata.version("transformers")
    yield (
        f"written with transformers {version}; in float32 its logits are those of the training "
        f"code{_within(difference)}"
    )


def _training(origin: Origin) -> Iterator[str]:
    """Sections on data, recipe and results; none of what no trial of this project made."""
    if origin.spec is None:
        return
    yield _list("Data", _data(origin.spec, origin))
    yield _list("Recipe", _recipe(origin.spec))
    if results := [*_results(origin)]:
        yield _list("Results", iter(results))


def _data(spec: TrialSpec, origin: Origin) -> Iterator[str]:
    words = ""
    if origin.corpus is not None:
        trained = count(origin.corpus.train_words, "word")
        words = f": {trained} to train on, {origin.corpus.dev_words:,} to validate"
    yield f"corpus {spec.corpus or 'without a name'} (hash {spec.corpus_hash[:16]}){words}"


def _recipe(spec: TrialSpec) -> Iterator[str]:
    yield f"size {spec.size}, {count(spec.epochs, 'epoch')} planned, seed {spec.seed}"
    share = f"{spec.warmup:.3g} of all steps"
    warmup = count(spec.warmup_steps, "step") if spec.warmup_steps else share
    decay = f" (decay over the last {spec.decay:.3g})" if spec.schedule == "wsd" else ""
    yield (
        f"{spec.optimizer}, peak learning rate {short(spec.lr)}, schedule {spec.schedule}{decay}, "
        f"warm-up {warmup}"
    )
    yield (
        f"batches of {count(spec.batch_size, 'sequence')}, weight decay {spec.weight_decay:g}, "
        f"dropout {spec.dropout:g}, gradient clipped at {spec.grad_clip:g}, {spec.precision}"
    )
    if spec.teacher:
        kind = "reverse KL" if spec.reverse_kl else "KL"
        yield (
            f"distilled from {_teachers(spec)}: {kind} with weight {spec.alpha:g} at temperature "
            f"{spec.temperature:g}"
        )
    if spec.init:
        yield f"began with the weights of a model (hash {spec.init[:16]})"
    yield f"trial {spec.hash}"


def _teachers(spec: TrialSpec) -> str:
    """The teachers by their registered names; of those in folders the hashes alone."""
    hashes, names = spec.teacher.split("+"), spec.teacher_name.split("+")
    known = len(names) == len(hashes)
    return " and ".join(
        f"{names[n]} (hash {digest[:16]})"
        if known and names[n].startswith("models:/")
        else f"a model (hash {digest[:16]})"
        for n, digest in enumerate(hashes)
    )


def _results(origin: Origin) -> Iterator[str]:
    if (report := origin.report) is not None:
        yield f"epoch {report.epoch}: {report.bits_per_byte:.4f} bits/byte of the validation text"
        if report.scores is not None:
            yield f"zero-shot at this epoch: {_scores(report.scores)}"
    if (milestone := origin.milestone) is not None:
        if milestone.bits_per_byte is not None:
            yield f"{milestone.bits_per_byte:.4f} bits/byte of the validation text"
        if milestone.scores is not None:
            yield f"zero-shot: {_scores(milestone.scores)}"
    if (zero_shot := origin.final.get("zero_shot")) is not None:
        yield f"zero-shot after the sweep: {_scores(zero_shot)}"
    glue = origin.final.get("glue") or {}
    scored = {task: each["score"] for task, each in glue.items() if each.get("score") is not None}
    if scored:
        yield "fine-tuned: " + ", ".join(f"{task} {score:.1f}" for task, score in scored.items())


def _scores(scores: dict[str, Any]) -> str:
    """Figures in percent with what chance alone of the items explains."""
    figures = [
        f"{name} {with_error(score, scores['errors'][name], 1)}"
        for name, score in scores["benchmarks"].items()
    ]
    if scores["macro"] is not None:
        figures.insert(0, f"macro {with_error(scores['macro'], scores['macro_error'], 1)}")
    return f"{', '.join(figures)} (percent {OVER_ITEMS})"


def _licence(arch: str) -> str:
    code = f"`{module_name(arch)}.py` is under the MIT licence. " if arch in PLAIN else ""
    return (
        f"## Licence\n\n{code}This card names no licence of the weights: whoever publishes them "
        "chooses one, within what the licence of the training text allows."
    )
