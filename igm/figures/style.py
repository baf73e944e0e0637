"""What the figures share: colours, measures, tiles, frames."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from igm.files import replace_file

# Okabe and Ito's colours, told apart by readers with any colour vision.
TRUE_COLOUR, PRED_COLOUR = "#0072B2", "#D55E00"
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3C8D", "#4D4D4D")
PANEL_COLOUR, FRAME_COLOUR, GREY = "#FAFAFA", "#9A9A9A", "#666666"

DPI = 200
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.linewidth": 0.6,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.4,
    "pdf.fonttype": 42,  # text stays text in a PDF
}


def as_pil(image: Any) -> Image.Image:
    """Turn a float array or tensor (3, H, W) in [-1, 1], or a PIL image, into an RGB PIL image.

    Raises:
        ValueError: if an array has another shape.
    """
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    array = np.asarray(image.detach().cpu() if hasattr(image, "detach") else image, dtype=np.float32)
    if array.ndim != 3 or array.shape[0] != 3:
        raise ValueError(f"an image must have shape (3, H, W), got {array.shape}")
    pixels = np.rint((np.nan_to_num(array).clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))  # (H, W, 3)


def draw_image_tile(axes: Axes, image: Image.Image | None) -> None:
    """Fill axes with an image, or say that there is none."""
    unit_square(axes)
    if image is None:
        axes.set_facecolor("#EEEEEE")
        axes.text(0.5, 0.5, "no image", ha="center", va="center", fontsize=5.5, color=GREY)
    else:
        axes.imshow(np.asarray(image), extent=(0, 1, 1, 0), aspect="auto", interpolation="lanczos")


def unit_square(axes: Axes) -> None:
    """Give axes image coordinates, [0, 1] with y down, and a thin frame without ticks."""
    axes.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=FRAME_COLOUR, linewidth=0.5)


def open_frame(axes: Axes) -> None:
    """Leave a plot its left and bottom lines only."""
    axes.spines[["top", "right"]].set_visible(False)


def sheet_title(record: Mapping[str, Any], max_characters: int = 28) -> str:
    """An image's name, shortened at its start, and its denoising error."""
    name = Path(record["image_id"]).stem if "/" in record["image_id"] else record["image_id"]
    name = name if len(name) <= max_characters else "\N{HORIZONTAL ELLIPSIS}" + name[1 - max_characters :]
    error = record.get("error")
    return name if error is None else f"{name}   error {error:.4f}"


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure; its folder is made."""
    write_picture(path, lambda temporary: figure.savefig(temporary, dpi=DPI))


def write_picture(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a picture, which replaces the file of that name, a link too; its folder is made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, write)
