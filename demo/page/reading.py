"""The scenes that visitors look at: measured once each, kept on a shelf, and told to the page as plain values."""

import functools
import secrets
from dataclasses import dataclass
from typing import Any

from PIL import Image

from igm import UserError
from igm.api import PositionModel, load_model
from igm.data.synthetic.clevr import COLORS, draw_scene
from igm.editing import Edit
from igm.measured import Measured
from igm.resources import SAMPLE_IMAGES
from igm.tasks.positions import Scene

from .pictures import as_url
from .shelf import Shelf
from .turn import in_turn

MOST_OBJECTS = 12  # in a picture, on this page
DRAWN = (3, 8)  # objects of a random scene
SETTINGS: dict[str, Any] = {"max_objects": 10}  # of `igm.inference.settings.PursuitSettings`
STEPS = 30  # of the sampler where a scene is drawn again: fewer than the default, for an answer within a second
SHELF = Shelf(most=24, seconds=30 * 60)  # about 20 MB a picture


@dataclass
class Reading:
    """A measured picture, what is found in it, and what was found with the number sought.

    truth: number of objects, where the page drew the picture.
    """

    measured: Measured
    scene: Scene
    sought: Scene | None = None
    truth: int | None = None


@functools.cache
def model() -> Any:
    """The shipped model of whole scenes, and the one that draws them."""
    loaded = load_model()
    if not isinstance(loaded, PositionModel):
        raise UserError(f"the page needs a model of scenes, not a {type(loaded).__name__}")
    _ = loaded.drawer  # loaded now, and not for the first visitor who edits
    return loaded


@functools.cache
def example() -> Reading:
    """The sample scene, which every visitor sees first."""
    measured = model().measure(SAMPLE_IMAGES / "scene.png", **SETTINGS)
    scene = measured.scene()
    return Reading(measured, scene, scene)


def begin(image: Image.Image, truth: int | None = None) -> str:
    """Measure a picture and take a first look; return its key."""
    measured = model().measure(image, **SETTINGS)
    return SHELF.put(Reading(measured, measured.first_look(), truth=truth))


def begin_example() -> str:
    """A reading of one's own of the sample scene."""
    shared = example()
    return SHELF.put(Reading(shared.measured, shared.scene, shared.sought))


def begin_drawn() -> str:
    """Measure a random scene of this project's generator."""
    return begin(*draw_scene(secrets.randbelow(1 << 31), DRAWN))


def finish(key: str, num_objects: int | None = None) -> Reading:
    """The whole inference of a picture: its number of objects sought, or given."""
    reading: Reading = SHELF.get(key)
    reading.scene = reading.measured.scene(num_objects)
    if num_objects is None:
        reading.sought = reading.scene
    return reading


def board_of(key: str, reading: Reading, editable: bool) -> dict[str, Any]:
    """What the board shows (`board.js`)."""
    scene, image = reading.scene, reading.measured.image
    found = getattr(scene, "objects", None)
    sure = scene.object_confidence
    vocabulary = reading.measured.model.model.facts.vocabulary or {}
    objects = [
        {
            "position": [float(x), float(y)],
            "attributes": dict(found[number].attributes) if found else {},
            "sure": None if sure is None else float(sure[number]),
        }
        for number, (x, y) in enumerate(scene.positions)
    ]
    return {
        "key": key,
        "picture": as_url(image, 640),
        "width": image.width,
        "height": image.height,
        "objects": objects,
        "error": reading.measured.error(scene.parts()) if editable else None,
        "editable": editable,
        "most": MOST_OBJECTS,
        "vocabulary": {name: list(values) for name, values in vocabulary.items()},
        "colors": {name: f"rgb{rgb}" for name, rgb in COLORS.items()},
    }


def edited(payload: Any) -> tuple[Reading, Edit]:
    """The reading that a board's message is about, and its scene as it is to be.

    Raises:
        UserError: a message that no board sends, or of a picture that is not here any more.
    """
    if isinstance(payload, list) and len(payload) == 1:
        payload = payload[0]
    objects = payload.get("objects") if isinstance(payload, dict) else None
    if not isinstance(objects, list) or len(objects) > MOST_OBJECTS:
        raise UserError(f"Give a list of at most {MOST_OBJECTS} objects.")
    reading: Reading = SHELF.get(payload.get("key"))
    return reading, Edit(reading.measured.model, reading.measured.image, tuple(objects))


@in_turn
def price(payload: Any) -> dict[str, Any]:
    """The denoising error of an edited scene, or a sentence that says why there is none."""
    try:
        reading, edit = edited(payload)
        return {"error": reading.measured.error(edit.objects)}
    except UserError as error:
        return {"message": str(error)}


def drawn_again(payload: Any, strength: float) -> tuple[Reading, Image.Image]:
    """The picture of an edited scene, in the shape of the one that it was."""
    reading, edit = edited(payload)
    if not edit.objects:
        raise UserError("The scene is empty; add an object.")
    picture = edit.render(strength=float(strength), num_steps=STEPS)
    return reading, picture.resize(reading.measured.image.size, Image.Resampling.BICUBIC)
