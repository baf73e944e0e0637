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

from data.images import decode_image, image_to_tensor
from igm import UserError
from igm.evaluation import encode_images
from igm.figures import as_pil
from igm.inference.counting import infer_count
from igm.inference.pursuit import infer_pursuit, settings_of
from igm.options import ROOT, best_device
from models.denoiser import Denoiser

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


class PositionModel:
    """Finds the objects in pictures with a trained denoiser; see `load_model`."""

    def __init__(self, denoiser: Denoiser):
        self.denoiser = denoiser

    def __call__(
        self, pictures: Picture | Sequence[Picture], num_objects: int | Sequence[int] | None = None, **settings: Any
    ) -> Scene | list[Scene]:
        """Infer one picture, or several together.

        Args:
            pictures: a file, PIL image, array (H, W, 3) of bytes, or tensor (3, H, W) in [-1, 1]; or a list of such, or
                a tensor (B, 3, H, W).
            num_objects: how many objects there are, if it is known: one number, or one for each picture.
            settings: of `infer_count`, or of `infer_pursuit` where the number is known (seed, num_draws, ...).

        Returns:
            a Scene, or a list of them for several pictures.

        Raises:
            DataError: a file that is not a picture. UserError: numbers and pictures do not agree.
        """
        single = isinstance(pictures, str | Path | Image.Image) or getattr(pictures, "ndim", 4) == 3
        pixels = torch.stack([self.read(picture) for picture in ([pictures] if single else pictures)])  # (B, 3, R, R)
        settings = settings_of(self.denoiser.meta) | settings
        posterior = encode_images(self.denoiser, pixels)
        if num_objects is None:
            found = infer_count(self.denoiser, posterior, **settings)
        else:
            counts = [num_objects] * len(pixels) if isinstance(num_objects, int) else list(num_objects)
            if len(counts) != len(pixels) or min(counts) < 1:
                raise UserError(
                    f"num_objects {num_objects} for {len(pixels)} pictures: give one positive number for each"
                )
            found = infer_pursuit(self.denoiser, posterior, torch.tensor(counts), **settings)
        scenes = [
            Scene(
                positions=found.conds[i, : int(k)].cpu().numpy(),
                count=int(k),
                confidence=float(found.confidence[i]),
                object_confidence=np.array(found.extra["records"]["object_confidence"][i]),
                error=float(found.error[i]),
            )
            for i, k in enumerate(found.num_concepts)
        ]
        return scenes[0] if single else scenes

    def read(self, picture: Picture) -> torch.Tensor:
        """Pixels (3, R, R) in [-1, 1] of a picture, squeezed to the model's square."""
        if isinstance(picture, str | Path):
            image = decode_image(Path(picture))
        elif isinstance(picture, np.ndarray) and picture.dtype == np.uint8:
            image = Image.fromarray(picture)
        else:
            image = as_pil(picture)
        return image_to_tensor(image, self.denoiser.resolution)


def load_model(checkpoint: str | Path | None = None, device: str | torch.device | None = None) -> PositionModel:
    """A model from a checkpoint folder or hub id; default the shipped one for CLEVR, on the best device there is.

    Raises:
        ModelError: not found, or not usable.
    """
    denoiser = Denoiser.from_pretrained(checkpoint or ROOT / "models" / "pretrained" / "clevr-mini")
    return PositionModel(denoiser.to(device or best_device()))
