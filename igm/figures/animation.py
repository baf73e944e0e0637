"""Positions on their way, as a GIF."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageColor, ImageDraw
from scipy.spatial import KDTree

from igm.figures.style import COLOURS, FRAME_COLOUR, GREY, PANEL_COLOUR, as_pil, write_picture

FRAMES_PER_SECOND = 15
HOLD_SECONDS = 1.5
SUPERSAMPLING = 3  # PIL draws without smoothing: draw larger, then shrink
IMAGE_COLOURS = 128  # of 256; the others are kept for markers and panel
GAP = 8  # pixels around picture and panel


def convergence_gif(
    image: Any,
    trajectory: ArrayLike,
    true_positions: ArrayLike | None,
    path: str | Path,
    best: int = 0,
    seconds: float = 4,
    size: int = 240,
) -> None:
    """Animate positions on their way: left the image with moving markers, right the panel with o and +.

    Each concept has its own colour and a faint tail; the other restarts move as grey markers on the panel. The last
    frame is held. Steps are spread evenly over the frames; there are no more frames than steps.

    Args:
        image: PIL image, or (3, H, W) in [-1, 1].
        trajectory: (T, R, K, 2), or (T, K, 2) for a single start; T steps, R restarts, K concepts.
        true_positions: (M, 2), or None without ground truth.
        path: .gif file to write; parents are created.
        best: the restart to show in colour.
        seconds: duration without the held frame.
        size: width of each half in pixels.

    Raises:
        ValueError: if the trajectory has another shape, is empty, or `best` is not one of its restarts.
    """
    trajectory = np.asarray(trajectory, dtype=float)
    if trajectory.ndim == 3:
        trajectory = trajectory[:, None]  # (T, 1, K, 2)
    if trajectory.ndim != 4 or trajectory.shape[-1] != 2 or not len(trajectory):
        raise ValueError(f"`trajectory` must have shape (T, R, K, 2) or (T, K, 2), got {trajectory.shape}")
    if not 0 <= best < trajectory.shape[1]:
        raise ValueError(f"`best` is {best}, the trajectory has {trajectory.shape[1]} restarts")
    true = np.zeros((0, 2)) if true_positions is None else np.asarray(true_positions, dtype=float).reshape(-1, 2)
    image = as_pil(image)
    picture = image.resize((size, round(size * image.height / image.width)), Image.Resampling.LANCZOS)
    steps = np.unique(np.linspace(0, len(trajectory) - 1, max(2, round(seconds * FRAMES_PER_SECOND))).astype(int))
    canvases = [_frame(picture, trajectory[: step + 1], true, best, (step + 1) / len(trajectory)) for step in steps]
    frames = _share_palette(canvases, picture)
    durations = [round(1000 * seconds / len(frames))] * (len(frames) - 1) + [round(1000 * HOLD_SECONDS)]
    # `optimize` stores only the pixels that change: a quarter of the size, a tenth for a textured picture.
    saved: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "duration": durations, "loop": 0}
    write_picture(path, lambda temporary: frames[0].save(temporary, optimize=True, **saved))


def _frame(picture: Image.Image, trajectory: np.ndarray, true: np.ndarray, best: int, progress: float) -> Image.Image:
    """One frame: `trajectory` (t, R, K, 2) up to the step shown, `progress` the share of the steps done."""
    scale, (width, height), gap = SUPERSAMPLING, picture.size, GAP
    total = (2 * width + 3 * gap, height + 3 * gap)
    canvas = Image.new("RGB", (total[0] * scale, total[1] * scale), "white")
    canvas.paste(picture.resize((width * scale, height * scale), Image.Resampling.NEAREST), (gap * scale, gap * scale))
    draw = ImageDraw.Draw(canvas, "RGBA")
    panel = (2 * gap + width, gap)
    box = [v * scale for v in (panel[0], panel[1], panel[0] + width, panel[1] + height)]
    draw.rectangle(box, fill="white", outline=FRAME_COLOUR, width=scale)

    def to_pixels(points: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
        return (np.asarray(corner) + np.asarray(points) * (width, height)) * scale

    for x, y in to_pixels(true, panel):
        radius = 7 * scale
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline="#222222", width=2 * scale)
    for restart in np.delete(trajectory[-1], best, axis=0):
        for x, y in to_pixels(restart, panel):
            _plus(draw, x, y, 4 * scale, scale, "#C4C4C4")
    for corner in ((gap, gap), panel):
        for concept in range(trajectory.shape[2]):
            track = to_pixels(trajectory[-max(2, len(trajectory) // 2) :, best, concept], corner)
            _tail(draw, track, COLOURS[concept % len(COLOURS)], scale)
        for concept, (x, y) in enumerate(to_pixels(trajectory[-1, best], corner)):
            if corner != panel:
                _plus(draw, x, y, 8 * scale, 5 * scale, "white")  # a halo, to be seen on any picture
            _plus(draw, x, y, 7 * scale, round(2.4 * scale), COLOURS[concept % len(COLOURS)])
    canvas = canvas.resize(total, Image.Resampling.BOX)
    bar = ImageDraw.Draw(canvas)
    bar.rectangle((gap, height + 2 * gap, total[0] - gap - 1, height + 2 * gap + 2), fill="#E4E4E4")
    bar.rectangle((gap, height + 2 * gap, gap + progress * (total[0] - 2 * gap - 1), height + 2 * gap + 2), fill=GREY)
    return canvas


def _plus(draw: ImageDraw.ImageDraw, x: float, y: float, arm: float, width: int, colour: str) -> None:
    half = width / 2
    draw.rectangle((x - arm, y - half, x + arm, y + half), fill=colour)
    draw.rectangle((x - half, y - arm, x + half, y + arm), fill=colour)


def _tail(draw: ImageDraw.ImageDraw, track: np.ndarray, colour: str, scale: int) -> None:
    """The way a marker came, (t, 2) pixels, fading towards its start."""
    for index, (start, end) in enumerate(zip(track[:-1], track[1:], strict=True)):
        opacity = round(190 * (index + 1) / len(track))
        draw.line([*start, *end], fill=(*ImageColor.getrgb(colour), opacity), width=2 * scale)


def _share_palette(canvases: Sequence[Image.Image], picture: Image.Image) -> list[Image.Image]:
    """Reduce the frames to one palette: the picture's colours, then those of markers and panel with their shades.

    The picture is dithered once and its pixels stay the same in all frames; dithering frame by frame would make still
    pixels flicker, and the file large. What is drawn over it takes the nearest colour.
    """
    # Maximum coverage keeps the colours of small objects, which the default gives up for shades of the background.
    palette = picture.quantize(IMAGE_COLOURS, method=Image.Quantize.MAXCOVERAGE, kmeans=3)
    quantised = picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    own = np.array(quantised.getpalette()).reshape(-1, 3)[:IMAGE_COLOURS]  # may be fewer
    mean = np.asarray(picture, dtype=float).reshape(-1, 3).mean(axis=0)
    drawn = [np.array([ImageColor.getrgb(c) for c in ("white", PANEL_COLOUR, FRAME_COLOUR, "#E4E4E4", "#C4C4C4")])]
    for colour in ("#222222", GREY, *COLOURS):
        rgb = np.array(ImageColor.getrgb(colour))
        for ground, shares in [(255, (1, 0.88, 0.75, 0.6, 0.45, 0.3, 0.15)), (mean, (0.75, 0.5, 0.3))]:
            drawn += [np.rint(ground + share * (rgb - ground))[None] for share in shares]
    colours = np.concatenate([own, *drawn]).astype(np.uint8)  # (P, 3), P <= 256
    nearest = KDTree(colours.astype(float))
    corner = (slice(GAP, GAP + picture.height), slice(GAP, GAP + picture.width))
    frames = []
    for canvas in canvases:
        pixels = np.asarray(canvas)  # (height, width, 3)
        drawn_over = (pixels != 255).any(axis=-1)
        drawn_over[corner] = (pixels[corner] != np.asarray(picture)).any(axis=-1)
        indices = np.full(drawn_over.shape, len(own), dtype=np.uint8)  # white, the first of the drawn colours
        indices[corner] = np.asarray(quantised)
        indices[drawn_over] = nearest.query(pixels[drawn_over])[1]
        frame = Image.fromarray(indices).convert("P")
        frame.putpalette(colours.ravel().tolist())
        frames.append(frame)
    return frames
