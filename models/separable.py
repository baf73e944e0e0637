"""A separable network: f(x_t, t | c) = f_0(x_t, t) + W (B(x_t, t) * phi(c)) at each place of the latent grid.

A trunk gives f_0 (C channels) and features B (R channels) from the noisy image alone; a small map phi turns a concept into
R numbers at each place; W mixes R channels into C. So a composition depends on its concepts through m = sum_k a_k phi(c_k)
alone, and its denoising error is a quadratic form in m (`igm.error_form`): no concept ever needs a pass of the network.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import nn

from igm.models.composition import compose
from igm.models.unet import NETWORKS, SharedTrunkUNet

COMPOSITIONS = ("sum", "mean")


class SeparableTrunk(SharedTrunkUNet):
    """What separable networks share: a trunk whose output is f_0 and R features B. A subclass has W (`mix`) and phi."""

    mix: nn.Linear

    def encode(self, x_t: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What all concepts of a noisy image share: f_0 (B, C, H, W) and the features B (B, R, H, W)."""
        grid = (2 * self.grid - 1).to(x_t.dtype).expand(len(x_t), -1, -1, -1)  # (B, 2, H, W)
        out = self.trunk(torch.cat([x_t, grid], dim=1), t).sample
        return out.split([self.config.in_channels, self.config.rank], dim=1)

    def decode(
        self, shared: tuple[torch.Tensor, torch.Tensor], conds: torch.Tensor, index: torch.Tensor
    ) -> torch.Tensor:
        """Predictions (P, C, H, W) for concepts (P, D), from what `encode` gave; `index` (P,) as in `forward`."""
        start, features = shared
        return start[index] + self.mixed(features[index] * self.phi(conds).to(features.dtype))

    def mixed(self, product: torch.Tensor) -> torch.Tensor:
        """W at each place: (..., R, H, W) -> (..., C, H, W)."""
        return self.mix(product.movedim(-3, -1)).movedim(-1, -3)

    def phi(self, conds: torch.Tensor) -> torch.Tensor:
        """The R numbers of each concept (P, D) at each place: (P, R, H, W)."""
        raise NotImplementedError


