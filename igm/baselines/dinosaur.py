"""DINOSAUR (Seitzer et al. 2023, arXiv 2209.14860): Slot Attention on features of a frozen self-supervised ViT.

The slots reconstruct the features, as the authors'; a head, trained beside that, reads positions and presences off them.
"""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel

from igm.baselines.frozen_slots import Backbone, FrozenLearner, FrozenMethod
from igm.baselines.pixels import NO_DIFFUSION, PixelLoading
from igm.baselines.set_prediction import ObjectSets
from igm.hub import find_repository, local_path
from igm.inference.method import register
from igm.models import ModelError
from igm.models.configs import one_line
from igm.resources import CONFIGS
from igm.settings import setting
from igm.training.settings import ModelSettings

DEFAULT_BACKBONE = "facebook/dino-vitb16"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # DINO's, where its folder says nothing


class VisionTransformer(Backbone):
    """A ViT of transformers; its features are the last layer's patch tokens.

    Args:
        vit: takes `pixel_values`, gives `last_hidden_state` (B, 1 + N, F), patches last.
        mean, std: of each channel, for pixels in [0, 1].
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, name: str, vit: Any, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD):
        super().__init__(name)
        self.vit: Any = vit
        for title, values in (("mean", mean), ("std", std)):
            self.register_buffer(title, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features (B, H, W, F) of images (B, 3, R, R) in [-1, 1], R a multiple of the patches' side."""
        pixels = ((images + 1) / 2 - self.mean) / self.std
        side = images.shape[-1] // self.vit.config.patch_size
        tokens = self.vit(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state
        return tokens[:, -side * side :].unflatten(1, (side, side))


def load_vit(name: str, revision: str | None = None, local_files_only: bool = False) -> VisionTransformer:
    """A frozen ViT from a folder or the hub, safetensors only.

    Raises:
        ModelError: it is out of reach, or not usable; one line with the mend.
    """
    folder = local_path(name)
    if folder is None:
        folder = find_repository(name, revision, local_files_only, "--backbone").fetch((".",), "--backbone")
    try:
        vit, about = AutoModel.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except Exception as error:  # transformers raises many kinds for folders that hold something else
        raise ModelError(
            f"--backbone {name} is no ViT that transformers reads from safetensors ({one_line(error)[:120]}); name "
            "another, or save it once by save_pretrained"
        ) from None
    missing = [key for key in about["missing_keys"] if not key.startswith("pooler.")]
    if missing or not hasattr(vit.config, "patch_size"):
        fault = f"lacks the tensor {missing[0]}" if missing else "has no patches"
        raise ModelError(f"--backbone {name} {fault}; name a ViT of transformers, such as {DEFAULT_BACKBONE}")
    kept = str(folder.resolve()) if local_path(name) is not None else name  # of use from every folder
    return VisionTransformer(kept, vit, *read_statistics(folder)).freeze()


def read_statistics(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel that a ViT's folder names; else ImageNet's."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        config = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        mean, std = (tuple(map(float, config[name])) for name in ("image_mean", "image_std"))
        if len(mean) == len(std) == 3 and min(std) > 0:
            return mean, std
    return IMAGENET_MEAN, IMAGENET_STD


class DinosaurLearner(FrozenLearner):
    """Trains slots on a frozen ViT: positions, presences, and reconstruction of the features."""

    name = suffix = "dinosaur"
    defaults = {
        "unet_config": str(CONFIGS / "clevr-dinosaur" / "config.json"),
        "learning_rate": 4e-4,
        "backbone": DEFAULT_BACKBONE,
        "resolution": 224,
    }
    idle_options = NO_DIFFUSION - {"revision"}
    rare_options = frozenset({"backbone"})

    @classmethod
    def load_backbone(cls, model: ModelSettings) -> VisionTransformer:
        """The ViT of `--backbone`."""
        return load_vit(model.backbone or DEFAULT_BACKBONE, model.revision, model.local_files_only)


@dataclass(frozen=True, kw_only=True)
class BackboneLoading(PixelLoading):
    """Where the frozen ViT is."""

    backbone: str | None = setting(None, "folder or hub id of the frozen ViT (default: the checkpoint's)")
    revision: str | None = setting(None, "branch, tag or commit on the hub")


@register
class Dinosaur(FrozenMethod):
    """The DINOSAUR row of the CLEVR table."""

    name, run, learner = "dinosaur", "clevr-dinosaur", "dinosaur"
    about = "DINOSAUR: slots on a frozen self-supervised ViT, with a head for positions; one pass"
    loading_class = BackboneLoading

    @classmethod
    def load_backbone(cls, name: str, loading: BackboneLoading) -> VisionTransformer:
        """The ViT that the user names, else the checkpoint."""
        return load_vit(loading.backbone or name, loading.revision, loading.local_files_only)


@register
class DinosaurObjects(ObjectSets, Dinosaur):
    """The same of whole objects."""
