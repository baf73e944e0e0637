"""A ResNet-50 that reads the attributes off a face: the discriminative baseline of the CelebA experiment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.utils.data import default_collate
from transformers import ResNetConfig, ResNetModel

from igm.encoding import all_concepts
from igm.facts import Facts
from igm.inference.method import Method, autocast, register
from igm.inference.settings import InferenceSettings
from igm.inference.types import Inferred
from igm.models import ModelError
from igm.models.denoiser import fetch_folder, load_network
from igm.models.unet import NETWORKS, build_network, read_config
from igm.resources import CONFIGS
from igm.settings import Settings, setting
from igm.training.compositional import copy_weights
from igm.training.learner import Learner
from igm.training.settings import ModelSettings, TrainSettings


class AttributeResNet(ModelMixin, ConfigMixin):
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
        shape: dict[str, Any] = {
            "embedding_size": embedding_size,
            "hidden_sizes": list(hidden_sizes),
            "depths": list(depths),
        }
        self.resnet = ResNetModel(ResNetConfig(**shape))
        self.head = nn.Linear(hidden_sizes[-1], cond_size // 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, K) of value 1, for images (B, 3, R, R) in [-1, 1]."""
        return self.head(self.resnet(images).pooler_output.flatten(1))


NETWORKS["AttributeResNet"] = AttributeResNet


class Classifier(nn.Module):
    """A trained `AttributeResNet` with what is known of it.

    Args:
        network: possibly wrapped (DDP). facts: of the training data.
    """

    codec = None  # it reads pixels

    def __init__(self, network: nn.Module, facts: Facts | None = None):
        super().__init__()
        self.network: Any = network
        self.facts = facts or Facts()

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.network.parameters()).device

    @property
    def cond_size(self) -> int:
        """D, the size of one condition."""
        return self.network.config.cond_size

    @property
    def resolution(self) -> int:
        """Side in pixels of the images that the network was trained on."""
        return self.network.config.sample_size

    def trial_pass(self, network: nn.Module, rows: int, images: int) -> torch.Tensor:
        """As `Denoiser.trial_pass`; a face is one row, so that `rows` say nothing."""
        return network(torch.empty(images, 3, self.resolution, self.resolution))

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, local_files_only: bool = False) -> "Classifier":
        """Load a training checkpoint.

        Raises:
            ModelError: no weights there, or of another network.
        """
        folder = fetch_folder(folder, local_files_only)
        network = load_network(folder, ema=False)
        if not isinstance(network, AttributeResNet):
            raise ModelError(f"checkpoint {folder} holds no AttributeResNet; name one of --learner resnet50")
        return cls(network, Facts.read(folder)).eval().requires_grad_(False)


# Training: pixels and cross-entropy.


class ResNetLearner(Learner):
    """Trains an `AttributeResNet` on the pixels; it sees no noise, and generates nothing."""

    name = suffix = "resnet50"
    defaults = {"unet_config": str(CONFIGS / "celeba-resnet50" / "config.json"), "learning_rate": 1e-3}
    idle_options = frozenset(
        {
            *("scheduler_config", "pretrained_model_name", "revision", "gradient_checkpointing", "no_latent_cache"),
            *("enable_xformers_memory_efficient_attention", "offset_noise", "snr_gamma", "t_logit_normal"),
            *("num_validation_images", "val_batch_size", "validation_steps", "validation_scheduler"),
        }
    )

    @classmethod
    def build(cls, model: ModelSettings, training: TrainSettings, facts: Facts) -> Self:
        """A network of the config, for images of the facts' resolution."""
        network = build_network(read_config(model.unet_config, "--unet_config"))
        if not isinstance(network, AttributeResNet):
            raise ModelError(
                f"--unet_config {model.unet_config} is of no AttributeResNet; leave it out for ResNet-50's"
            )
        network.register_to_config(sample_size=facts.resolution)
        if model.initialize_from:
            copy_weights(load_network(Path(model.initialize_from), ema=False), network, model.initialize_from)
        return cls(network, facts)

    @staticmethod
    def collate(items: Sequence[Mapping[str, Any]], static_shapes: bool = False) -> dict[str, torch.Tensor]:
        """`pixel_values` (B, 3, R, R) and `conds` (B, K, 2 K); all batches have one shape."""
        return default_collate([{name: item[name] for name in ("pixel_values", "conds")} for item in items])

    def loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Cross-entropy of the attributes' values."""
        return attribute_loss(self.network(batch["pixel_values"]), batch["conds"])

    def trial_pass(self, network: nn.Module, rows: int, images: int) -> torch.Tensor:
        """A face is one row, whatever its concepts."""
        size = self.network.config.sample_size
        return network(torch.empty(images, 3, size, size))


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


@dataclass(frozen=True, kw_only=True)
class ResNetLoading(Settings):
    """A trained classifier has no parts that could lie elsewhere."""

    local_files_only: bool = setting(False, "never ask the hub", determines=False)


@register
class ResNetMethod(Method):
    """The paper's ResNet-50 row."""

    name, task, run, learner = "resnet", "attributes", "celeba-resnet50", "resnet50"
    about = "ResNet-50, the discriminative baseline: one pass, no noise"
    settings_class = InferenceSettings
    loading_class = ResNetLoading
    model: Classifier

    @classmethod
    def load(cls, checkpoint: str | Path, loading: ResNetLoading, device: torch.device, precision: str) -> Classifier:
        """The classifier of a checkpoint."""
        return Classifier.from_pretrained(checkpoint, local_files_only=loading.local_files_only).to(device)

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
