"""The contract of a method: images in, what they show out. Paper's method, pursuit and baselines are all of this kind."""

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, TypedDict, Unpack

import torch

from igm import UserError, warn
from igm.facts import Facts
from igm.hub import is_pipeline, resolve
from igm.inference.loading import DenoiserLoading
from igm.inference.settings import SeededSettings
from igm.inference.types import Inferred, Posterior
from igm.inference.views import views_of
from igm.models.denoiser import Denoiser, check_resolution
from igm.settings import Settings

UNLIKE = 2.0  # times the usual error: a picture with more is unlike all that its model was measured on
_registered: list[type["Method"]] = []


class Batching(TypedDict):
    """How images are worked on together; results do not depend on it but for the draws that the numbers seed."""

    image_numbers: list[int] | None
    batch_size: int


class Method(ABC):
    """How the concepts of images are inferred.

    Attributes:
        name: of `--method`. task: name of the task whose concepts it infers. about: one line for the first line of a
            run. paper: how to get the paper's own method, where this is another.
        learner: what its checkpoints were trained as. run: folder of their training under --output_dir.
        shipped: name of the model that comes with the package, where there is one.
        settings_class, loading_class: what it, and the loading of its model, can be told.

    Args:
        model: as `load` gives it. settings: of `settings_class`. names: of what a concept can be, where it has names.
        precision: of the network's arithmetic: no, fp16 or bf16.
    """

    name: ClassVar[str]
    task: ClassVar[str]
    about: ClassVar[str]
    paper: ClassVar[str] = ""
    learner: ClassVar[str] = "compositional"
    run: ClassVar[str]
    shipped: ClassVar[str | None] = None
    settings_class: ClassVar[type[SeededSettings]]
    loading_class: ClassVar[type[Settings]] = DenoiserLoading

    def __init__(self, model: Any, settings: Any, names: Sequence[str] = (), precision: str = "no"):
        self.model, self.names, self.precision = model, tuple(names), precision
        self.settings = settings.for_facts(model.facts)

    @classmethod
    def check(cls, settings: Any, names: Sequence[str]) -> None:
        """Raise UserError where settings and names do not fit, before a model is loaded."""

    @classmethod
    def default_checkpoint(cls, loading: Any) -> str | None:
        """The checkpoint where nobody names one, or None: the newest of the run, or the shipped one."""
        return None

    @classmethod
    def facts_of(cls, checkpoint: str | Path, loading: Any) -> Facts:
        """What is known of a checkpoint before it is loaded; nothing, where that does not change what is inferred.

        Raises:
            ModelError: not found, or its facts are not usable.
        """
        return Facts()

    @classmethod
    @abstractmethod
    def load(cls, checkpoint: str | Path, loading: Any, device: torch.device, precision: str) -> Any:
        """The model of a checkpoint, on its device, with `facts`, `resolution`, `cond_size` and `device`.

        Raises:
            ModelError: not found, or not usable.
        """

    @classmethod
    def seeks_count(cls, settings: Any) -> bool:
        """Whether it finds the number of concepts itself, so that nobody has to give it."""
        return True

    @classmethod
    def variant(cls, settings: Any) -> str:
        """What follows the method's name in the name of a results folder."""
        return ""

    @property
    def rows_at_once(self) -> int:
        """How many network rows it takes at once where nobody says."""
        return 1024

    def check_resolution(self, resolution: int) -> None:
        """Raise ModelError where the model cannot take images of this side."""

    @abstractmethod
    def __call__(
        self,
        images: torch.Tensor,
        num_concepts: torch.Tensor | None = None,
        *,
        image_numbers: list[int] | None = None,
        batch_size: int = 1024,
    ) -> Inferred:
        """Infer images (B, 3, R, R) in [-1, 1].

        Args:
            num_concepts: (B,), where known. image_numbers: seed an image's draws, so that batches do not matter.
            batch_size: most network rows at once.
        """

    def illustrate(self, dataset: Any, group: str, folder: Path) -> list[Path]:
        """Draw what only this method can show of a dataset's images; return the files."""
        return []


