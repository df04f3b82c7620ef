"""Pictures of a study, drawn without a display or global state.

Every drawing function takes a data frame and returns a matplotlib `Figure`. `save` writes it as PNG
and SVG, `inline_svg` gives it as a part of an HTML page; `axis_curve` and `epoch_curve` draw and
write in one step.
"""

from analysis.plots.costs import cost_curves
from analysis.plots.curves import axis_curve, axis_figure, epoch_curve, epoch_figure
from analysis.plots.heat_map import heat_map
from analysis.plots.milestones import milestone_figure
from analysis.plots.plane import plane_figure
from analysis.plots.scores import gain_figure, leaderboard
from analysis.plots.style import STYLES, inline_svg, save

__all__ = [
    "STYLES",
    "axis_curve",
    "axis_figure",
    "cost_curves",
    "epoch_curve",
    "epoch_figure",
    "gain_figure",
    "heat_map",
    "inline_svg",
    "leaderboard",
    "milestone_figure",
    "plane_figure",
    "save",
]
