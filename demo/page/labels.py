"""Tabs Faces and Animals: a bar for each alternative's error."""

import functools
import secrets
from collections.abc import Callable
from html import escape
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from igm import UserError
from igm.api import Labels, load_model
from igm.data.synthetic import animals as drawn_animals
from igm.data.synthetic.faces import draw_face, sample_face
from igm.hub import is_within_reach
from igm.models.codec import DEFAULT_MODEL

from .charts import bars
from .pictures import UNLIKE, opened, shown, spoken

FACE_DRAWS, ANIMAL_DRAWS, PIPELINE_DRAWS = 100, 40, 10
MOST_BARS, MOST_CLASSES = 8, 12
NUMBERS = {"one": (1, 1), "two": (2, 2), "one or two": (1, 2)}
FETCH = (
    f"Classes of your own need the weights of Stable Diffusion, which are not on this machine: run "
    f"<code>hf download {DEFAULT_MODEL}</code> once, and start the page again."
)


@functools.cache
def faces() -> Any:
    """The shipped model of faces."""
    return load_model("celeba-mini")


@functools.cache
def animals() -> tuple[Any, tuple[str, ...] | None]:
    """Stable Diffusion where its weights are here, else the shipped small model; and the classes that it knows, or None."""
    if is_within_reach(DEFAULT_MODEL, local_files_only=True):
        return load_model(DEFAULT_MODEL, local_files_only=True), None
    small = load_model("animals-mini")
    return small, tuple(small.model.facts.classes or ())


def named(names: list[str], none: str) -> str:
    """A composition in words."""
    return ", ".join(name.replace("_", " ").lower() for name in names) or none


def told(labels: Labels, none: str) -> list[str]:
    """The picture with the answer, and the bars."""
    sure = "" if labels.confidence is None else f" ({100 * labels.confidence:.0f} % sure)"
    strange = f"<br>{UNLIKE}" if labels.unlike else ""
    alternatives = [(named(own, none), error) for own, error in labels.alternatives[:MOST_BARS]]
    image = labels.image or Image.new("RGB", (8, 8))
    answer = escape(named(labels.names, none))  # names may be a visitor's
    return [shown(image, f"<b>{answer}</b>{sure}{strange}", 420), bars(alternatives)]


def face_of(image: Image.Image) -> list[str]:
    """What a face has."""
    return told(faces()(image, num_draws=FACE_DRAWS), "none of the three")


@spoken
def upload_face(path: str | None) -> list[str]:
    """A visitor's picture."""
    return face_of(opened(path))


@spoken
def draw_one_face() -> list[str]:
    """A face of this project's generator."""
    rng = np.random.default_rng(secrets.randbits(64))
    return face_of(draw_face(sample_face(rng, male=bool(rng.integers(2)))))


def classes_of(text: str) -> list[str]:
    """The classes that a visitor typed.

    Raises:
        UserError: too few or too many, or ones that the model does not know.
    """
    names = list(dict.fromkeys(name for name in (part.strip() for part in text.split(",")) if name))
    if not 2 <= len(names) <= MOST_CLASSES or any(len(name) > 60 for name in names):
        raise UserError(f"Give two to {MOST_CLASSES} short names, with commas between them.")
    known = animals()[1]
    unknown = [name for name in names if known is not None and name not in known]
    if unknown:
        raise UserError(f"The small model does not know {unknown[0]}; it knows {', '.join(known or ())}.")
    return names


def animals_of(image: Image.Image, text: str, number: str) -> list[str]:
    """Which classes a picture shows."""
    names = classes_of(text)
    draws = ANIMAL_DRAWS if animals()[1] is not None else PIPELINE_DRAWS
    sizes = NUMBERS.get(number, (1, 2))
    return told(animals()[0](image, names, num_objects=sizes, num_draws=draws, confidence=1.0), "none")


@spoken
def upload_animals(path: str | None, text: str, number: str) -> list[str]:
    """A visitor's picture."""
    return animals_of(opened(path), text, number)


@spoken
def draw_two_animals(text: str, number: str) -> list[str]:
    """A picture of this project's generator, of two of the classes that are asked for."""
    rng = np.random.default_rng(secrets.randbits(64))
    names = [name for name in classes_of(text) if name in drawn_animals.sprites()]
    if len(names) < 2:
        raise UserError(f"The generator draws {', '.join(drawn_animals.sprites())}; name two of them.")
    shown_ones = [names[i] for i in rng.permutation(len(names))[:2]]
    return animals_of(drawn_animals.draw_scene(shown_ones, 256, rng), text, number)


def build_tab(
    kind: str, start: str, upload: Callable, draw: Callable, inputs: list[Any], heavy: dict[str, Any]
) -> None:
    """Two buttons, the picture with its answer, and the bars."""
    with gr.Row(elem_classes="igm-controls"):
        file = gr.UploadButton("Upload a picture", type="filepath", file_types=["image"], variant="primary")
        random = gr.Button(start)
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            picture = gr.HTML(
                '<div class="igm-empty">Give a picture, or draw one.</div>', elem_id=f"igm-{kind}-picture"
            )
        with gr.Column(scale=3, min_width=360):
            gr.HTML("<h3>Denoising error of each alternative, above the best</h3>")
            chart = gr.HTML(elem_id=f"igm-{kind}-bars")
    file.upload(upload, [file, *inputs], [picture, chart], api_name=f"upload_{kind}", **heavy)
    random.click(draw, inputs, [picture, chart], api_name=f"draw_{kind}", **heavy)


def build_faces(heavy: dict[str, Any]) -> None:
    """Tab Faces."""
    gr.HTML(
        '<p class="igm-hint">Is the hair black, are there glasses, is there a smile? All eight answers are priced on the '
        f"same {FACE_DRAWS} noise draws. The shipped model was trained on drawn faces; photographs are foreign to it.</p>"
    )
    build_tab("face", "Draw a face at random", upload_face, draw_one_face, [], heavy)


def build_animals(heavy: dict[str, Any]) -> None:
    """Tab Animals."""
    known = animals()[1]
    words = "Any class that Stable Diffusion can be asked for; without a GPU a picture takes minutes."
    if known is not None:
        words = f"The small model that ships knows drawn pictures of {', '.join(known)}. {FETCH}"
    gr.HTML(f'<p class="igm-hint">{words}</p>')
    with gr.Row():
        text = gr.Textbox("cat, dog, rabbit", label="Classes, with commas between them", scale=3, max_length=400)
        number = gr.Radio(list(NUMBERS), value="one or two", label="How many the picture shows", scale=2)
    build_tab("animals", "Draw two of them", upload_animals, draw_two_animals, [text, number], heavy)
