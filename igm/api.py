"""From a picture to what it shows, in three lines:

    from igm.api import load_model
    model = load_model()
    scene = model("picture.png")

It stands above the rest of the package, beside the commands, and uses the same methods, settings and facts as they do.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from PIL import Image

from igm import UserError
from igm.asking import as_attributes, as_counts, as_places
from igm.devices import find_device
from igm.facts import Facts
from igm.generation import Composition, as_pictures, sample, settings_of
from igm.hub import is_pipeline, list_models, resolve
from igm.inference.loading import DenoiserLoading, PipelineLoading
from igm.inference.method import Method, encode_images, methods_of, warn_of_unlike
from igm.inference.objects import ObjectsMethod, infer_at
from igm.kinds import KINDS, FoundAgain, Kind
from igm.measured import Measured
from igm.models import ModelError
from igm.models.denoiser import Denoiser
from igm.pictures import Picture, as_batch
from igm.tasks import find_task
from igm.tasks.labels import Labels
from igm.tasks.objects import SceneObject
from igm.tasks.positions import Scene
from igm.training.publish import publish_model
from igm.wording import own_words, plain

__all__ = ["Labels", "Scene", "list_models", "load_model"]


class PictureModel:
    """A trained model that understands pictures; see `load_model`.

    Attributes:
        task: name of what a concept is.
        method: name of how it is sought.
        asks: the kinds of concepts that pictures can be asked for (`igm.kinds.KINDS`).
    """

    task: ClassVar[str]
    method: ClassVar[str]
    asks: ClassVar[tuple[str, ...]]

    def __init__(self, model: Denoiser):
        self.model = model

    def __call__(self, pictures: Picture | Iterable[Picture], *concepts: Any, **settings: Any) -> Any:
        """Infer one picture, or several together; further arguments and the result are those of `infer`.

        Args:
            pictures: a file, a PIL image, an array or a tensor (see `igm.pictures`); or a folder, or several of
                these, for which a list is returned.

        Raises:
            DataError: a file that is not a picture. UserError: the other arguments do not fit.
        """
        with own_words():
            batch = as_batch(pictures, self.model.resolution)
            if not len(batch.pixels):
                return []
            found = self.infer(batch.pixels, *concepts, **settings)
        for own, image in zip(found, batch.images, strict=True):
            self.attach(own, image)
        warn_of_unlike(sum(bool(own.unlike) for own in found), len(found))
        return found[0] if batch.single else found

    def attach(self, answer: Any, image: Image.Image) -> None:
        """Give an answer the picture that it is about."""
        answer.image = image

    def generate(
        self,
        *,
        num_images: int = 1,
        negative: Sequence[Any] = (),
        weights: Sequence[float] | None = None,
        seed: int = 0,
        **options: Any,
    ) -> list[Image.Image]:
        """Pictures of a composition of concepts.

        Args:
            negative: concepts of the same kind that shall not be there.
            weights: of the concepts, and then of the negative ones (default 1 and -0.5).
            options: the concepts, as one of positions=[(x, y)], objects=[{"position": (x, y), "color": "red"}],
                attributes=["Smiling", "-Male"] or prompts=["a photo of a cat"], whichever the model knows; the others are
                settings of `igm.generation.SamplingSettings`.

        Raises:
            UserError: concepts or settings that the model does not know.
        """
        if not isinstance(num_images, int) or isinstance(num_images, bool) or num_images < 1:
            raise UserError(f"num_images={num_images!r}: must be a whole number of at least 1")
        given = [name for name in KINDS if options.get(name) is not None]
        composition = Composition(self.kind(given), options[given[0]], negative, weights) if len(given) == 1 else None
        if composition is None:
            raise UserError(f"give one of {', '.join(f'{name}=' for name in self.asks)}, not {len(given)}")
        chosen = settings_of({"seed": seed, **{n: v for n, v in options.items() if n not in KINDS}})
        return as_pictures(sample(self.model, composition, num_images, chosen))

    def kind(self, given: Sequence[str]) -> Kind:
        """The kind of concept that is asked for.

        Raises:
            UserError: this model does not know it.
        """
        if given[0] not in self.asks:
            raise UserError(f"{given[0]}: the model is for {self.task}; give {' or '.join(self.asks)}")
        return KINDS[given[0]]

    def find_again(self, pictures: Sequence[Image.Image], **asked: Sequence[Any]) -> FoundAgain | None:
        """How many concepts, given as to `generate`, `reader` finds in generated pictures; None where no one can tell."""
        return self.kind(list(asked)).find_again(self.reader, pictures, next(iter(asked.values())))

    @functools.cached_property
    def partner(self) -> "PictureModel | None":
        """The model that its facts name beside it; None where they name none."""
        name = self.model.facts.partner
        return None if name is None else load_model(name, self.model.device)

    @property
    def reader(self) -> "PictureModel":
        """The model that finds concepts in its pictures."""
        return self

    @property
    def drawer(self) -> "PictureModel":
        """The model that draws its scenes."""
        return self.partner or self

    def infer(self, pixels: torch.Tensor, *concepts: Any, **settings: Any) -> list[Any]:
        """One answer for each picture of (B, 3, R, R) in [-1, 1]."""
        raise NotImplementedError

    @classmethod
    def from_pretrained(cls, checkpoint: str | Path, **options: Any) -> Self:
        """`load_model`, of a checkpoint of this kind.

        Raises:
            ModelError: it is of another kind, or `load_model` cannot load it.
        """
        model = load_model(checkpoint, **options)
        if not isinstance(model, cls):
            raise ModelError(f"checkpoint {checkpoint} makes a {type(model).__name__}, not a {cls.__name__}")
        return model

    def push_to_hub(self, repo: str, **options: Any) -> str:
        """Upload the model, with a card where the repository has none; return the repository's address.

        Args:
            repo: hub id; it is made where there is none.
            options: of `igm.training.publish.publish_model`: token, private, license, datasets.

        Raises:
            ModelError: it may not be written, or the hub is out of reach.
        """
        facts = dataclasses.replace(self.model.facts, codec=None, task=self.task)  # the codec is in the folder
        return publish_model(self.model, facts, repo, **options)

    def answers(
        self, pixels: torch.Tensor, settings: dict[str, Any], names: Sequence[str] = (), counts: Any = None
    ) -> list[Any]:
        """The answers of the method under some settings, as its task words them."""
        method = self.build(methods_of(self.task)[self.method], settings, names)
        found = method(pixels, counts, batch_size=method.rows_at_once)
        task = find_task(self.task)
        return [task.answer(found, row, method.names) for row in range(len(pixels))]

    def build(self, method_class: type[Method], settings: dict[str, Any], names: Sequence[str]) -> Method:
        """The method with its settings; lists may stand for tuples, and NumPy's numbers for Python's."""
        known = [own.name for own in dataclasses.fields(method_class.settings_class)]
        if unknown := sorted(settings.keys() - set(known)):
            raise UserError(f"{unknown[0]} is no setting; there are {', '.join(known)}")
        chosen = method_class.settings_class(**{name: plain(value) for name, value in settings.items()})
        method_class.check(chosen, names)
        return method_class(self.model, chosen, names)


class PositionModel(PictureModel):
    """Finds the objects of a scene."""

    task, method = "positions", "pursuit"
    asks: ClassVar[tuple[str, ...]] = ("positions",)

    def attach(self, answer: Any, image: Image.Image) -> None:
        """A scene also knows the model, so that it can be changed."""
        super().attach(answer, image)
        answer.model = self

    def infer(self, pixels: torch.Tensor, num_objects: Any = None, **settings: Any) -> list[Scene]:
        """Positions, and their number where it is not given.

        Args:
            num_objects: one number, or one for each picture. settings: of `igm.inference.settings.PursuitSettings`.
        """
        if num_objects is None:
            return self.answers(pixels, {"count": "infer", **settings})
        counts = as_counts(num_objects, len(pixels))
        return self.answers(pixels, {"count": "known", **settings}, counts=counts)

    def measure(self, picture: Picture, **settings: Any) -> Measured:
        """Measure one picture, so that every composition has its denoising error in milliseconds (`igm.measured`).

        Args:
            settings: of `igm.inference.settings.PursuitSettings`.

        Raises:
            UserError: the network is not separable, or settings that make no sense.
        """
        with own_words():
            method: Any = self.build(methods_of(self.task)[self.method], {"count": "infer", **settings}, ())
            return Measured(self, picture, method)


class ObjectModel(PositionModel):
    """Finds the objects of a scene, and tells what each is."""

    task = "objects"
    asks = ("objects", "positions")

    def find(self, picture: Picture, num_objects: int | None = None, **attributes: Any) -> list[SceneObject]:
        """Where is the red cube? The objects that are likelier than not what is asked for, the surest (to 0.001) first.

        Args:
            attributes: some of an object's, such as color="red", shape="cube", or digit=3.

        Raises:
            UserError: the model does not know such an attribute, or such a value.
        """
        attributes = as_attributes(attributes, self.model.facts.vocabulary or {})
        each = [(own, own.likely(**attributes)) for own in self(picture, num_objects).objects]
        return [own for own, sure in sorted(each, key=lambda pair: -round(pair[1], 3)) if sure >= 0.5]

    def ask(self, picture: Picture, positions: Any, **settings: Any) -> list[SceneObject]:
        """What is at (x, y)? The objects at some positions, in [0, 1] of the picture, whatever else it shows.

        Args:
            positions: (K, 2). settings: of `igm.inference.settings.PursuitSettings`.

        Raises:
            UserError: they are no positions in the picture.
        """
        places = as_places(positions)
        batch = as_batch(picture, self.model.resolution)
        method: Any = self.build(ObjectsMethod, {"count": "infer", **settings}, ())
        found = infer_at(self.model, encode_images(self.model, batch.pixels), places, method.settings)
        warn_of_unlike(sum(method.unlike(found.error) or []), 1)
        return find_task(self.task).answer(found, 0, method.names).objects


class AttributeModel(PictureModel):
    """Tells which attributes a face has."""

    task, method = "attributes", "discrete"
    asks = ("attributes",)

    def infer(self, pixels: torch.Tensor, **settings: Any) -> list[Labels]:
        """The attributes that hold. settings: of `igm.inference.settings.DiscreteSettings`."""
        return self.answers(pixels, {"num_draws": 200, **settings}, self.model.facts.attributes or ())


class PromptModel(PictureModel):
    """Tells which of some classes a picture shows, zero-shot, with a text-to-image model."""

    task, method = "classes", "igm"
    asks = ("prompts",)

    def infer(
        self,
        pixels: torch.Tensor,
        classes: Sequence[str],
        num_objects: int | tuple[int, int] = 1,
        prompt: str | Sequence[str] = "a photo of a {}",
        **settings: Any,
    ) -> list[Labels]:
        """The classes shown.

        Args:
            classes: names to choose from. num_objects: how many are shown, or from how many to how many.
            prompt: one template, or several whose predictions are averaged.
            settings: of `igm.inference.prompts.PromptSettings`.
        """
        sizes = plain(num_objects)
        sizes = sizes if isinstance(sizes, tuple) else (sizes, sizes)
        templates = (prompt,) if isinstance(prompt, str) else tuple(prompt)
        return self.answers(pixels, {"num_objects": sizes, "prompt": templates, **settings}, tuple(classes))

    def push_to_hub(self, repo: str, **options: Any) -> str:
        """Refused: a pipeline belongs to diffusers, which pushes all of its parts.

        Raises:
            UserError: always.
        """
        call = f'DiffusionPipeline.from_pretrained(checkpoint).push_to_hub("{repo}")'
        raise UserError(f"this is a Stable Diffusion pipeline, which diffusers pushes: {call}")


class DrawingModel(PictureModel):
    """Draws scenes, and finds nothing in pictures: its partner does."""

    method = "none"

    def __init__(self, model: Denoiser):
        super().__init__(model)
        self.task = find_task(model.facts.task or "positions").name  # type: ignore[misc]
        self.asks = _MODELS[self.task].asks  # type: ignore[misc]

    def infer(self, pixels: torch.Tensor, *concepts: Any, **settings: Any) -> list[Any]:
        """Refused: it was trained to draw.

        Raises:
            UserError: always.
        """
        other = self.model.facts.partner or "another"
        raise UserError(f"the model draws scenes, and finds none in pictures; load {other}")

    @property
    def reader(self) -> PictureModel:
        """Its partner.

        Raises:
            UserError: its facts name none.
        """
        if self.partner is None:
            raise UserError("the model draws scenes and names no partner that finds them; ask another's find_again")
        return self.partner

    @property
    def drawer(self) -> PictureModel:
        """Itself."""
        return self


_MODELS: dict[str, type[PictureModel]] = {c.task: c for c in (PositionModel, ObjectModel, AttributeModel, PromptModel)}


def load_model(
    checkpoint: str | Path | None = None,
    device: str | torch.device | None = None,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    token: str | None = None,
) -> PictureModel:
    """A model of the kind that a checkpoint is for, on the best device there is.

    Args:
        checkpoint: name of a shipped model (`list_models`), folder of a trained model, or hub id of one; folder or hub
            id of a Stable Diffusion pipeline. Default: the shipped model for CLEVR.
        revision: branch, tag or commit on the hub. local_files_only: never ask the hub.
        token: of the hub, for private repositories (default: that of `hf auth login`).

    Raises:
        ModelError: not found, or not usable.
    """
    with own_words():
        place = resolve(checkpoint or "clevr-scene-mini", revision, local_files_only, "checkpoint", token)
        chosen = find_device(None if device is None else str(device))
        hub: dict[str, Any] = {"revision": revision, "local_files_only": local_files_only}
        if is_pipeline(place):
            return PromptModel(PipelineLoading(**hub).load(place, chosen, "no"))
        denoiser = DenoiserLoading(**hub).load(place).to(chosen)
        return kind_of(denoiser)(denoiser)


def asks_of(place: str | Path) -> tuple[str, ...]:
    """The kinds of concepts that a checkpoint's pictures can be asked for, as far as it says so without being loaded.

    Args:
        place: of `igm.hub.resolve`.
    """
    task = "classes" if is_pipeline(place) else Facts.read(place).task
    name = find_task(task).name if task else ""
    return _MODELS[name].asks if name in _MODELS else ()


def kind_of(denoiser: Denoiser) -> type[PictureModel]:
    """The kind of model that a denoiser makes; the published code's checkpoints tell by the size of their conditions."""
    task = find_task(denoiser.facts.task or ("positions" if denoiser.cond_size == 2 else "attributes")).name
    if task not in _MODELS:
        raise UserError(f"the checkpoint is for {task}, which load_model does not know; use its own script")
    if denoiser.facts.draws:
        return DrawingModel
    trained, needed = denoiser.facts.learner, methods_of(task)[_MODELS[task].method].learner
    if trained != needed:
        raise UserError(f"the checkpoint was trained as {trained}, load_model takes {needed}; use its own script")
    return _MODELS[task]
