"""Slot Attention (Locatello et al. 2020, arXiv 2006.15055), trained on positions or whole objects: set prediction."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn

from igm.baselines.pixels import PixelNetwork
from igm.baselines.set_prediction import ObjectSets, SetLearner, SetMethod, SetSettings, as_set, with_rows
from igm.inference.draws import image_generators
from igm.inference.method import register
from igm.inference.settings import SeededSettings
from igm.models.unet import NETWORKS
from igm.resources import CONFIGS
from igm.settings import positive, setting
from igm.training.learner import Batch, Item, bare
from igm.training.settings import TrainSettings

EPSILON = 1e-8  # the authors', where a slot attends to nothing
SPARE = 2  # slots more than objects, where more are sought than the network was trained with
SLOTS_OF_COUNT = 11  # where the number is sought: the authors' on scenes of up to 10 objects


class SlotAttention(nn.Module):
    """Slots compete for inputs (algorithm 1 of the paper): attention with its softmax over the slots, then GRU and MLP.

    Args:
        input_size: of each input. slot_size: of a slot, and of keys, queries and values. hidden: width of the MLP.
        iterations: how often the slots look.
    """

    def __init__(self, input_size: int, slot_size: int = 64, hidden: int = 128, iterations: int = 3):
        super().__init__()
        self.iterations = iterations
        self.mean, self.log_std = nn.Parameter(torch.empty(slot_size)), nn.Parameter(torch.empty(slot_size))
        for parameter in (self.mean, self.log_std):  # the authors' start: Glorot's bounds
            nn.init.uniform_(parameter, -((6 / (1 + slot_size)) ** 0.5), (6 / (1 + slot_size)) ** 0.5)
        self.norm_inputs, self.norm_slots, self.norm_mlp = map(nn.LayerNorm, (input_size, slot_size, slot_size))
        self.to_k, self.to_v = (nn.Linear(input_size, slot_size, bias=False) for _ in range(2))
        self.to_q = nn.Linear(slot_size, slot_size, bias=False)
        self.gru = nn.GRUCell(slot_size, slot_size)
        self.mlp = nn.Sequential(nn.Linear(slot_size, hidden), nn.ReLU(), nn.Linear(hidden, slot_size))

    def forward(self, inputs: torch.Tensor, slot_noise: torch.Tensor) -> torch.Tensor:
        """Slots (B, S, D) for inputs (B, N, F) and normal numbers (B, S, D), from which the first slots are drawn.

        Another order of the noise is the same order of the slots, and the number of slots is the noise's.
        """
        inputs = self.norm_inputs(inputs)
        k, v = self.to_k(inputs), self.to_v(inputs)  # (B, N, D) each
        slots = self.mean + self.log_std.exp() * slot_noise  # (B, S, D)
        for _ in range(self.iterations):
            q = self.to_q(self.norm_slots(slots)) * slots.shape[2] ** -0.5
            attention = (k @ q.mT).float().softmax(dim=2) + EPSILON  # (B, N, S), over the slots
            updates = (attention / attention.sum(dim=1, keepdim=True)).mT @ v.float()  # (B, S, D), a weighted mean
            slots = self.gru(updates.flatten(0, 1), slots.flatten(0, 1)).view_as(slots)
            slots = slots + self.mlp(self.norm_mlp(slots))
        return slots


class PositionEmbedding(nn.Module):
    """The authors' soft position embedding: a linear map of each place's distances to the four borders is added."""

    def __init__(self, channels: int):
        super().__init__()
        self.linear = nn.Linear(4, channels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features (B, H, W, F), with their places added."""
        h, w = features.shape[1:3]
        y, x = (torch.linspace(0, 1, side, device=features.device) for side in (h, w))
        grid = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1)  # (H, W, 2)
        return features + self.linear(torch.cat([grid, 1 - grid], dim=-1))