class SeparableAttributeUNet(SeparableTrunk):
    """Concepts are vectors of any kind (one-hot attributes): phi is linear in them, R numbers of its own at each place.

    Predictions combine by their mean, as those of `AttributeUNet`. A concept costs one product with the features, so that
    one trunk pass prices any number of attributes.

    Args:
        sample_size, in_channels, block_out_channels, layers_per_block, attention, rank: as those of `SeparableUNet`.
        cond_size: D; two per attribute.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 8,
        in_channels: int = 48,
        block_out_channels: tuple[int, ...] = (96, 128),
        layers_per_block: int = 1,
        attention: tuple[bool, ...] = (False, False),
        rank: int = 192,
        cond_size: int = 6,
    ):
        super().__init__()
        out_channels = in_channels + rank
        self.build_trunk(sample_size, in_channels, block_out_channels, layers_per_block, attention, out_channels)
        self.what = nn.Linear(cond_size, rank * sample_size**2)
        self.mix = nn.Linear(rank, in_channels, bias=False)  # W

    def phi(self, conds: torch.Tensor) -> torch.Tensor:
        """The R numbers of each concept (P, D) at each place: (P, R, H, W)."""
        side = self.config.sample_size
        return self.what(conds.to(self.what.weight.dtype)).unflatten(1, (-1, side, side))


class LocalConcepts:
    """Concepts are objects that act near their places: phi(c), R numbers at each place, and m = sum_k a_k phi(c_k).

    phi sees the place of an object through smooth maps on the latent grid: offsets to it, and their moments under Gaussian
    windows of several widths, as in `PositionUNet`. A network of this kind has windows and reach in its config.
    """

    config: Any
    grid: torch.Tensor
    where: nn.Sequential
    encode: Callable[..., Any]  # of the network
    decode: Callable[..., torch.Tensor]

    def build_phi(self, windows: Sequence[float], hidden: int, rank: int, cond_size: int) -> None:
        """Make the three layers that turn the maps, and an object's attributes, into R numbers."""
        self.where = nn.Sequential(
            nn.Linear(2 + 6 * len(windows) + cond_size - 2, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, rank),
        )

    def forward(
        self,
        x_t: torch.Tensor,
        t: torch.Tensor,
        conds: torch.Tensor,
        index: torch.Tensor,
        weights: torch.Tensor | None = None,
        replacements: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> Any:
        """Predict for pairs (image, concept), or, with `weights`, for each image the composition of its pairs.

        Args:
            x_t: noisy latents (B, C, H, W). t: timesteps (B,). conds: concepts (P, D).
            index: (P,), the row of `x_t` that each concept belongs to.
            weights: (P,), a_k of each pair, 0 for padding.
            replacements: concepts (Q, D) of other attributes, and the pairs (Q,) at whose places they stand, each alone.

        Returns:
            predictions (P, C, H, W); with `weights` (B, C, H, W); with `replacements` also how each changes that of its
            image (Q, C, H, W).
        """
        shared = self.encode(x_t, t)
        if weights is None:
            return self.decode(shared, conds, index)
        offsets = self.offsets(conds)  # (P, H, W, 2)
        maps, amounts = self.maps(offsets), weights[:, None, None, None] * self.near(offsets)  # (P, H, W, .)
        own = self.hidden(maps, conds[:, None, None, 2:])  # (P, H, W, hidden)
        composed = self.compose(shared, self.total(own, amounts, index, len(x_t)))
        if replacements is None:
            return composed
        others, replaced = replacements
        theirs = self.hidden(maps[replaced], others[:, None, None, 2:])  # (Q, H, W, hidden)
        of_m = F.linear(theirs.sub_(own.index_select(0, replaced)), self.last.weight)  # (Q, H, W, R)
        changes = self.change(shared, of_m, index[replaced])  # (Q, C, H, W)
        return composed, amounts[replaced].movedim(-1, 1).to(changes) * changes  # C numbers are scaled, not R

    def total(self, own: torch.Tensor, amounts: torch.Tensor, index: torch.Tensor, num_images: int) -> torch.Tensor:
        """m = sum_k a_k phi(c_k): `hidden` of concepts (P, H, W, hidden), a_k times `near` (P, H, W, 1) -> (B, R, H, W).

        The last layer is linear, so that it is applied to a sum, not to each concept.
        """
        summed = F.linear(compose(own, amounts, index, num_images), self.last.weight)  # (B, H, W, R)
        biases = compose(amounts, torch.ones_like(index), index, num_images)  # (B, H, W, 1), how many
        return (summed + biases * self.last.bias).movedim(-1, 1)

    @property
    def composition(self) -> str:
        """How concepts combine: "sum" (a_k, 1 each) or "mean" (w_k, which sum to 1)."""
        return self.config.composition

    def weights_in_sum(self, weights: torch.Tensor) -> torch.Tensor:
        """a_k (P,) of a composition whose concepts have equal weights 1 / K (P,), 0 for padding."""
        return (weights > 0).to(weights) if self.composition == "sum" else weights

    def compose(self, shared: tuple[torch.Tensor, torch.Tensor], m: torch.Tensor) -> torch.Tensor:
        """The prediction (B, C, H, W) under m (B, R, H, W), from what `encode` gave."""
        raise NotImplementedError

    def change(
        self, shared: tuple[torch.Tensor, torch.Tensor], of_m: torch.Tensor, index: torch.Tensor
    ) -> torch.Tensor:
        """How the predictions of images `index` (Q,) change (Q, C, H, W) where m does by `of_m` (Q, H, W, R)."""
        raise NotImplementedError

    def phi(self, conds: torch.Tensor) -> torch.Tensor:
        """The R numbers of each concept (P, D) at each place: (P, R, H, W), twice differentiable in the concept."""
        return self.phi_at(self.offsets(conds), conds[:, None, None, 2:]).movedim(-1, 1)

    def offsets(self, conds: torch.Tensor) -> torch.Tensor:
        """From concepts (P, D) to each place: (P, H, W, 2)."""
        return (self.grid[None].to(conds.dtype) - conds[:, :2, None, None]).movedim(1, -1)

    def phi_at(self, offsets: torch.Tensor, what: torch.Tensor) -> torch.Tensor:
        """phi (..., R) at places that lie `offsets` (..., 2) from a concept of attributes `what` (..., D - 2).

        Either may be 1 in dimensions that the other has: what many concepts share is computed once.
        """
        phi = self.last(self.hidden(self.maps(offsets), what))
        return phi.mul_(self.near(offsets).to(phi))

    def maps(self, offsets: torch.Tensor) -> torch.Tensor:
        """What phi sees at places that lie `offsets` (..., 2) away: these, and moments under each window (..., 2 + 6 S)."""
        dx, dy = offsets.unbind(-1)
        maps = [dx, dy]
        for width in self.config.windows:
            u, v = dx / width, dy / width
            window = torch.exp(-(u**2 + v**2) / 2)
            maps += [window, window * u, window * v, window * u * u, window * u * v, window * v * v]
        return torch.stack(maps, dim=-1).to(self.first.weight.dtype)

    @property
    def first(self) -> nn.Linear:
        """The first layer of phi: of maps and attributes side by side."""
        layer: Any = self.where[0]
        return layer

    @property
    def last(self) -> nn.Linear:
        """The last layer of phi, which makes the R numbers."""
        layer: Any = self.where[-1]
        return layer

    def hidden(self, maps: torch.Tensor, what: torch.Tensor) -> torch.Tensor:
        """What all layers but the last make of `maps` (..., 2 + 6 S) and attributes (..., D - 2): (..., hidden).

        The first layer reads both apart, so that either may be 1 in dimensions that the other has.
        """
        by_place, by_attributes = self.first.weight.split([maps.shape[-1], what.shape[-1]], dim=1)
        said = F.linear(what.to(by_attributes.dtype), by_attributes, self.first.bias)
        return self.where[1:-1](F.linear(maps, by_place) + said)

    def near(self, offsets: torch.Tensor) -> torch.Tensor:
        """The window (..., 1) on phi at places that lie `offsets` (..., 2) away."""
        return torch.exp(-offsets.square().sum(-1, keepdim=True) / (2 * self.config.reach**2))


class SeparableUNet(LocalConcepts, SeparableTrunk):
    """Concepts are objects; phi sees the place of one through smooth maps on the latent grid, and acts near it alone.

    phi is a three-layer map of them times one more Gaussian window, so that an object changes the prediction around it.

    Args:
        sample_size: H = W, side of the latent grid. in_channels: C.
        block_out_channels, layers_per_block, attention: the trunk; `attention` says which of its levels attend to all.
        rank: R, features that concepts multiply. hidden: width of phi.
        windows: widths of the maps' windows, in units of the image side; reach: width of the window on phi.
        composition: "sum" (m = sum_k phi(c_k), as the paper writes it) or "mean" (as the published code has it).
        cond_size: D; a position has 2, in [0, 1]; further numbers are blocks of attributes (`igm.data.vocabulary`).
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 8,
        in_channels: int = 24,
        block_out_channels: tuple[int, ...] = (96, 128),
        layers_per_block: int = 1,
        attention: tuple[bool, ...] = (False, False),
        rank: int = 128,
        hidden: int = 128,
        windows: tuple[float, ...] = (0.04, 0.08, 0.16, 0.32),
        reach: float = 0.2,
        composition: str = "sum",
        cond_size: int = 2,
    ):
        super().__init__()
        if composition not in COMPOSITIONS:
            raise ValueError(f"composition {composition!r} of the network is not one of {', '.join(COMPOSITIONS)}")
        out_channels = in_channels + rank
        self.build_trunk(sample_size, in_channels, block_out_channels, layers_per_block, attention, out_channels)
        self.build_phi(windows, hidden, rank, cond_size)
        self.mix = nn.Linear(rank, in_channels, bias=False)  # W

    def compose(self, shared: tuple[torch.Tensor, torch.Tensor], m: torch.Tensor) -> torch.Tensor:
        """The prediction (B, C, H, W) under m (B, R, H, W), from what `encode` gave: f_0 + W (B * m)."""
        start, features = shared
        return start + self.mixed(features * m.to(features.dtype))

    def change(
        self, shared: tuple[torch.Tensor, torch.Tensor], of_m: torch.Tensor, index: torch.Tensor
    ) -> torch.Tensor:
        """W (B * change of m), as the prediction is linear in m: (Q, C, H, W)."""
        features = shared[1].movedim(1, -1).contiguous().index_select(0, index)  # (Q, H, W, R)
        return self.mix(features * of_m.to(features.dtype)).movedim(-1, 1)

    @torch.no_grad()
    def phi_and_slopes(self, conds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`phi` (P, R, H, W) of concepts (P, D), and its derivatives (P, 2, R, H, W) in their places, by hand.

        The same as differentiating `phi`, at a tenth of the time of automatic differentiation.
        """
        offsets = self.offsets(conds)  # (P, H, W, 2)
        kept = conds[:, None, None, 2:].expand(*offsets.shape[:3], -1)  # (P, H, W, D - 2): the same at each place
        widths = torch.tensor(self.config.windows, dtype=conds.dtype, device=conds.device)
        u, v = (offsets[..., None] / widths[:, None].T).unbind(-2)  # (P, H, W, S) each
        one, zero, window = torch.ones_like(u), torch.zeros_like(u), torch.exp(-(u**2 + v**2) / 2)
        powers = torch.stack([one, u, v, u * u, u * v, v * v], -1)  # (P, H, W, S, 6)
        by_u = u[..., None] * powers - torch.stack([zero, one, zero, 2 * u, v, zero], -1)
        by_v = v[..., None] * powers - torch.stack([zero, zero, one, zero, u, 2 * v], -1)
        narrow = (window / widths)[..., None]
        slopes = [torch.cat([-unit.expand_as(offsets), (narrow * by).flatten(-2), torch.zeros_like(kept)], -1)
                  for unit, by in zip(torch.eye(2).to(offsets), (by_u, by_v), strict=True)]  # fmt: skip
        value = torch.cat([offsets, (window[..., None] * powers).flatten(-2), kept], -1)  # (P, H, W, F)
        slope = torch.stack(slopes, 1)  # (P, 2, H, W, F)
        near = self.near(offsets)  # (P, H, W, 1)
        for layer in self.where:
            if isinstance(layer, nn.Linear):
                value, slope = layer(value), slope @ layer.weight.T
            else:  # y = SiLU(x) = x s has the derivative s + y (1 - s), with s the logistic function of x
                share = torch.sigmoid(value)
                value.mul_(share)
                slope.mul_(torch.addcmul(share, value, 1 - share)[:, None])
        inward = (offsets / self.config.reach**2).movedim(-1, 1)[..., None]  # (P, 2, H, W, 1): near' / near
        slope = (slope + value[:, None] * inward) * near[:, None]
        return (value * near).movedim(-1, 1), slope.movedim(-1, 2)


NETWORKS["SeparableUNet"] = SeparableUNet
NETWORKS["SeparableAttributeUNet"] = SeparableAttributeUNet
