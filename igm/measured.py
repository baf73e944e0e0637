"""A picture measured once under a separable network: then every composition has its denoising error in milliseconds.

The error is a quadratic form of the composition (`igm.error_form`), so that moving, adding or removing an object,
and a map of where one more would help, need no further pass of the network's trunk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from igm import UserError
from igm.error_form import gain_score
from igm.inference.counting import PursuitMethod
from igm.inference.method import encode_images
from igm.inference.objects import SceneSearch
from igm.inference.separable import SeparableSearch
from igm.inference.types import Inferred
from igm.kinds import KINDS
from igm.models.denoiser import Denoiser
from igm.pictures import Picture, as_batch
from igm.tasks import find_task
from igm.tasks.positions import Scene


@dataclass(frozen=True)
class ErrorMap:
    """By how much the denoising error changes with one more object at each place; below 0: it explains something.

    values: (rows, columns), at the middles of the cells of `box`: (left, top, right, bottom) in [0, 1] of the picture.
    """

    values: np.ndarray
    box: tuple[float, float, float, float]


class Measured:
    """One picture's statistics under the model of a scene; see `igm.api.PositionModel.measure`.

    Attributes:
        image: the picture, made smaller where it is large. search: the error form of the picture, and the search in it.
    """

    def __init__(self, model: Any, picture: Picture, method: PursuitMethod):
        denoiser: Denoiser = model.model
        if not denoiser.is_separable:
            raise UserError("the model's network is not separable: its error has no closed form; use clevr-scene-mini")
        batch = as_batch(picture, denoiser.resolution)
        if not batch.single:
            raise UserError("measure takes one picture; call it once for each")
        self.model, self.image, self.method = model, batch.images[0], method
        self.task = find_task(model.task)
        kind: type[SeparableSearch] = SceneSearch if model.task == "objects" else SeparableSearch
        with torch.no_grad():
            self.search = kind(denoiser, encode_images(denoiser, batch.pixels), method.settings)

    @torch.no_grad()
    def scene(self, num_objects: int | None = None) -> Scene:
        """What the picture shows, as `model(picture, num_objects)` says it.

        Raises:
            UserError: no positive number, or more objects than find room.
        """
        if num_objects is None:
            return self.told(self.search.with_number())
        if not isinstance(num_objects, int) or isinstance(num_objects, bool) or num_objects < 1:
            raise UserError(f"num_objects={num_objects!r}: must be a whole number of at least 1")
        return self.told(self.search.with_known(torch.tensor([num_objects])))

    @torch.no_grad()
    def first_look(self) -> Scene:
        """What `scene` says before it has judged the number of objects on fresh draws; `scene` goes on from there.

        Most numbers are those of `scene`, but nothing says how sure they and the places are.
        """
        return self.told(self.search.first_look())

    def told(self, found: Inferred) -> Scene:
        """The answer, with the picture and the model that it is about."""
        found.unlike = self.method.unlike(found.error)
        scene = self.task.answer(found, 0, self.method.names)
        scene.image, scene.model = self.image, self.model
        return scene

    @torch.no_grad()
    def error(self, objects: Sequence[dict[str, Any]]) -> float:
        """Denoising error of the picture under a composition, at its best gain, on the draws that all share.

        Args:
            objects: as `generate` takes them, and as `scene.parts()` and `edit.objects` are; none: the empty scene.

        Raises:
            UserError: an object that the model does not know.
        """
        form = self.search.form
        return float(form.error_at_best_gain(self.composed(objects)[None, None])[0])

    @torch.no_grad()
    def error_map(self, objects: Sequence[dict[str, Any]]) -> ErrorMap:
        """By how much the error changes with one more object, of unknown attributes, at each place of the search's grid.

        Args:
            objects: those that are there already, as in `error`.
        """
        form, tables = self.search.form, self.search.whole.tables
        base = self.composed(objects)  # (P, R)
        linear, quadratic = (part[0, 0] for part in form.parts(base[None, None]))
        cross = (form.times(base[None, None])[0, 0] * tables.phi).sum((1, 2))  # (M,)
        each = [part[0] for part in form.parts(tables.phi[None])]  # (M,) each; the tables' b and G are quick ones
        lower = gain_score(linear + each[0], quadratic + 2 * cross + each[1])  # (M,)
        change = gain_score(linear, quadratic) - lower  # (M,)
        xs, ys = (axis.unique() for axis in tables.conds.T)
        values = change.view(len(xs), len(ys)).T.cpu().numpy()  # (rows, columns)
        return ErrorMap(values, box_of(xs, ys))

    def composed(self, objects: Sequence[dict[str, Any]]) -> torch.Tensor:
        """m (P, R) of some objects."""
        denoiser, g = self.model.model, self.search.form.g
        KINDS["objects"].check(objects, denoiser.facts)
        if not len(objects):
            return torch.zeros_like(g[0])
        return self.search.phi(KINDS["objects"].conds(objects, denoiser).to(g)).sum(0)


def box_of(xs: torch.Tensor, ys: torch.Tensor) -> tuple[float, float, float, float]:
    """The rectangle (left, top, right, bottom) that cells around places on two regular axes fill."""
    (left, right), (top, bottom) = (
        (float(axis[0] - step / 2), float(axis[-1] + step / 2))
        for axis, step in ((own, own.diff().mean() if len(own) > 1 else own.new_zeros(())) for own in (xs, ys))
    )
    return left, top, right, bottom