class DenoiserMethod(Method):
    """A method that asks a Denoiser: images are encoded once, then `infer` sees their posterior.

    Attributes:
        measured: whether `calibrate.py` measures its errors, so that a checkpoint's `usual_error` is of them.
    """

    model: Denoiser
    measured: ClassVar[bool] = False

    @classmethod
    def facts_of(cls, checkpoint: str | Path, loading: Any) -> Facts:
        """Those of its folder."""
        place = resolve(checkpoint, loading.revision, loading.local_files_only)
        return Facts() if is_pipeline(place) else Facts.read(place)

    @classmethod
    def load(cls, checkpoint: str | Path, loading: Any, device: torch.device, precision: str) -> Denoiser:
        """The denoiser of a checkpoint, which keeps its own configs."""
        return loading.load(checkpoint).to(device)

    def check_resolution(self, resolution: int) -> None:
        """Raise ModelError where the network cannot take images of this side."""
        check_resolution(self.model.network, self.model.codec, resolution)

    def __call__(
        self,
        images: torch.Tensor,
        num_concepts: torch.Tensor | None = None,
        *,
        image_numbers: list[int] | None = None,
        batch_size: int = 1024,
    ) -> Inferred:
        """Infer images (B, 3, R, R); see `Method`."""
        self.model.precision = self.precision
        posterior = encode_images(self.model, images)
        found = self.infer(posterior, num_concepts, image_numbers=image_numbers, batch_size=batch_size)
        found.unlike = self.unlike(found.error)
        return found

    def unlike(self, error: torch.Tensor) -> list[bool] | None:
        """Which pictures, of these denoising errors (B,), are unlike all that the model was measured on, if it was."""
        facts = self.model.facts
        if not self.measured or facts.usual_error is None or self.settings.t_range != facts.t_range:
            return None
        return (error > UNLIKE * facts.usual_error).tolist()

    @abstractmethod
    def infer(
        self,
        posterior: Posterior,
        num_concepts: torch.Tensor | None,
        **batching: Unpack[Batching],
    ) -> Inferred:
        """Infer the concepts of B images from their posterior."""


def warn_of_unlike(strange: int, of: int, where: str = "", hint: str = "") -> None:
    """A line where some of the pictures are unlike all that their model was measured on (`DenoiserMethod.unlike`)."""
    if strange:
        which = "the picture is" if of == 1 else f"{strange} of {of} pictures are"
        told = f"{which} unlike all that the model was measured on, by the denoising error"
        warn(f"{where}{told}; what was found there means little{hint}")


@torch.no_grad()
def encode_images(denoiser: Denoiser, images: torch.Tensor) -> Posterior:
    """The posterior of images (B, 3, R, R), on the denoiser's device; in two views where the network is separable."""
    images = images.to(denoiser.device)
    posterior = Posterior(*denoiser.encode(images))
    if denoiser.is_separable:
        views = views_of(posterior.mean.shape[-1], bool(denoiser.facts.mirrored))[1:]
        posterior.others = tuple(Posterior(*denoiser.encode(view.images(images)), view) for view in views)
    return posterior


def register(method: type[Method]) -> type[Method]:
    """Make a method known by its name to the commands of its task; a class decorator."""
    _registered.append(method)
    return method


def methods_of(task: str) -> dict[str, type[Method]]:
    """The methods of a task by name; a new file under `igm.inference` or `igm.baselines` is found by itself."""
    for name in ("igm.inference", "igm.baselines"):
        for module in pkgutil.iter_modules(importlib.import_module(name).__path__):
            importlib.import_module(f"{name}.{module.name}")
    return {method.name: method for method in _registered if method.task == task}


def check_counts(num_concepts: torch.Tensor | None) -> torch.Tensor:
    """The known numbers of concepts (B,).

    Raises:
        UserError: nobody gave them.
    """
    if num_concepts is None:
        raise UserError("nobody knows the number of objects; give --num_objects K, or --count infer")
    return num_concepts
