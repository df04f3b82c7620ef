"""lm-eval opens our checkpoints and scores as we do."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import models
from analysis.benchmarks import Encoder, Suite, load_suite, sequence_log_probs
from sweeps import export
from tests.agreement.conftest import Train
from tests.agreement.public_tools import LM_EVAL
from tests.agreement.remote import Remote
from tests.agreement.tools import ENVIRONMENT, ROOT
from tests.agreement.training import Checkpoint

PLAIN = ["-m", "lm_eval"]
AFTER_IMPORT = ["-c", "import models, lm_eval.__main__ as main; main.cli_evaluate()"]
TOLERANCE = 1e-3
"""Nats of a whole text."""
OF_EXPORTS = 1e-4

TASK = """
task: own_pairs
dataset_path: json
dataset_kwargs: {{data_files: {{train: {pairs}}}}}
validation_split: train
output_type: multiple_choice
doc_to_text: ""
doc_to_choice: "{{{{[sentence_good, sentence_bad]}}}}"
doc_to_target: 0
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""

Request = tuple[str, str]


def texts_of(suite: Suite) -> list[Request]:
    """Every option with its context, which is empty in minimal pairs."""
    items = (item for benchmark in suite.benchmarks for item in benchmark.items)
    return [text for item in items for text in item.texts]


def check_agreement(
    tools: Path, checkpoint: Checkpoint, texts: list[Request], batch_size: int
) -> None:
    """Our log-probability of every text is lm-eval's, both of the saved checkpoint."""
    spans = Encoder(checkpoint.tokenizer, "2024").spans(texts, [text for _, text in texts])
    ours = np.array(sequence_log_probs(models.load(checkpoint.path), spans))
    # lm-eval leaves the space in front of a text to its task.
    requests = [(context, text if context else " " + text) for context, text in texts]
    settings = {"checkpoint": str(checkpoint.path), "batch_size": batch_size}
    with Remote(tools, LM_EVAL, import_models=True, **settings) as lm_eval:
        theirs = np.array(lm_eval.call("log_probs", requests=requests))
    worst = np.abs(ours - theirs).max()
    print(f"{len(texts)} texts, greatest difference {worst:.1e} nats")
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)
    assert np.unique(ours.round(3)).size > len(set(texts)) / 4  # no constant


@pytest.mark.agreement
@pytest.mark.parametrize("arch", models.architectures())
def test_sentences_of_the_built_in_pairs(
    arch: str, trained: Train, pairs: Suite, tools: Path
) -> None:
    """Each of 4,000 sentences gets lm-eval's log-probability, from a model that has learned."""
    checkpoint = trained(arch)
    assert checkpoint.loss < 5  # nats; an untrained model has ln 2,048 = 7.6
    texts = texts_of(pairs)
    assert len(texts) >= 2000
    check_agreement(tools, checkpoint, texts, batch_size=64)


@pytest.mark.agreement
@pytest.mark.parametrize("arch", models.architectures())
def test_sentences_of_blimp(arch: str, trained: Train, shared_data: Path, tools: Path) -> None:
    """Sentences of all of BLiMP's tasks, in long tokens' pieces, get lm-eval's log-probability."""
    texts = texts_of(load_suite(shared_data / "blimp_fast", "2024"))[::9]
    assert len(texts) >= 2000
    check_agreement(tools, trained(arch), texts, batch_size=32)


@pytest.mark.agreement
@pytest.mark.parametrize("end", ["", " ", " \n\n"], ids=["bare", "space", "lines"])
@pytest.mark.parametrize("arch", models.architectures())
def test_targets_after_contexts(
    arch: str, end: str, trained: Train, built_in: Path, tools: Path
) -> None:
    """A target's log-probability after its context, as EWoK asks for it, is lm-eval's.

    Whatever white space the context ends in: all must cut at the same token.
    """
    texts = texts_of(load_suite(built_in, "2024", ["ewok"]))
    assert len(texts) >= 1000
    assert all(context and target.startswith(" ") for context, target in texts)
    texts = [(context + end, target) for context, target in texts[:: 2 if end else 1]]
    check_agreement(tools, trained(arch), texts, batch_size=16)


