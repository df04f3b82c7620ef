"""Promote a run as planned: register its checkpoint, unless it is, and move the alias to it."""

from __future__ import annotations

from analysis.commands import record
from analysis.store import explained
from sweeps.findings.promote import Promotion
from sweeps.plans.common import keep_config
from sweeps.plans.promote import PromotionPlan


def promote(plan: PromotionPlan) -> Promotion:
    """Register what is to be registered, and move the alias; nothing if it has the checkpoint.

    A version's source is the artifact `model` that the trial logged.

    Raises:
        ValueError: MLflow refuses.
    """
    after, client = plan.held, plan.client
    if after is not None and after is plan.before:
        return Promotion(plan.before, after)
    with explained(client.tracking_uri):
        if plan.is_new_model:
            client.create_registered_model(plan.name)
        if after is None:
            after = client.create_model_version(
                plan.name,
                source=f"runs:/{plan.choice.run_id}/model",
                run_id=plan.choice.run_id,
                tags=plan.version_tags,
            )
        client.set_registered_model_alias(plan.name, plan.args.alias, str(after.version))
        taken = {"study": plan.choice.study, "run_id": plan.choice.folder.spec.hash}
        record(client, [plan.choice.run_id], plan.args, plan.storage, taken)
    keep_config(plan.storage / plan.choice.study, plan.args)
    return Promotion(plan.before, after, is_new=plan.held is None)
