"""Changes of a real picture's scene: its picture is noised to a level, and denoised under the new composition.

The noising is that of SDEdit (Meng et al. 2022); the composition says what the denoising shall put there.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from PIL import Image

from igm import UserError
from igm.generation import Composition, as_pictures, sample, settings_of
from igm.inference.method import encode_images
from igm.kinds import KINDS, as_place
from igm.pictures import as_batch
from igm.settings import probability


@dataclass(frozen=True)
class Edit:
    """A scene that is to be: the objects as `generate` takes them, on the picture of a scene that was.

    Numbers of objects are those of the list at the time, so that they move up when one before them is removed.

    Args:
        model: of `igm.api`. image: the real picture. objects: position and attributes of each.
    """

    model: Any
    image: Image.Image
    objects: tuple[dict[str, Any], ...]

    def move(self, number: int, position: Any) -> "Edit":
        """With an object at another place (x, y)."""
        return self.changed(number, position=as_place(position))

    def recolour(self, number: int, color: str) -> "Edit":
        """With an object in another colour, where the model knows attributes."""
        return self.changed(number, color=color)

    def remove(self, number: int) -> "Edit":
        """Without an object."""
        gone = self.checked(number)
        return dataclasses.replace(self, objects=self.objects[:gone] + self.objects[gone + 1 :])

    def add(self, position: Any, **attributes: str) -> "Edit":
        """With one more object."""
        return self.checked_edit((*self.objects, {"position": as_place(position), **attributes}))

    def changed(self, number: int, **values: Any) -> "Edit":
        """With another position or other attributes of an object."""
        number = self.checked(number)
        own = {**self.objects[number], **values}
        return self.checked_edit((*self.objects[:number], own, *self.objects[number + 1 :]))

    def checked(self, number: int) -> int:
        """The number of an object from 0 on.

        Raises:
            UserError: there is none.
        """
        if not 0 <= number < len(self.objects):
            raise UserError(f"object {number}: the scene has {len(self.objects)}, numbered from 0")
        return number

    def checked_edit(self, objects: tuple[dict[str, Any], ...]) -> "Edit":
        """With other objects.

        Raises:
            UserError: one that the model does not know.
        """
        KINDS["objects"].check(objects, self.model.model.facts)
        return dataclasses.replace(self, objects=objects)

    def render(self, strength: float = 0.5, *, seed: int = 0, **settings: Any) -> Image.Image:
        """The picture of the new scene.

        Args:
            strength: in (0, 1]: share of the noise schedule that the real picture goes through. Low: nearly as it is;
                1: nothing of it is left. settings: of `igm.generation.SamplingSettings`.

        Raises:
            UserError: a strength out of range, or settings that make no sense.
        """
        if not (isinstance(strength, int | float) and probability.holds(strength)):
            raise UserError(f"strength={strength!r}: must be {probability.words}")
        chosen, denoiser = settings_of({"seed": seed, **settings}), self.model.drawer.model
        composition = Composition(KINDS["objects"], self.objects)
        posterior = encode_images(denoiser, as_batch(self.image, denoiser.resolution).pixels)
        start = posterior.mean.to(denoiser.device)
        return as_pictures(sample(denoiser, composition, 1, chosen, start=start, strength=strength))[0]


class Editable:
    """What a scene gets from here: it can be changed where it knows its picture and the model that found it."""

    def edit(self) -> Edit:
        """The scene as it is, to be changed.

        Raises:
            UserError: model or picture are not there: the scene was read from a record, or sent to another process.
        """
        model, image = getattr(self, "model", None), getattr(self, "image", None)
        if model is None or image is None:
            raise UserError("the scene has no model or no picture any more; infer its picture again")
        return Edit(model, image, tuple(self.parts()))

    def parts(self) -> list[dict[str, Any]]:
        """Its objects as `generate` takes them."""
        raise NotImplementedError

    def move(self, number: int, position: Any) -> Edit:
        """See `Edit.move`."""
        return self.edit().move(number, position)

    def remove(self, number: int) -> Edit:
        """See `Edit.remove`."""
        return self.edit().remove(number)

    def add(self, position: Any, **attributes: str) -> Edit:
        """See `Edit.add`."""
        return self.edit().add(position, **attributes)

    def recolour(self, number: int, color: str) -> Edit:
        """See `Edit.recolour`."""
        return self.edit().recolour(number, color)

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled or copied: all but the model."""
        return {**vars(self), "model": None}