@pytest.mark.agreement
@pytest.mark.parametrize(
    ("arch", "start"),
    [
        ("transformer", PLAIN),
        ("mamba", PLAIN),
        *((arch, AFTER_IMPORT) for arch in models.architectures()),
    ],
    ids=lambda value: value if isinstance(value, str) else "plain" if value is PLAIN else "import",
)
def test_the_command_line(
    arch: str, start: list[str], trained: Train, pairs: Suite, tools: Path, tmp_path: Path
) -> None:
    """lm-eval's command gives our log-probabilities and our accuracy on a task of minimal pairs.

    The transformer and Mamba need nothing of ours; for all five the README's line will do.
    """
    checkpoint = trained(arch)
    check_command(tools, start, checkpoint, f"pretrained={checkpoint.path}", pairs, tmp_path)


@pytest.mark.agreement
@pytest.mark.parametrize("arch", models.architectures())
def test_the_command_line_opens_exports(
    arch: str, trained: Train, pairs: Suite, tools: Path, tmp_path: Path
) -> None:
    """lm-eval's command gives an export the trained model's log-probabilities, without us."""
    checkpoint, exported = trained(arch), tmp_path / "exported"
    assert export.main([str(checkpoint.path), str(exported)]) == 0
    model = f"pretrained={exported},trust_remote_code=True"
    check_command(tools, PLAIN, checkpoint, model, pairs, tmp_path, tolerance=OF_EXPORTS)


def check_command(
    tools: Path,
    start: list[str],
    checkpoint: Checkpoint,
    model: str,
    pairs: Suite,
    folder: Path,
    tolerance: float = TOLERANCE,
) -> None:
    """lm-eval's command, on a task of minimal pairs, gives the checkpoint's log-probabilities and
    its accuracy to the model of these arguments."""
    items = pairs.benchmarks[0].items[::80]
    rows = [dict(zip(("sentence_good", "sentence_bad"), i.options, strict=True)) for i in items]
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "own_pairs.yaml").write_text(TASK.format(pairs=file))
    command = [
        *(str(tools), *start, "--model", "hf", "--model_args", model),
        *("--tasks", "own_pairs", "--include_path", str(folder), "--device", "cpu"),
        *("--batch_size", "4", "--log_samples", "--output_path", str(folder / "out")),
    ]
    environment = {**os.environ, **ENVIRONMENT, "HF_HOME": str(folder / "cache")}
    # Where the project's folder is not, only what is installed there or imported can be found.
    place = ROOT if start is AFTER_IMPORT else folder
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    texts = [text for item in items for text in item.options]
    spans = Encoder(checkpoint.tokenizer, "2024").spans([("", text) for text in texts], texts)
    ours = np.array(sequence_log_probs(checkpoint.model, spans)).reshape(-1, 2)
    (samples,) = folder.glob("out/*/samples_*.jsonl")
    answers = [json.loads(line)["resps"] for line in samples.read_text().splitlines()]
    theirs = np.array([[float(choice[0][0]) for choice in answer] for answer in answers])
    print(f"{len(texts)} texts, greatest difference {np.abs(ours - theirs).max():.1e} nats")
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)
    (results,) = folder.glob("out/*/results_*.json")
    accuracy = json.loads(results.read_text())["results"]["own_pairs"]["acc,none"]
    assert accuracy == pytest.approx((ours[:, 0] > ours[:, 1]).mean())


def test_the_readme_gives_the_line() -> None:
    """What the README says to type is what is tested here."""
    assert f'python -c "{AFTER_IMPORT[1]}"' in (ROOT / "README.md").read_text()
