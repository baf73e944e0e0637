"""The page as a whole: its tabs, its look, and how it is served. Nothing is asked of any other machine."""

import os

os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1")  # before Gradio is imported
os.environ.setdefault("GRADIO_SERVER_NAME", "127.0.0.1")  # a Space sets its own
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gradio as gr

from . import edit, labels, scene
from . import reading as readings
from .board import CSS
from .pictures import MOST_BYTES
from .turn import in_turn

FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Liberation Sans", "sans-serif"]
MONO = ["ui-monospace", "Consolas", "Liberation Mono", "monospace"]
THEME = gr.themes.Default(primary_hue="orange", neutral_hue="zinc", font=FONTS, font_mono=MONO)
HEAD = (
    '<div class="igm-head"><h1>Understanding a scene by denoising it</h1><p>A diffusion network denoises a picture under '
    "guesses of what it shows. The objects whose composition denoises it best are the answer.</p></div>"
)
HEAVY = {"concurrency_id": "model", "concurrency_limit": 1}  # one inference at a time; the others wait in line
LOOKS = 0.01  # seconds between looks for what was asked
KEPT = 3600  # seconds that uploaded files stay


def build() -> gr.Blocks:
    """The page, its models loaded."""
    for load in (readings.example, labels.animals):  # what the tabs are made from
        in_turn(load)()
    with gr.Blocks(title="IGM", analytics_enabled=False, delete_cache=(600, KEPT)) as page:
        key = gr.State("", time_to_live=KEPT)
        gr.HTML(HEAD)
        edit_board = edit.make_board()
        with gr.Tab("Scene"):
            scene.build(page, key, edit_board, HEAVY)
        with gr.Tab("Edit", render_children=True):
            edit.build(edit_board, HEAVY)
        with gr.Tab("Faces"):
            labels.build_faces(HEAVY)
        with gr.Tab("Animals"):
            labels.build_animals(HEAVY)
    page.queue(max_size=64)
    page._queue.sleep_when_free = LOOKS  # by itself a thousand a second, each of which stops what computes
    return page


def launch(page: gr.Blocks, **options: object) -> object:
    """Serve the page."""
    return page.launch(
        theme=THEME,
        css=CSS,
        max_file_size=MOST_BYTES,
        ssr_mode=False,
        share=False,
        footer_links=[],
        state_session_capacity=256,
        **options,
    )
