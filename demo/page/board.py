"""A picture with marks that can be dragged, as a component of the page: `board.js` and `board.css`, no outside script."""

from pathlib import Path
from typing import Any

import gradio as gr

HERE = Path(__file__).parent
CSS = (HERE / "board.css").read_text() + (HERE / "page.css").read_text()
STAGE = '<div class="igm-stage"></div><div class="igm-panel"></div>'


def board(name: str, **options: Any) -> gr.HTML:
    """A board; its value is that of `reading.board_of`.

    Args:
        name: id in the page. options: of `gr.HTML`; with `server_functions=[price]` it can be edited.
    """
    above = '<div class="igm-error"></div>' if options.get("server_functions") else ""
    script = (HERE / "board.js").read_text()
    return gr.HTML(None, html_template=above + STAGE, js_on_load=script, elem_id=name, **options)
