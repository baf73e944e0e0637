"""A ResNet-50 that reads the attributes off a face: the discriminative baseline of the CelebA experiment."""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn
from transformers import ResNetConfig, ResNetModel

from igm.models import ModelError
from igm.models.codec import Pixels
from igm.models.denoiser import META_FILE, NETWORK_DIR, fetch_folder, load_network
from igm.models.unet import NETWORKS, read_config


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
        shape = {"embedding_size": embedding_size, "hidden_sizes": list(hidden_sizes), "depths": list(depths)}
        self.resnet = ResNetModel(ResNetConfig(**shape))
        self.head = nn.Linear(hidden_sizes[-1], cond_size // 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, K) of value 1, for images (B, 3, R, R) in [-1, 1]."""
        return self.head(self.resnet(images).pooler_output.flatten(1))


NETWORKS["AttributeResNet"] = AttributeResNet


class Classifier(nn.Module):
    """What training and evaluation ask of a model, around a network that needs no noise: its latents are the pixels.

    Args:
        network: an AttributeResNet, possibly wrapped (DDP). meta: facts about the training data.
    """

    scheduler, num_timesteps = None, 1

    def __init__(self, network: nn.Module, meta: dict | None = None):
        super().__init__()
        self.network, self.codec, self.meta = network, Pixels(), meta or {}

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.network.parameters()).device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(3, R, R): it works on pixels."""
        return 3, self.resolution, self.resolution

    @property
    def cond_size(self) -> int:
        """D, the size of one condition."""
        return self.network.config.cond_size

    @property
    def resolution(self) -> int:
        """Side in pixels of the images that the network was trained on."""
        return self.network.config.sample_size

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Denoiser.encode`: the images themselves."""
        return self.codec.posterior(images)

    def trial_pass(self, network: nn.Module, rows: int, images: int) -> torch.Tensor:
        """As `Denoiser.trial_pass`; a face is one row, so that `rows` say nothing."""
        return network(torch.empty(images, *self.latent_shape))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write network and meta so that `from_pretrained` needs nothing else."""
        self.network.save_pretrained(Path(folder) / NETWORK_DIR)
        (Path(folder) / META_FILE).write_text(json.dumps(self.meta, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, local_files_only: bool = False, **unused) -> "Classifier":
        """Load a training checkpoint; takes, and needs no, options of `Denoiser.from_pretrained`.

        Raises:
            ModelError: no weights there, or of another network.
        """
        folder = fetch_folder(folder, local_files_only)
        network = load_network(folder, ema=False)
        if not isinstance(network, AttributeResNet):
            raise ModelError(
                f"checkpoint {folder} holds no AttributeResNet; name one of scripts/train_celeba_resnet.py"
            )
        meta = read_config(folder / META_FILE, "file") if (folder / META_FILE).is_file() else {}
        return cls(network, meta).eval().requires_grad_(False)


def attribute_loss(logits: torch.Tensor, conds: torch.Tensor) -> torch.Tensor:
    """Mean binary cross-entropy of logits (B, K) against one-hot concepts (B, K, 2 K)."""
    k = logits.shape[1]
    values = conds[:, torch.arange(k), 2 * torch.arange(k) + 1]  # (B, K)
    return F.binary_cross_entropy_with_logits(logits, values)
