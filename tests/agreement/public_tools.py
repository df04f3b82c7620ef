"""The public tools, as the tests call them; their interpreter imports this (see `tools`)."""

from __future__ import annotations

from typing import Any

LM_EVAL = "tests.agreement.public_tools:LmEval"
PUB_QUIZ = "tests.agreement.public_tools:PubQuiz"


class LmEval:
    """The `hf` model of lm-eval, as its command makes it, on a CPU."""

    def __init__(self, checkpoint: str, batch_size: int, import_models: bool) -> None:
        """Of transformer and Mamba lm-eval opens checkpoints also without our `models`."""
        if import_models:
            import models  # noqa: F401
        from lm_eval.models.huggingface import HFLM

        self._model = HFLM(pretrained=checkpoint, device="cpu", batch_size=batch_size)

    def log_probs(self, requests: list[tuple[str, str]]) -> list[float]:
        """Log-probability (nats) of the second text of each request after the first."""
        from lm_eval.api.instance import Instance

        instances = [
            Instance("loglikelihood", {}, tuple(request), index)
            for index, request in enumerate(requests)
        ]
        answers = self._model.loglikelihood(instances, disable_tqdm=True)
        return [log_prob for log_prob, _ in answers]


class PubQuiz:
    """The evaluator of lm-pub-quiz for a causal model, with its defaults, on a CPU."""

    def __init__(self, checkpoint: str) -> None:
        from lm_pub_quiz import Evaluator

        import models  # noqa: F401

        self._evaluator = Evaluator.from_model(checkpoint, model_type="CLM", device="cpu")

    def scores(
        self, folder: str, relations: list[str], template: int | None
    ) -> dict[str, list[list[float]]]:
        """By relation: the score (nats) of every answer to every question.

        `template` is the index of one wording; None asks the first question in all wordings, then
        the second.
        """
        from lm_pub_quiz import Dataset

        dataset = Dataset.from_path(folder)
        found: dict[str, list[list[float]]] = {}
        for name in relations:
            result: Any = self._evaluator.evaluate_relation(
                dataset[name], template_index=template, batch_size=64
            )
            found[name] = result.instance_table["pll_scores"].tolist()
        return found
