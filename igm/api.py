"""From a picture to what it shows, in three lines:

    from igm.api import load_model
    model = load_model()
    scene = model("picture.png")

It stands above the rest of the package, beside the scripts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from igm import UserError
from igm.data.images import decode_image, image_to_tensor
from igm.devices import find_device
from igm.evaluation.run import encode_images
from igm.figures import as_pil
from igm.hub import is_pipeline, resolve
from igm.inference.counting import infer_count
from igm.inference.discrete import OneOfEach, Subsets, infer_discrete
from igm.inference.pursuit import infer_pursuit, settings_of
from igm.inference.types import Inferred, Posterior
from igm.models.denoiser import Denoiser
from igm.models.stable_diffusion import StableDiffusion

Picture = str | Path | Image.Image | np.ndarray | torch.Tensor


@dataclass
class Scene:
    """What a picture shows: positions (K, 2) as (x, y) in [0, 1] of its width and height, y down; count K; confidence.

    confidence: that the count is right, or, where it was given, every position; object_confidence (K,): each position.
    """

    positions: np.ndarray
    count: int
    confidence: float
    object_confidence: np.ndarray
    error: float


@dataclass
class Labels:
    """What a picture shows: the names of its classes, or of the attributes that hold; how sure that is of all others."""

    names: list[str]
    confidence: float
    error: float


class PictureModel:
    """A trained denoiser that understands pictures; see `load_model`."""

    def __init__(self, denoiser: Denoiser):
        self.denoiser = denoiser

    def __call__(self, pictures: Picture | Sequence[Picture], *concepts: Any, **settings: Any) -> Any:
        """Infer one picture, or several together; further arguments and the result are those of `infer`.

        Args:
            pictures: a file, PIL image, array (H, W, 3) of bytes, or tensor (3, H, W) in [-1, 1]; or a list of such, or
                a tensor (B, 3, H, W), for which a list is returned.

        Raises:
            DataError: a file that is not a picture. UserError: the other arguments do not fit.
        """
        single = isinstance(pictures, str | Path | Image.Image) or getattr(pictures, "ndim", 4) == 3
        pixels = torch.stack([self.read(picture) for picture in ([pictures] if single else pictures)])  # (B, 3, R, R)
        found = self.infer(encode_images(self.denoiser, pixels), *concepts, **settings)
        return found[0] if single else found

    def infer(self, posterior: Posterior, **settings: Any) -> list:
        """One result per picture."""
        raise NotImplementedError

    def read(self, picture: Picture) -> torch.Tensor:
        """Pixels (3, R, R) in [-1, 1] of a picture, squeezed to the model's square."""
        if isinstance(picture, str | Path):
            image = decode_image(Path(picture))
        elif isinstance(picture, np.ndarray) and picture.dtype == np.uint8:
            image = Image.fromarray(picture)
        else:
            image = as_pil(picture)
        return image_to_tensor(image, self.denoiser.resolution)


class PositionModel(PictureModel):
    """Finds the objects of a scene."""

    def infer(
        self, posterior: Posterior, num_objects: int | Sequence[int] | None = None, **settings: Any
    ) -> list[Scene]:
        """Positions, and their number where it is not given.

        Args:
            num_objects: one number, or one for each picture. settings: of `infer_count` or `infer_pursuit`.
        """
        settings = settings_of(self.denoiser.meta) | settings
        if num_objects is None:
            found = infer_count(self.denoiser, posterior, **settings)
        else:
            counts = [num_objects] * len(posterior) if isinstance(num_objects, int) else list(num_objects)
            if len(counts) != len(posterior) or min(counts) < 1:
                raise UserError(
                    f"num_objects {num_objects} for {len(posterior)} pictures: one positive number for each"
                )
            found = infer_pursuit(self.denoiser, posterior, torch.tensor(counts), **settings)
        return [
            Scene(
                positions=found.conds[i, : int(k)].cpu().numpy(),
                count=int(k),
                confidence=float(found.confidence[i]),
                object_confidence=np.array(found.extra["records"]["object_confidence"][i]),
                error=float(found.error[i]),
            )
            for i, k in enumerate(found.num_concepts)
        ]


class AttributeModel(PictureModel):
    """Tells which attributes a face has."""

    def infer(self, posterior: Posterior, **settings: Any) -> list[Labels]:
        """The attributes that hold. settings: of `infer_discrete` (num_draws, confidence, seed, ...)."""
        names = self.denoiser.meta["attributes"]
        values = torch.eye(2 * len(names))
        settings = {"num_draws": 200} | settings
        found = infer_discrete(self.denoiser, posterior, values, OneOfEach([2] * len(names)), **settings)
        has = [
            [name for name, member in zip(names, chosen, strict=True) if member % 2] for chosen in found.extra["chosen"]
        ]
        return as_labels(found, has)


class PromptModel(PictureModel):
    """Tells which of some classes a picture shows, zero-shot, with a text-to-image model."""

    def infer(
        self,
        posterior: Posterior,
        classes: Sequence[str],
        num_objects: int | tuple[int, int] = 1,
        prompt: str = "a photo of a {}",
        **settings: Any,
    ) -> list[Labels]:
        """The classes shown.

        Args:
            classes: names to choose from. num_objects: how many are shown, or from how many to how many.
            settings: of `infer_discrete` (num_draws, confidence, seed, ...).
        """
        sizes = (num_objects, num_objects) if isinstance(num_objects, int) else tuple(num_objects)
        prompts = self.denoiser.encode_prompts([prompt.format(name) for name in classes])  # (M, L, D)
        meta = self.denoiser.meta
        settings = {"num_draws": 200, "batch_size": self.denoiser.rows_at_once} | settings
        settings = {"t_range": tuple(meta.get("t_range", (0, self.denoiser.num_timesteps)))} | settings
        found = infer_discrete(self.denoiser, posterior, prompts, Subsets(len(classes), sizes), **settings)
        return as_labels(found, [[classes[member] for member in chosen] for chosen in found.extra["chosen"]])


def as_labels(found: Inferred, names: list[list[str]]) -> list[Labels]:
    """Names found in each picture, with confidence and error."""
    rows = zip(names, found.confidence.tolist(), found.error.tolist(), strict=True)
    return [Labels(own, confidence, error) for own, confidence, error in rows]


def load_model(
    checkpoint: str | Path | None = None,
    device: str | torch.device | None = None,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
) -> PositionModel | AttributeModel | PromptModel:
    """A model of the kind that a checkpoint is for, on the best device there is.

    Args:
        checkpoint: a shipped model's name (`igm.hub.list_models`), a folder, or a hub id; of a trained model, or of a
            Stable Diffusion pipeline. Default: the shipped model for CLEVR.
        revision: branch, tag or commit on the hub. local_files_only: never ask the hub.

    Raises:
        ModelError: not found, or not usable. UserError: there is no such device.
    """
    device = find_device(None if device is None else str(device))
    found = resolve(checkpoint or "clevr-mini", revision, local_files_only, "checkpoint")
    hub: dict[str, Any] = {"revision": revision, "local_files_only": local_files_only}
    if is_pipeline(found):
        return PromptModel(StableDiffusion.from_pretrained(found, device=device, **hub))
    denoiser = Denoiser.from_pretrained(found, **hub).to(device)
    return (AttributeModel if denoiser.meta.get("task") == "celeba" else PositionModel)(denoiser)
