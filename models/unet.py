"""Networks f(x_t, t | c) that predict the noise of an image given ONE concept.

`UNet2DConditionModel` is the published one: the condition is a token of its cross-attention. `JointPositionUNet`
is of that kind at any size, and takes several positions in one question, too. `PositionUNet` and `AttributeUNet` are the
small ones: they see the noisy image once, however many concepts are asked about.
"""

import inspect
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel, UNet2DModel
from diffusers.configuration_utils import register_to_config
from torch import nn

from igm.models import ModelError
from igm.models.configs import check_config, shown
from igm.models.configs import one_line as one_line  # once defined here
from igm.models.configs import read_config as read_config
from igm.models.weights import build, load_model

FREQUENCIES = (1, 2, 4, 8)  # half waves of the embedding across the image


class SharedTrunkUNet(ModelMixin, ConfigMixin):
    """A UNet trunk for the noisy image and a small head for each concept: f(x_t, t | c) = head(trunk(x_t, t), c).

    The trunk (a diffusers `UNet2DModel`) does not see the concept, so K concepts of an image cost one trunk and K heads. A
    subclass says how a concept scales and shifts the trunk's features (`modulation`).
    """

    _supports_gradient_checkpointing = True

    def build_trunk(self, sample_size, in_channels, block_out_channels, layers_per_block, attention, out_channels):
        """Make the part that sees the noisy image; `attention` says which of its levels attend to all."""
        self.trunk = UNet2DModel(
            sample_size=sample_size,
            in_channels=in_channels + 2,
            out_channels=out_channels,
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attention),
            up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)),
            add_attention=any(attention),
            attention_head_dim=32,
            norm_num_groups=16,
            resnet_time_scale_shift="scale_shift",
        )
        centres = (torch.arange(sample_size) + 0.5) / sample_size
        grid = torch.stack(torch.meshgrid(centres, centres, indexing="xy"))  # (2, H, W), x then y
        self.register_buffer("grid", grid, persistent=False)

    def build_head(self, in_channels: int, head_channels: int, head_layers: int) -> None:
        """Make what follows the modulation of the features, and the time embedding that its blocks are given."""
        self.time_embedding = nn.Sequential(nn.Linear(64, head_channels), nn.SiLU())
        self.blocks = nn.ModuleList(HeadBlock(head_channels) for _ in range(head_layers))
        self.norm_out = nn.GroupNorm(8, head_channels)
        self.conv_out = nn.Conv2d(head_channels, in_channels, 3, padding=1)

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, conds: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Predict for pairs (image, concept).

        Args:
            x_t: noisy latents (B, C, H, W). t: timesteps (B,). conds: concepts (P, D).
            index: (P,), the row of `x_t` that each concept belongs to.

        Returns:
            predictions (P, C, H, W).
        """
        return self.decode(self.encode(x_t, t), conds, index)

    def encode(self, x_t: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What all concepts of a noisy image share: features (B, F, H, W) and time embedding (B, F)."""
        grid = (2 * self.grid - 1).to(x_t.dtype).expand(len(x_t), -1, -1, -1)  # (B, 2, H, W)
        features = self.trunk(torch.cat([x_t, grid], dim=1), t).sample
        return features, self.time_embedding(timestep_waves(t, 64).to(features.dtype))

    def decode(
        self, shared: tuple[torch.Tensor, torch.Tensor], conds: torch.Tensor, index: torch.Tensor
    ) -> torch.Tensor:
        """Predictions (P, C, H, W) for concepts (P, D), from what `encode` gave; `index` (P,) as in `forward`."""
        features, time = shared
        scale, shift, embedding = self.modulation(conds, features.dtype)  # (P, F, H, W) or (P, F, 1, 1); (P, F) or 0
        h = features[index] * (1 + scale) + shift  # (P, F, H, W)
        for block in self.blocks:
            h = block(h, time[index] + embedding)
        return self.conv_out(F.silu(self.norm_out(h)))  # (P, C, H, W)

    def modulation(
        self, conds: torch.Tensor, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | int]:
        """Scale and shift of the features by concepts (P, D), and what is added to the blocks' time embedding."""
        raise NotImplementedError