class SlotReader(nn.Module):
    """What follows any encoder: a norm and an MLP at each place, slots, and a head that reads an object off each.

    Args:
        input_size: F of the encoder's features. slot_size, hidden, iterations: of `SlotAttention`. cond_size: D.
    """

    def __init__(self, input_size: int, slot_size: int, hidden: int, iterations: int, cond_size: int):
        super().__init__()
        self.place = nn.Sequential(
            nn.LayerNorm(input_size), nn.Linear(input_size, hidden), nn.ReLU(), nn.Linear(hidden, slot_size)
        )
        self.attention = SlotAttention(slot_size, slot_size, hidden, iterations)
        self.head = nn.Sequential(nn.Linear(slot_size, hidden), nn.ReLU(), nn.Linear(hidden, cond_size + 1))

    def forward(self, features: torch.Tensor, slot_noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Sets (B, S, D + 1) of `as_set`, and the slots (B, S, D'), for features (B, N, F)."""
        slots = self.attention(self.place(features), slot_noise)
        return as_set(self.head(slots)), slots


class SlotNetwork(PixelNetwork):
    """A network with slots; its config has `num_slots` and `slot_size`, and its inputs end with the slots' noise."""

    @property
    def num_rows(self) -> int:
        """Objects of a training image, at most."""
        return self.config.num_slots

    def example(self, images: int) -> tuple[torch.Tensor, ...]:
        """As `PixelNetwork.example`, with the noise."""
        return (*super().example(images), torch.empty(images, self.config.num_slots, self.config.slot_size))


class PositionSlots(SlotNetwork):
    """Slot Attention on the authors' convolutional encoder (5x5 kernels, ReLU, soft position embedding).

    Args:
        sample_size: side in pixels of the training images. cond_size: D, of an object.
        num_slots: in training. slot_size, hidden, iterations: of the slots.
        channels: of every convolution. strides: of each.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 128,
        cond_size: int = 2,
        num_slots: int = 7,
        slot_size: int = 64,
        hidden: int = 128,
        iterations: int = 3,
        channels: int = 64,
        strides: tuple[int, ...] = (1, 2, 2, 1),
    ):
        super().__init__()
        layers: list[nn.Module] = []
        for number, stride in enumerate(strides):
            layers += [nn.Conv2d(channels if number else 3, channels, 5, stride, padding=2), nn.ReLU()]
        self.encoder, self.position = nn.Sequential(*layers), PositionEmbedding(channels)
        self.reader = SlotReader(channels, slot_size, hidden, iterations, cond_size)

    def forward(self, images: torch.Tensor, slot_noise: torch.Tensor) -> torch.Tensor:
        """Sets (B, S, D + 1) of images (B, 3, R, R) in [-1, 1] and the slots' noise (B, S, slot_size)."""
        features = self.position(self.encoder(images).permute(0, 2, 3, 1))  # (B, H, W, F)
        return self.reader(features.flatten(1, 2), slot_noise)[0]


NETWORKS["PositionSlots"] = PositionSlots


# Training: the slots' noise is the step's, so that a resumed run draws the same.


@dataclass(frozen=True)
class SlotNoise:
    """Normal numbers from which a step draws its first slots: `num_slots` of `slot_size` each."""

    num_slots: int
    slot_size: int

    def draw(self, total: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """`slot_noise` (N, S, D) of a step of N images."""
        return {"slot_noise": torch.randn(total, self.num_slots, self.slot_size, generator=generator)}


class SlotsLearner(SetLearner):
    """Trains a `SlotNetwork`."""

    network_class: ClassVar[type[SlotNetwork]] = SlotNetwork

    def noise(self, item: Item, training: TrainSettings) -> SlotNoise:
        """The slots'."""
        config = bare(self.network).config
        return SlotNoise(config.num_slots, config.slot_size)

    def found(self, batch: Batch) -> torch.Tensor:
        """The sets (B, S, D + 1) of a batch."""
        return self.network(batch["pixel_values"], batch["slot_noise"])


class SlotAttentionLearner(SlotsLearner):
    """Trains a `PositionSlots` on the pixels."""

    name = suffix = "slot_attention"
    network_class = PositionSlots
    defaults = {"unet_config": str(CONFIGS / "clevr-slots" / "config.json"), "learning_rate": 4e-4}


# Inference: any number of slots, drawn for each image.


@dataclass(frozen=True, kw_only=True)
class SlotSettings(SetSettings):
    """Settings of the methods that read positions off slots."""

    num_slots: int | None = setting(
        None, "slots (default: as trained, and 2 more than objects if that is more; count infer: 11)", kind=positive
    )

    def slots_of(self, trained: int, counts: torch.Tensor | None, images: int) -> list[int]:
        """Slots for each of some images, whose numbers of objects are `counts` (B,), where known."""
        if self.num_slots is not None:
            return [self.num_slots] * images
        if counts is None:
            return [max(trained, SLOTS_OF_COUNT)] * images
        return [max(trained, count + SPARE) for count in counts.tolist()]


class SlotsMethod(SetMethod):
    """Positions read off slots."""

    settings_class: ClassVar[type[SeededSettings]] = SlotSettings
    network_class: ClassVar[type[SlotNetwork]] = SlotNetwork

    def find(self, images: torch.Tensor, counts: torch.Tensor | None, numbers: list[int]) -> torch.Tensor:
        """The sets (B, S, D + 1) of images; those with as many slots together."""
        config, settings = self.model.network.config, self.settings
        slots = settings.slots_of(config.num_slots, counts, len(images))
        generators = image_generators(settings.seed, numbers, stream=7)
        noise = [torch.randn(s, config.slot_size, generator=g) for s, g in zip(slots, generators, strict=True)]
        found = torch.zeros(len(images), max(slots), config.cond_size + 1, device=images.device)
        for size in sorted(set(slots)):
            rows = [row for row, own in enumerate(slots) if own == size]
            together = torch.stack([noise[row] for row in rows]).to(images.device)  # (B', S, D)
            found[rows] = with_rows(self.read(images[rows], together), max(slots))
        return found

    def read(self, images: torch.Tensor, slot_noise: torch.Tensor) -> torch.Tensor:
        """The sets (B, S, D + 1) of images with as many slots each."""
        return self.model.network(images, slot_noise)


@register
class SlotAttentionPositions(SlotsMethod):
    """The Slot Attention row of the CLEVR table."""

    name, run, learner = "slot_attention", "clevr-slot_attention", "slot_attention"
    about = "Slot Attention, trained to give positions and presences: one pass, no noise on the image"
    network_class = PositionSlots


@register
class SlotAttentionObjects(ObjectSets, SlotAttentionPositions):
    """The same of whole objects."""
