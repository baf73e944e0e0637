"""Answers drawn on their pictures, for a person who looks at one at a time."""

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from igm.figures.style import PRED_COLOUR

LEAST_SIDE = 320  # pixels that the longer side of a drawing has at least
BLANK = (256, 256)  # where there is no picture
STROKE = 2  # pixels around letters
ROWS = ((-1, "b"), (1, "t"), (0, "m"))  # of labels: above the point, below it, beside it; with Pillow's anchors


def draw_points(
    image: Image.Image | None,
    points: Sequence[Sequence[float]],
    confidences: Sequence[float] | None = None,
    labels: Sequence[str] | None = None,
) -> Image.Image:
    """A copy of a picture with a cross at each point, and beside it a label, or else how sure the point is, in %.

    Args:
        image: None for an empty square. points: (x, y) in [0, 1] of width and height. confidences: in [0, 1].
    """
    canvas = enlarged(image)
    pen, font = ImageDraw.Draw(canvas), font_for(canvas, 26 if labels is None else 34)  # words are longer than numbers
    if labels is None and confidences is not None:
        labels = [f"{100 * sure:.0f}" for sure in confidences]
    arm = max(canvas.size) // 50
    places = [(x * canvas.width, y * canvas.height) for x, y in points]
    for x, y in places:
        for width, colour in ((arm // 2 + 2, "white"), (arm // 3, PRED_COLOUR)):
            pen.line([(x - arm, y), (x + arm, y)], fill=colour, width=width)
            pen.line([(x, y - arm), (x, y + arm)], fill=colour, width=width)
    taken: list[Box] = [(x - arm, y - arm, x + arm, y + arm) for x, y in places]
    for (x, y), label in zip(places, labels or [], strict=bool(labels)):
        place, anchor = free_place(pen, font, label, (x, y), arm, taken)
        pen.text(place, label, PRED_COLOUR, font, anchor, stroke_width=STROKE, stroke_fill="white")
        taken.append(pen.textbbox(place, label, font, anchor, stroke_width=STROKE))
    return canvas


Box = tuple[float, float, float, float]  # left, top, right, bottom


def free_place(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont,
    label: str,
    point: tuple[float, float],
    arm: int,
    taken: Sequence[Box],
) -> tuple[tuple[float, float], str]:
    """Where a label beside a point covers least of what is there: its place and anchor, as Pillow takes them.

    Towards the middle of the picture is tried first. What lies outside of the picture counts as covered.
    """
    (width, height), (x, y) = pen.im.size, point
    sides = (1, -1) if x < width / 2 else (-1, 1)
    tried = [((x + side * arm, y + d * arm), ("l" if side > 0 else "r") + v) for d, v in ROWS for side in sides]
    tried += [((x, y + 2 * d * arm), "m" + v) for d, v in ROWS if d]
    around = [(-width, -height, 0, 2 * height), (width, -height, 2 * width, 2 * height)]
    around += [(-width, -height, 2 * width, 0), (-width, height, 2 * width, 2 * height)]

    def covered(own: tuple[tuple[float, float], str]) -> float:
        box = pen.textbbox(own[0], label, font, own[1], stroke_width=STROKE)
        return sum(overlap(box, other) for other in (*taken, *around))

    return min(tried, key=covered)  # of equal ones the first


def overlap(one: Box, other: Box) -> float:
    """Area that two boxes share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def draw_caption(image: Image.Image | None, text: str) -> Image.Image:
    """A copy of a picture with a line of text below it."""
    picture = enlarged(image)
    font = font_for(picture)
    canvas = Image.new("RGB", (picture.width, picture.height + 2 * int(font.size)), "white")
    canvas.paste(picture)
    middle = (canvas.width / 2, picture.height + font.size)
    ImageDraw.Draw(canvas).text(middle, text, fill="black", font=font, anchor="mm")
    return canvas


def enlarged(image: Image.Image | None) -> Image.Image:
    """A copy that is large enough to be drawn on."""
    image = Image.new("RGB", BLANK, "#E8E8E8") if image is None else image.convert("RGB")
    factor = max(1, -(-LEAST_SIDE // max(image.size)))
    return image.resize((factor * image.width, factor * image.height), Image.Resampling.BICUBIC)


def font_for(image: Image.Image, lines: int = 26) -> ImageFont.FreeTypeFont:
    """Pillow's own font in a size that fits a picture: so many lines in a square."""
    font = ImageFont.load_default(max(11, max(image.size) // lines))
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("this Pillow was built without FreeType")
    return font


def as_png(image: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