class PositionUNet(SharedTrunkUNet):
    """Concepts are positions: the head knows one through smooth maps on the latent grid.

    The maps are offsets to the position, under Gaussian windows of several widths; all is differentiable in the position.

    Args:
        sample_size: side of the latent grid.
        in_channels: C, latent channels; the output has as many.
        block_out_channels, layers_per_block, attention: the trunk; `attention` says which of its levels attend to all.
        head_channels, head_layers: width and residual blocks of the head.
        windows: widths of the Gaussian windows, in units of the image side.
        cond_size: D; a position has 2, in [0, 1].
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 8,
        in_channels: int = 4,
        block_out_channels: tuple[int, ...] = (96, 128),
        layers_per_block: int = 1,
        attention: tuple[bool, ...] = (False, False),
        head_channels: int = 64,
        head_layers: int = 1,
        windows: tuple[float, ...] = (0.04, 0.08, 0.16, 0.32),
        cond_size: int = 2,
    ):
        super().__init__()
        if cond_size != 2:
            raise ValueError(f"cond_size {cond_size}: a position has 2 numbers")
        self.build_trunk(sample_size, in_channels, block_out_channels, layers_per_block, attention, head_channels)
        self.where = nn.Sequential(
            nn.Conv2d(2 + 6 * len(windows), head_channels, 1), nn.SiLU(), nn.Conv2d(head_channels, 2 * head_channels, 1)
        )
        self.build_head(in_channels, head_channels, head_layers)

    def modulation(self, conds, dtype):
        """Scale and shift (P, F, H, W) from the maps around each position (P, 2)."""
        return *self.where(self.position_maps(conds).to(dtype)).chunk(2, dim=1), 0

    def position_maps(self, conds: torch.Tensor) -> torch.Tensor:
        """Offsets to each position, and their first and second moments under Gaussian windows: (P, 2 + 6 S, H, W)."""
        dx, dy = (self.grid[None].to(conds.dtype) - conds[:, :, None, None]).unbind(1)  # (P, H, W) each
        maps = [dx, dy]
        for width in self.config.windows:
            u, v = dx / width, dy / width
            window = torch.exp(-(u**2 + v**2) / 2)
            maps += [window, window * u, window * v, window * u * u, window * u * v, window * v * v]
        return torch.stack(maps, dim=1)


class AttributeUNet(SharedTrunkUNet):
    """Concepts are vectors of any kind (one-hot attributes): a small MLP scales and shifts the features at each place.

    Each place of the grid has its own scale and shift, so that a concept that shows in one part of aligned images (a mouth)
    is learnt there directly; with one pair for all, a small network learnt what covers much of a face, and little else.

    Args:
        sample_size, in_channels, block_out_channels, layers_per_block, attention, head_channels, head_layers: as those of
            `PositionUNet`.
        cond_size: D; two per attribute.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 8,
        in_channels: int = 4,
        block_out_channels: tuple[int, ...] = (96, 128),
        layers_per_block: int = 1,
        attention: tuple[bool, ...] = (False, False),
        head_channels: int = 64,
        head_layers: int = 1,
        cond_size: int = 6,
    ):
        super().__init__()
        self.build_trunk(sample_size, in_channels, block_out_channels, layers_per_block, attention, head_channels)
        self.what = nn.Sequential(nn.Linear(cond_size, head_channels), nn.SiLU())
        self.maps = nn.Linear(head_channels, 2 * head_channels * sample_size**2)
        self.embedding = nn.Linear(head_channels, head_channels)
        self.build_head(in_channels, head_channels, head_layers)

    def modulation(self, conds, dtype):
        """Scale and shift (P, F, H, W), and an addition (P, F) to the time embedding, from concepts (P, D)."""
        hidden, side = self.what(conds.to(dtype)), self.config.sample_size
        scale, shift = self.maps(hidden).unflatten(1, (2, -1, side, side)).unbind(1)
        return scale, shift, self.embedding(hidden)


