"""Tab Scene: what a picture shows, the error against the number of objects, and where one more would help."""

from html import escape
from typing import Any

import gradio as gr

from igm.figures.heat import error_overlay

from . import reading as readings
from .board import board
from .charts import error_curve
from .pictures import UNLIKE, opened, shown, spoken
from .reading import Reading

CURVE = "<h3>Denoising error against the number of objects</h3>"
HEAT = "<h3>What one more object would change</h3>"
NOTE = "Orange: one more object there would lower the error, so something is unexplained. Blue: it would raise it."
SEEKING = "at first look; the number is now judged on fresh noise."


def table(reading: Reading) -> str:
    """The objects, with how sure each word is."""
    if not hasattr(reading.scene, "objects"):
        return ""
    rows = []
    for number, own in enumerate(reading.scene.objects, start=1):
        words = []
        for name in ("size", "color", "material", "shape"):
            value = own.attributes.get(name)
            share = own.shares.get(name, {}).get(value or "", 0.0)
            words.append(f"<td>{escape(value or 'unknown')} <small>{100 * share:.0f} %</small></td>")
        x, y = own.position
        sure = "" if own.confidence is None else f"{100 * own.confidence:.0f} %"
        rows.append(f"<tr><th>{number}</th>{''.join(words)}<td>{x:.2f}, {y:.2f}</td><td>{sure}</td></tr>")
    head = "".join(f"<th>{name}</th>" for name in ("", "size", "colour", "material", "shape", "x, y", "place"))
    return f'<table class="igm-table"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def counted(number: int) -> str:
    """How many objects, in words."""
    return f"{number} object{'s' if number != 1 else ''}"


def summary(reading: Reading) -> str:
    """One line above the picture."""
    scene = reading.scene
    number = counted(scene.count)
    if scene is not reading.sought:
        text = f"<b>{number}</b>, as you said; denoising error {scene.error:.4f}"
    else:
        sure = "" if scene.confidence is None else f", {100 * scene.confidence:.0f} % sure of the number"
        text = f"<b>{number} found</b>{sure}; denoising error {scene.error:.4f}"
    truth = "" if reading.truth is None else f". The scene was drawn with {reading.truth}"
    return warned(f"{text}{truth}.", reading)


def warned(line: str, reading: Reading) -> str:
    """A line, and that the picture is unlike all that the model knows, where it is."""
    return f"{line} {UNLIKE}" if reading.scene.unlike else line


def whole(key: str, reading: Reading) -> list[Any]:
    """Everything that the tabs show of a finished reading."""
    scene, sought = reading.scene, reading.sought
    curve = ""
    if sought is not None and sought.error_by_count is not None:
        sure = scene.confidence if scene is sought else None
        curve = CURVE + error_curve(sought.error_by_count.tolist(), scene.count, sure)
    changes = reading.measured.error_map(scene.parts())
    heat = HEAT + shown(error_overlay(reading.measured.image, changes.values, changes.box), NOTE)
    boards = [readings.board_of(key, reading, editable) for editable in (False, True)]
    return [summary(reading), boards[0], table(reading), curve, heat, scene.count, boards[1]]


def first(key: str) -> list[Any]:
    """What a first look shows."""
    reading = readings.SHELF.get(key)
    line = f"<b>{counted(reading.scene.count)}</b> {SEEKING}"
    return [key, warned(line, reading), readings.board_of(key, reading, False), table(reading)]


@spoken
def upload(path: str | None) -> list[Any]:
    """A visitor's picture."""
    return first(readings.begin(opened(path)))


@spoken
def draw() -> list[Any]:
    """A random scene."""
    return first(readings.begin_drawn())


@spoken
def seek(key: str) -> list[Any]:
    """All that is to be found, the number of objects included."""
    return whole(key, readings.finish(key))


@spoken
def known(key: str, num_objects: float) -> list[Any]:
    """The same for a number of objects that is given."""
    return whole(key, readings.finish(key, int(num_objects)))


@spoken
def start() -> list[Any]:
    """What a visitor sees first."""
    key = readings.begin_example()
    return [key, *whole(key, readings.SHELF.get(key))]


def build(page: gr.Blocks, key: gr.State, edit_board: gr.HTML, heavy: dict[str, Any]) -> None:
    """The tab's parts and what they do."""
    with gr.Row(equal_height=True, elem_classes="igm-controls"):
        file = gr.UploadButton("Upload a picture", type="filepath", file_types=["image"], variant="primary", scale=1)
        random = gr.Button("Draw a scene", scale=1)
        count = gr.Slider(1, 10, value=5, step=1, label="Number of objects", scale=2, elem_id="igm-count")
        again = gr.Button("Seek the number", scale=1)
    line = gr.HTML(elem_classes="igm-line", elem_id="igm-summary")
    with gr.Row():
        with gr.Column(scale=5, min_width=380):
            shown_board = board("igm-scene")
            objects = gr.HTML(elem_id="igm-objects")
        with gr.Column(scale=4, min_width=340):
            curve = gr.HTML(elem_id="igm-curve")
            heat = gr.HTML(elem_id="igm-heat")
    everything = [line, shown_board, objects, curve, heat, count, edit_board]
    looks = [key, line, shown_board, objects]
    for event, handler, inputs, name in ((file.upload, upload, [file], "upload"), (random.click, draw, [], "draw")):
        look = event(handler, inputs, looks, api_name=name, show_progress="minimal", **heavy)
        look.success(seek, [key], everything, api_name=f"{name}_whole", show_progress="hidden", **heavy)
    again.click(seek, [key], everything, api_name="seek", show_progress="minimal", **heavy)
    count.input(
        known, [key, count], everything, api_name="known", trigger_mode="always_last", show_progress="hidden", **heavy
    )
    page.load(start, [], [key, *everything], api_name="start", show_progress="hidden")
