"""A ResNet-50 that regresses positions, or whole objects: the discriminative baseline of the CLEVR experiment."""

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn

from igm.baselines.pixels import PixelNetwork
from igm.baselines.resnet50 import resnet_body
from igm.baselines.set_prediction import ObjectSets, SetLearner, SetMethod, as_set
from igm.inference.method import register
from igm.models.unet import NETWORKS
from igm.resources import CONFIGS


class PositionResNet(PixelNetwork):
    """transformers' ResNet (He et al. 2016), its pooled features, and one layer that gives positions and presences.

    Args:
        sample_size: side in pixels of the training images; other sizes work too. cond_size: D, of an object.
        max_objects: rows that it gives; no image can be said to have more objects.
        embedding_size, hidden_sizes, depths, layer_type: of the ResNet; the defaults are ResNet-50's.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 128,
        cond_size: int = 2,
        max_objects: int = 10,
        embedding_size: int = 64,
        hidden_sizes: tuple[int, ...] = (256, 512, 1024, 2048),
        depths: tuple[int, ...] = (3, 4, 6, 3),
        layer_type: str = "bottleneck",
    ):
        super().__init__()
        self.num_rows = max_objects
        self.resnet = resnet_body(embedding_size, hidden_sizes, depths, layer_type)
        self.head = nn.Linear(hidden_sizes[-1], max_objects * (cond_size + 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Sets (B, max_objects, D + 1) of images (B, 3, R, R) in [-1, 1]; see `as_set`."""
        return as_set(self.head(self.resnet(images).pooler_output.flatten(1)).unflatten(1, (self.num_rows, -1)))


NETWORKS["PositionResNet"] = PositionResNet


class ResNetPositionsLearner(SetLearner):
    """Trains a `PositionResNet`."""

    name = suffix = "resnet50"
    network_class = PositionResNet
    defaults = {"unet_config": str(CONFIGS / "clevr-resnet50" / "config.json"), "learning_rate": 1e-3}


@register
class ResNetPositions(SetMethod):
    """The ResNet-50 row of the CLEVR table."""

    name, run, learner = "resnet", "clevr-resnet50", "resnet50"
    about = "ResNet-50, the discriminative baseline: one pass, no noise"
    network_class, averaged = PositionResNet, False  # averaged weights have no statistics of batches


@register
class ResNetObjects(ObjectSets, ResNetPositions):
    """The same of whole objects."""
