"""A ResNet-50 that reads the attributes off a face: the discriminative baseline of the CelebA experiment."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import nn
from transformers import ResNetConfig, ResNetModel

from igm.baselines.pixels import PixelLearner, PixelMethod, PixelNetwork
from igm.encoding import all_concepts
from igm.inference.method import register
from igm.inference.settings import SeededSettings
from igm.inference.types import Inferred
from igm.models.precision import autocast
from igm.models.unet import NETWORKS
from igm.resources import CONFIGS
from igm.training.learner import Batch


def resnet_body(
    embedding_size: int, hidden_sizes: Sequence[int], depths: Sequence[int], layer_type: str = "bottleneck"
) -> ResNetModel:
    """transformers' ResNet (He et al. 2016) with fresh weights; its `pooler_output` is (B, hidden_sizes[-1], 1, 1)."""
    shape: dict[str, Any] = {"embedding_size": embedding_size, "layer_type": layer_type}
    return ResNetModel(ResNetConfig(**shape, hidden_sizes=list(hidden_sizes), depths=list(depths)))


class AttributeResNet(PixelNetwork):
    """transformers' ResNet (He et al. 2016; bottleneck blocks) with one logit per attribute.

    Args:
        sample_size: side in pixels of the training images; other sizes work too.
        cond_size: D = 2 K, two values for each of K attributes.
        embedding_size, hidden_sizes, depths: of the ResNet; the defaults are ResNet-50's.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 128,
        cond_size: int = 6,
        embedding_size: int = 64,
        hidden_sizes: tuple[int, ...] = (256, 512, 1024, 2048),
        depths: tuple[int, ...] = (3, 4, 6, 3),
    ):
        super().__init__()
        self.resnet = resnet_body(embedding_size, hidden_sizes, depths)
        self.head = nn.Linear(hidden_sizes[-1], cond_size // 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, K) of value 1, for images (B, 3, R, R) in [-1, 1]."""
        return self.head(self.resnet(images).pooler_output.flatten(1))


NETWORKS["AttributeResNet"] = AttributeResNet


# Training: pixels and cross-entropy.


class ResNetLearner(PixelLearner):
    """Trains an `AttributeResNet` on the pixels; it sees no noise, and generates nothing."""

    name, task = "resnet50", "attributes"
    suffix = "resnet50"
    network_class = AttributeResNet
    inputs = ("pixel_values", "conds")
    defaults = {"unet_config": str(CONFIGS / "celeba-resnet50" / "config.json"), "learning_rate": 1e-3}

    def loss(self, batch: Batch) -> torch.Tensor:
        """Cross-entropy of the attributes' values."""
        return attribute_loss(self.network(batch["pixel_values"]), batch["conds"])


def attribute_loss(logits: torch.Tensor, conds: torch.Tensor) -> torch.Tensor:
    """Mean binary cross-entropy of logits (B, K) against one-hot concepts (B, K, 2 K)."""
    k = logits.shape[1]
    values = conds[:, torch.arange(k), 2 * torch.arange(k) + 1]  # (B, K)
    return F.binary_cross_entropy_with_logits(logits, values)


@torch.no_grad()
def infer_classifier(network: nn.Module, images: torch.Tensor, values: torch.Tensor) -> Inferred:
    """The attribute values that a classifier finds likelier.

    Args:
        network: images -> logits (B, K). images: (B, 3, R, R), on its device. values: (2 K, D) concepts, two by two.

    Returns:
        Inferred; error is the cross-entropy of the chosen values, confidence the probability of all of them together.
    """
    logits = network(images).float().cpu()  # (B, K)
    b, k = logits.shape
    chosen = 2 * torch.arange(k) + (logits > 0)  # (B, K)
    likelihood = torch.nn.functional.logsigmoid(logits.abs())  # (B, K)
    return Inferred(
        conds=values[chosen],
        num_concepts=torch.full((b,), k),
        error=-likelihood.mean(1),
        forward=torch.ones(b, dtype=torch.long),
        backward=torch.zeros(b, dtype=torch.long),
        confidence=likelihood.sum(1).exp(),
        chosen=chosen.tolist(),
    )


@register
class ResNetMethod(PixelMethod):
    """The paper's ResNet-50 row."""

    name, task, run, learner = "resnet", "attributes", "celeba-resnet50", "resnet50"
    about = "ResNet-50, the discriminative baseline: one pass, no noise"
    settings_class = SeededSettings
    network_class, averaged = AttributeResNet, False  # averaged weights have no statistics of batches

    def __call__(
        self,
        images: torch.Tensor,
        num_concepts: torch.Tensor | None = None,
        *,
        image_numbers: list[int] | None = None,
        batch_size: int = 1024,
    ) -> Inferred:
        """The likelier value of every attribute."""
        with autocast(self.model.device, self.precision):
            return infer_classifier(self.model.network, images.to(self.model.device), all_concepts(len(self.names)))
