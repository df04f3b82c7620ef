"""lm-eval opens our checkpoints and scores as we do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import models
from analysis.benchmarks.protocols import Encoder
from analysis.benchmarks.scoring import sequence_log_probs
from tests.tiny_text import write_tiny_text
from trainables.checkpoint import Progress, TrialFolder
from trainables.corpus.tokenizer import BOS_ID, PAD_ID, train_tokenizer
from trainables.spec import TrialSpec

VOCAB, CONTEXT = 280, 64
PLAIN = ["-m", "lm_eval"]
AFTER_IMPORT = ["-c", "import models, lm_eval.__main__ as main; main.cli_evaluate()"]

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


def write_checkpoint(arch: str, lines: list[str], study: Path) -> tuple[Path, Any, Any]:
    """The checkpoint of a trial after a few steps, its model and its tokenizer."""
    tokenizer = train_tokenizer(lines, VOCAB)
    special = {"bos_token_id": BOS_ID, "eos_token_id": BOS_ID, "pad_token_id": PAD_ID}
    torch.manual_seed(0)
    model = models.build_model(
        models.build_config(arch, "mini", vocab_size=VOCAB, context=CONTEXT, **special)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    ids = tokenizer(lines[:100], return_tensors="pt", padding=True)["input_ids"]
    for batch in ids.split(20):
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    spec = TrialSpec(
        arch, "mini", "tiny", "", context=CONTEXT, batch_size=20, lr=3e-3, epochs=1, seed=0
    )
    folder = TrialFolder.of(study, spec)
    return folder.save(model, tokenizer, optimizer, spec, Progress(step=5)), model, tokenizer


def run_lm_eval(start: list[str], checkpoint: Path, tasks: Path, output: Path) -> None:
    command = [
        *(sys.executable, *start, "--model", "hf", "--model_args", f"pretrained={checkpoint}"),
        *("--tasks", "own_pairs", "--include_path", str(tasks), "--device", "cpu"),
        *("--batch_size", "4", "--log_samples", "--output_path", str(output)),
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(output / "cache")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "start"),
    [
        ("transformer", PLAIN),
        ("mamba", PLAIN),
        *((arch, AFTER_IMPORT) for arch in models.architectures()),
    ],
    ids=lambda value: value if isinstance(value, str) else "plain" if value is PLAIN else "import",
)
def test_lm_eval_scores_as_we_do(arch: str, start: list[str], tmp_path: Path) -> None:
    """Log-probabilities and accuracy on a task of minimal pairs are those of our own scoring.

    The transformer and Mamba need nothing of ours; for all five the README's line will do.
    """
    pytest.importorskip("lm_eval", reason="needs lm-eval: pip install '.[lm-eval]'")
    write_tiny_text(tmp_path)
    lines = (tmp_path / "talk.train").read_text().splitlines()
    checkpoint, model, tokenizer = write_checkpoint(arch, lines, tmp_path / "study")
    pairs = [(line, " ".join(reversed(line.split()))) for line in lines[:12]]
    items = tmp_path / "pairs.jsonl"
    items.write_text(
        "".join(
            json.dumps({"sentence_good": good, "sentence_bad": bad}) + "\n" for good, bad in pairs
        )
    )
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "own_pairs.yaml").write_text(TASK.format(pairs=items))

    run_lm_eval(start, checkpoint, tmp_path / "tasks", tmp_path / "out")

    # lm-eval's conventions are those of the 2024 protocol: a space in front, given BOS.
    texts = [text for pair in pairs for text in pair]
    spans = Encoder(tokenizer, "2024").texts(texts, texts)
    ours = torch.tensor(sequence_log_probs(model, spans)).view(-1, 2)
    (samples,) = tmp_path.glob("out/*/samples_*.jsonl")
    answers = [json.loads(line)["resps"] for line in samples.read_text().splitlines()]
    theirs = torch.tensor([[float(choice[0][0]) for choice in answer] for answer in answers])
    torch.testing.assert_close(theirs.double(), ours.double(), rtol=0, atol=1e-4)
    (results,) = tmp_path.glob("out/*/results_*.json")
    accuracy = json.loads(results.read_text())["results"]["own_pairs"]["acc,none"]
    assert accuracy == pytest.approx((ours[:, 0] > ours[:, 1]).double().mean().item())


def test_the_readme_gives_the_line() -> None:
    """What the README says to type is what is tested here."""
    readme = Path(__file__).resolve().parents[2] / "README.md"
    assert f'python -c "{AFTER_IMPORT[1]}"' in readme.read_text()
