"""Opens a checkpoint in the transformers of this interpreter, which may be an older one.

    python older_transformers.py CHECKPOINT TEXTS [--model]

TEXTS is a JSON list. Prints one JSON object: version, the tokenizer's class, and of each text the
encoding; with --model also the sum of the log-probabilities (nats) of its tokens but the first, and
the ids after five more tokens.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(checkpoint: str, texts: list[str], with_model: bool) -> dict[str, Any]:
    tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)
    found = {
        "version": transformers.__version__,
        "tokenizer": type(tokenizer).__name__,
        "encodings": [dict(tokenizer(text)) for text in texts],
    }
    if with_model:
        model: Any = AutoModelForCausalLM.from_pretrained(checkpoint).float().eval()
        encoded = [tokenizer(text, return_tensors="pt") for text in texts]
        found["log_probs"] = [log_prob(model, each["input_ids"]) for each in encoded]
        found["generated"] = [
            model.generate(**each, max_new_tokens=5, do_sample=False)[0].tolist()
            for each in encoded
        ]
    return found


@torch.no_grad()
def log_prob(model: Any, ids: torch.Tensor) -> float:
    log_probs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    return float(log_probs.gather(1, ids[0, 1:, None]).sum())


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], json.loads(sys.argv[2]), "--model" in sys.argv)))
