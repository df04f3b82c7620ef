"""From a study in MLflow to figures of your own.

    python docs/from_mlflow_to_a_figure.py sqlite:///runs/mlflow.db mini-mini figures/

A study is two data frames: one row for each trial (`runs.trials`), one for each trial and epoch
(`runs.epochs`). Everything in the report is made from them, and so can anything else be. This
script prints the best points, draws one of the report's figures, and one that it does not have.
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.figure import Figure

from analysis import plots, runs
from analysis.learning_rates import compare_best
from analysis.points import along, best_points
from analysis.schema.axes import LR, in_words
from analysis.store import open_store
from analysis.study import chance_of_macro, compared


def main(store: str, study: str, folder: Path) -> None:
    """Read the study, print who is best, and write two figures into the folder."""
    trials = runs.trials(store, study)
    sweep = compared(trials)  # those that differ in architecture, seed and swept axes only
    for arch, point in best_points(sweep).items():
        print(f"{arch}: best at {in_words(point)}. {compare_best(sweep, arch).sentence}")

    folder.mkdir(parents=True, exist_ok=True)
    chance = chance_of_macro(open_store(store), sweep)
    plots.save(plots.axis_figure(along(sweep, LR), chance=chance), folder, "rates")

    # Overfitting: validation loss by epoch, a line for each trial.
    epochs = runs.epochs(store, study)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for run_id, rows in epochs[epochs["run_id"].isin(sweep["run_id"])].groupby("run_id"):
        label = trials.set_index("run_id").loc[run_id, "name"]
        axes.plot(rows["epoch"], rows["bits_per_byte"], marker="o", label=label)
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation bits/byte")
    axes.legend(fontsize=7)
    plots.save(figure, folder, "epochs")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
