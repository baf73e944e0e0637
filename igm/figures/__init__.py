"""Pictures drawn from result records and images alone; no network is needed to draw them again.

Positions are (x, y) in [0, 1] image coordinates, y down. Images are PIL images, or float arrays or tensors (3, H, W)
in [-1, 1]. `python -m igm.figures DIR` draws the figures of a results folder again.
"""

from igm.figures.animation import convergence_gif
from igm.figures.counts import confusion_matrices, error_by_count, reliability_diagrams
from igm.figures.grid import save_image_grid
from igm.figures.heat import error_overlay
from igm.figures.labels import attribute_bars, attribute_sheet, label_sheet
from igm.figures.positions import perception_curve, position_sheet
from igm.figures.style import as_pil

__all__ = [
    "as_pil",
    "attribute_bars",
    "attribute_sheet",
    "confusion_matrices",
    "convergence_gif",
    "error_by_count",
    "error_overlay",
    "label_sheet",
    "perception_curve",
    "position_sheet",
    "reliability_diagrams",
    "save_image_grid",
]
