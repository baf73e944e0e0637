"""Tab Edit: objects are dragged, added, removed and recoloured; their price is shown at once, their picture on demand."""

from typing import Any

import gradio as gr

from . import reading as readings
from .board import board
from .pictures import shown, spoken

HELP = (
    "The number above the picture is the denoising error of the objects as they stand; no network runs while you drag. "
    "Regenerating noises the picture to the strength and denoises it under the new objects; it is as sharp as the model "
    "draws, {0} x {0} pixels."
)
TITLE = '<div class="igm-side">The scene as it stands on the left, drawn by the model</div>'
EMPTY = '<div class="igm-empty">Move an object: its picture appears here.</div>'


@spoken
def regenerate(strength: float, event: gr.EventData) -> str:
    """The picture of the scene as it stands on the board."""
    reading, picture = readings.drawn_again(getattr(event, "_data", None), strength)
    side = reading.measured.model.model.resolution
    return TITLE + shown(picture, f"Regenerated at strength {strength:.2f} from {side} x {side} pixels")


def make_board() -> gr.HTML:
    """The tab's board, made before the tabs: the other tab fills it."""
    return board("igm-edit", server_functions=[readings.price], render=False)


def build(edit_board: gr.HTML, heavy: dict[str, Any]) -> None:
    """The tab's parts and what they do."""
    with gr.Row():
        with gr.Column(scale=1, min_width=380):
            edit_board.render()
        with gr.Column(scale=1, min_width=380):
            picture = gr.HTML(TITLE + EMPTY, elem_id="igm-regenerated")
            strength = gr.Slider(
                0.3, 1.0, value=0.7, step=0.05, label="Strength", info="Low keeps the picture, 1 keeps nothing of it."
            )
    gr.HTML(f'<p class="igm-hint">{HELP.format(readings.model().model.resolution)}</p>')
    edit_board.submit(
        regenerate,
        [strength],
        picture,
        api_name="regenerate",
        trigger_mode="always_last",
        show_progress="minimal",
        **heavy,
    )