class JointPositionUNet(ModelMixin, ConfigMixin):
    """diffusers' `UNet2DConditionModel` conditioned on a set of positions: f(x_t, t | {c_1, ..., c_K}).

    Asked about one position at a time it is composed as any other; asked about all at once it is GC's.

    Args:
        sample_size: side of the latent grid. in_channels: C, latent channels; the output has as many.
        block_out_channels, layers_per_block, attention_head_dim, norm_num_groups: of the UNet.
        attention: which of its levels attend to the positions; the middle always does.
        cross_attention_dim: size of a position's token.
        coordinates: give the network each place's own coordinates as two more channels, as the small networks have them.
        cond_size: D; a position has 2, in [0, 1].
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        sample_size: int = 8,
        in_channels: int = 4,
        block_out_channels: tuple[int, ...] = (128, 256, 512, 512),
        layers_per_block: int = 2,
        attention: tuple[bool, ...] = (True, True, True, False),
        attention_head_dim: int = 1,
        norm_num_groups: int = 1,
        cross_attention_dim: int = 256,
        coordinates: bool = False,
        cond_size: int = 2,
    ):
        super().__init__()
        if cond_size != 2:
            raise ValueError(f"cond_size {cond_size}: a position has 2 numbers")
        self.unet = UNet2DConditionModel(
            sample_size=sample_size,
            in_channels=in_channels + 2 * coordinates,
            out_channels=in_channels,
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention),
            up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)),
            attention_head_dim=attention_head_dim,
            norm_num_groups=norm_num_groups,
            cross_attention_dim=cross_attention_dim,
        )
        self.embed = nn.Sequential(
            nn.Linear(2 * (1 + 2 * len(FREQUENCIES)), cross_attention_dim),
            nn.SiLU(),
            nn.Linear(cross_attention_dim, cross_attention_dim),
        )

    def forward(
        self,
        x_t: torch.Tensor,
        t: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor | None = None,
    ) -> Any:
        """Predict for sets of positions.

        Args:
            x_t: noisy latents (B, C, H, W). t: timesteps (B,). encoder_hidden_states: positions (B, K, 2).
            encoder_attention_mask: (B, K), 0 for padding; None: no padding.

        Returns:
            an output whose `sample` is the prediction (B, C, H, W).
        """
        if self.config.coordinates:
            y, x = ((torch.arange(side, device=x_t.device) + 0.5) / side * 2 - 1 for side in x_t.shape[2:])
            grid = torch.stack(torch.meshgrid(x, y, indexing="xy")).to(x_t)  # (2, H, W)
            x_t = torch.cat([x_t, grid.expand(len(x_t), -1, -1, -1)], dim=1)
        angles = [math.pi * frequency * encoder_hidden_states for frequency in FREQUENCIES]
        waves = [wave for angle in angles for wave in (angle.sin(), angle.cos())]
        tokens = self.embed(torch.cat([encoder_hidden_states, *waves], dim=-1))  # (B, K, cross_attention_dim)
        mask = None if encoder_attention_mask is None else encoder_attention_mask.bool()
        return self.unet(x_t, t, encoder_hidden_states=tokens, encoder_attention_mask=mask)


class HeadBlock(nn.Module):
    """Residual block with the time embedding as scale and shift; starts as the identity."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, channels), nn.GroupNorm(8, channels)
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.time = nn.Linear(channels, 2 * channels)
        for parameter in self.conv2.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.time(time)[:, :, None, None].chunk(2, dim=1)
        return x + self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))


