"""Slot Attention on the features of a frozen network that others have trained: what the baselines of that kind share.

The frozen network is no part of a checkpoint, which names it in its config.
"""

from abc import abstractmethod
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import nn

from igm.baselines.pixels import PixelModel
from igm.baselines.slot_attention import PositionEmbedding, SlotNetwork, SlotReader, SlotsLearner, SlotsMethod
from igm.facts import Facts
from igm.models import ModelError
from igm.models.unet import NETWORKS
from igm.training.learner import Batch
from igm.training.settings import ModelSettings, TrainSettings


class Backbone(nn.Module):
    """A frozen network that others have trained: images (B, 3, R, R) in [-1, 1] -> features (B, H, W, F).

    Args:
        name: what finds it again, kept in a checkpoint's config.
    """

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def freeze(self) -> Self:
        """Itself, never to be trained."""
        return self.eval().requires_grad_(False)


class FeatureSlots(SlotNetwork):
    """Slot Attention on given features, with a head for positions; it may also reconstruct the features.

    The decoder is DINOSAUR's (Seitzer et al. 2023, section 3.2): each slot, spread over all places with a learnt vector of
    each, gives features and an alpha there through an MLP; the softmax of the alphas over the slots mixes the features.

    Args:
        sample_size: side in pixels of the training images. cond_size: D, of an object.
        feature_size: F of the features. side: their height and width.
        num_slots: in training. slot_size, hidden, iterations: of the slots.
        coordinates: add each place's position to its features, for backbones whose features do not tell it.
        decoder_layers, decoder_hidden: of the MLP that reconstructs; 0 layers: nothing is reconstructed.
        enlarge_to: side that smaller pictures are enlarged to before the backbone sees them; 0: as they are.
        backbone: what finds the frozen network whose features these are.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 224,
        cond_size: int = 2,
        feature_size: int = 768,
        side: int = 14,
        num_slots: int = 7,
        slot_size: int = 256,
        hidden: int = 768,
        iterations: int = 3,
        coordinates: bool = False,
        decoder_layers: int = 3,
        decoder_hidden: int = 1024,
        enlarge_to: int = 0,
        backbone: str = "",
    ):
        super().__init__()
        self.position = PositionEmbedding(feature_size) if coordinates else nn.Identity()
        self.reader = SlotReader(feature_size, slot_size, hidden, iterations, cond_size)
        if decoder_layers:
            self.places = nn.Parameter(0.02 * torch.randn(side * side, slot_size))
            sizes = [slot_size, *[decoder_hidden] * decoder_layers]
            layers = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in zip(sizes, sizes[1:], strict=False)]
            self.decoder = nn.Sequential(*layers, nn.Linear(sizes[-1], feature_size + 1))

    def forward(self, features: torch.Tensor, slot_noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Sets (B, S, D + 1) of features (B, H, W, F) and noise (B, S, slot_size); the features again, in training."""
        found, slots = self.reader(self.position(features).flatten(1, 2), slot_noise)
        reconstructs = self.training and self.config.decoder_layers > 0
        return found, self.decode(slots).view_as(features) if reconstructs else None

    def decode(self, slots: torch.Tensor) -> torch.Tensor:
        """Features (B, H W, F) that slots (B, S, D') reconstruct; their order does not matter."""
        decoded, alpha = self.decoder(slots[:, :, None] + self.places).split([self.config.feature_size, 1], dim=3)
        return (decoded * alpha.softmax(dim=1)).sum(1)

    def example(self, images: int) -> tuple[torch.Tensor, ...]:
        """Empty features and noise."""
        config = self.config
        features = torch.empty(images, config.side, config.side, config.feature_size)
        return features, torch.empty(images, config.num_slots, config.slot_size)


NETWORKS["FeatureSlots"] = FeatureSlots


