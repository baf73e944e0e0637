"""Answers drawn on their pictures, for a person who looks at one at a time."""

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from igm.figures.style import PRED_COLOUR

LEAST_SIDE = 320  # pixels that the longer side of a drawing has at least
BLANK = (256, 256)  # where there is no picture


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
    if labels is None and confidences is not None:
        labels = [f"{100 * sure:.0f}" for sure in confidences]
    canvas = enlarged(image)
    pen, font = ImageDraw.Draw(canvas), font_for(canvas)
    arm = max(canvas.size) // 50
    for number, (x, y) in enumerate(points):
        x, y = x * canvas.width, y * canvas.height
        for width, colour in ((arm // 2 + 2, "white"), (arm // 3, PRED_COLOUR)):
            pen.line([(x - arm, y), (x + arm, y)], fill=colour, width=width)
            pen.line([(x, y - arm), (x, y + arm)], fill=colour, width=width)
        if labels is not None:
            left = x < canvas.width / 2
            place, anchor = (x + arm, y - arm) if left else (x - arm, y - arm), "lb" if left else "rb"
            pen.text(place, labels[number], PRED_COLOUR, font, anchor, stroke_width=2, stroke_fill="white")
    return canvas


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


def font_for(image: Image.Image) -> ImageFont.FreeTypeFont:
    """Pillow's own font in a size that fits a picture."""
    font = ImageFont.load_default(max(11, max(image.size) // 26))
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("this Pillow was built without FreeType")
    return font


def as_png(image: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