def timestep_waves(t: torch.Tensor, size: int) -> torch.Tensor:
    """Sines and cosines of t (B,) at `size` / 2 frequencies from 1 to 1/10000: (B, size)."""
    frequencies = torch.exp(-math.log(10000) * torch.arange(size // 2, device=t.device) / (size // 2))
    angles = t[:, None].float() * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


NETWORKS: dict[str, type[ModelMixin]] = {
    "PositionUNet": PositionUNet,
    "AttributeUNet": AttributeUNet,
    "JointPositionUNet": JointPositionUNet,
}
# What may stand in a config besides its class's own: of the published code, and of a running average.
OTHER_NAMES = (
    "pos_type",
    "decay",
    "inv_gamma",
    "min_decay",
    "optimization_step",
    "power",
    "update_after_step",
    "use_ema_warmup",
)


def network_class(config: dict, what: str) -> type[ModelMixin]:
    """The class of a network's config; the published configs name one that only their own code knows.

    Raises:
        ModelError: it is of no network that is known here.
    """
    name = config.get("_class_name", "UNet2DConditionModel")
    if isinstance(name, str) and name in NETWORKS:
        return NETWORKS[name]
    if isinstance(name, str) and name.startswith("UNet2DConditionModel"):
        return UNet2DConditionModel
    known = ", ".join(["UNet2DConditionModel", *NETWORKS])
    raise ModelError(f"{what} is of a {shown(name)}, which is none of the networks here ({known}); name another")


def check_network(config: dict, what: str) -> None:
    """Compare a network's config with what its class takes.

    Raises:
        ModelError: a value of a wrong type or size, a name that the class does not have, or no prediction per input.
    """
    kind = network_class(config, what)
    check_config(kind, config, what)
    own = inspect.signature(kind.__init__).parameters
    unknown = [name for name in config if not name.startswith("_") and name not in own and name not in OTHER_NAMES]
    if unknown and kind is not UNet2DConditionModel:
        raise ModelError(f"{what}: a {kind.__name__} has no {shown(unknown[0])}; mend the name, or take the line out")
    if kind is UNet2DConditionModel and config.get("in_channels", 4) != config.get("out_channels", 4):
        raise ModelError(f"{what}: out_channels differs from in_channels; it predicts no noise of its input")
    if kind is UNet2DConditionModel and not isinstance(config.get("sample_size"), int):
        raise ModelError(f"{what}: sample_size is {shown(config.get('sample_size'))}, expected the side of the latents")


def read_network(folder: Path, what: str) -> ModelMixin:
    """The network in a folder of diffusers' format; `what` is the option that named it.

    Raises:
        ModelError: config or weights are not usable, or do not fit each other.
    """
    config = read_config(folder, what)
    check_network(config, f"{what} {folder / 'config.json'}")
    return load_model(network_class(config, f"{what} {folder}"), folder, what, config)


def build_network(config: dict, what: str = "") -> ModelMixin:
    """A network with fresh weights from its config.

    Args:
        what: where the config is from, for messages.

    Raises:
        ModelError: the config does not describe a network, or one that this machine cannot hold.
    """
    what = f"network config {what}".strip()
    check_network(config, what)
    with torch.device("meta"):  # no memory, no random numbers: shows in no time what is too large
        build(network_class(config, what), config, what)
    plain = {k: v for k, v in config.items() if k not in ("_class_name", "pos_type")}
    try:
        return network_class(config, what).from_config(plain)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{what} is not usable: {one_line(error)}") from None


def cond_size(network_config: dict) -> int:
    """D, the size of one condition that a network takes.

    Raises:
        ModelError: the config does not say; it is another's than a network's.
    """
    size = network_config.get("cond_size") or network_config.get("cross_attention_dim")
    if not isinstance(size, int) or isinstance(size, bool):
        raise ModelError("network config has no cross_attention_dim and no cond_size; it is not a network's config")
    return size