class FrozenLearner(SlotsLearner):
    """Trains a `FeatureSlots` on a frozen backbone, which a subclass loads.

    Args:
        backbone: computes beside the network; neither trained nor saved.
    """

    network_class = FeatureSlots

    def __init__(self, network: nn.Module, facts: Facts, backbone: Backbone | None = None):
        super().__init__(network, facts)
        self.backbone: Any = backbone
        self.enlarge_to = self.network.config.enlarge_to

    @classmethod
    @abstractmethod
    def load_backbone(cls, model: ModelSettings) -> Backbone:
        """The frozen network.

        Raises:
            ModelError: it is out of reach; one line with the mend.
        """

    @classmethod
    def build(cls, model: ModelSettings, training: TrainSettings, facts: Facts) -> Self:
        """A network of the config, whose features must be those of the backbone at the images' resolution."""
        backbone = cls.load_backbone(model)
        network = cls.fresh_network(model, facts, backbone=backbone.name)  # a resumed run must have the same
        check_features(backbone, network.config, f"--unet_config {model.unet_config}")
        return cls(network, facts, backbone)

    def to(self, device: torch.device) -> None:
        """Network and backbone."""
        super().to(device)
        self.backbone.to(device)

    def loss(self, batch: Batch) -> torch.Tensor:
        """As `SetLearner`'s, and the mean squared error of the features where they are reconstructed."""
        with torch.no_grad(), self.autocast():
            features = look(self.backbone, batch["pixel_values"], self.enlarge_to)  # (B, H, W, F)
        found, again = self.network(features, batch["slot_noise"])
        loss = self.loss_of(found, batch)
        return loss if again is None else loss + (again.float() - features.float()).square().mean()


def look(backbone: Backbone, images: torch.Tensor, enlarge_to: int) -> torch.Tensor:
    """Features (B, H, W, F) of images (B, 3, R, R), which are enlarged first where they are smaller than asked for."""
    if images.shape[-1] < enlarge_to:
        images = F.interpolate(images, size=(enlarge_to, enlarge_to), mode="bicubic")
    return backbone(images)


def check_features(backbone: Backbone, config: Any, what: str) -> None:
    """Raise ModelError unless a backbone gives the features that a `FeatureSlots` of this config takes."""
    with torch.no_grad():
        empty = torch.zeros(1, 3, config.sample_size, config.sample_size)
        shape = tuple(look(backbone, empty, config.enlarge_to).shape[1:])
    expected = (config.side, config.side, config.feature_size)
    if shape != expected:
        names = " x ".join(map(str, shape))
        raise ModelError(
            f"{what} takes features of {' x '.join(map(str, expected))}, {backbone.name} gives {names} at --resolution "
            f"{config.sample_size}; set side and feature_size there, or another --resolution"
        )


class FrozenModel(PixelModel):
    """A trained `FeatureSlots` with its backbone."""

    backbone: Backbone


class FrozenMethod(SlotsMethod):
    """Positions read off slots on a frozen backbone, which a subclass loads."""

    network_class = FeatureSlots
    model: FrozenModel

    @classmethod
    @abstractmethod
    def load_backbone(cls, name: str, loading: Any) -> Backbone:
        """The frozen network of a checkpoint, which calls it `name`.

        Raises:
            ModelError: it is out of reach; one line with the mend.
        """

    @classmethod
    def load(cls, checkpoint: str | Path, loading: Any, device: torch.device, precision: str) -> FrozenModel:
        """The network of a checkpoint, and the backbone that it names."""
        options = {"ema": cls.averaged, "local_files_only": loading.local_files_only}
        model = FrozenModel.from_pretrained(checkpoint, cls.network_class, cls.learner, **options)
        model.backbone = cls.load_backbone(model.network.config.backbone, loading)
        check_features(model.backbone, model.network.config, f"--checkpoint {checkpoint}")
        return model.to(device)

    def read(self, images: torch.Tensor, slot_noise: torch.Tensor) -> torch.Tensor:
        """The sets (B, S, D + 1) of images."""
        features = look(self.model.backbone, images, self.model.network.config.enlarge_to)
        return self.model.network(features, slot_noise)[0]
