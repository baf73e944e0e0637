"""A network for pictures: f(x_t, t | c_1, ..., c_K), whose trunk sees what all objects show beside the noisy image.

A separable network adds what objects change after its trunk, so that none knows of the others; good for understanding, and
for a picture too little. This one is asked about whole scenes: objects hide each other and cast shadows. Nothing is
composed, so that inference takes the other one.
"""

import torch
from diffusers.configuration_utils import register_to_config

from igm.models.separable import LocalConcepts
from igm.models.unet import NETWORKS, SharedTrunkUNet


class DrawingUNet(LocalConcepts, SharedTrunkUNet):
    """f(x_t, t | {c_k}) = trunk([x_t, sum_k phi(c_k)], t), with phi as a `SeparableUNet` has it.

    Args:
        sample_size, in_channels, block_out_channels, layers_per_block, attention, hidden, windows, reach, cond_size: as
            those of `SeparableUNet`.
        rank: numbers at each place that the objects show.
    """

    composition = "sum"
    learner = "drawing"  # the only one that may train it, as no method infers with it

    @register_to_config
    def __init__(
        self,
        sample_size: int = 12,
        in_channels: int = 24,
        block_out_channels: tuple[int, ...] = (96, 128, 160),
        layers_per_block: int = 1,
        attention: tuple[bool, ...] = (False, False, False),
        rank: int = 96,
        hidden: int = 128,
        windows: tuple[float, ...] = (0.04, 0.08, 0.16, 0.32),
        reach: float = 0.2,
        cond_size: int = 2,
    ):
        super().__init__()
        self.build_trunk(sample_size, in_channels + rank, block_out_channels, layers_per_block, attention, in_channels)
        self.build_phi(windows, hidden, rank, cond_size)

    def encode(self, x_t: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What concepts share: nothing but the question."""
        return x_t, t

    def decode(
        self, shared: tuple[torch.Tensor, torch.Tensor], conds: torch.Tensor, index: torch.Tensor
    ) -> torch.Tensor:
        """Predictions (P, C, H, W) for single concepts (P, D), a pass each."""
        x_t, t = shared
        return self.compose((x_t[index], t[index]), self.phi(conds))

    def compose(self, shared: tuple[torch.Tensor, torch.Tensor], m: torch.Tensor) -> torch.Tensor:
        """The prediction (B, C, H, W) under m (B, R, H, W)."""
        x_t, t = shared
        grid = (2 * self.grid - 1).to(x_t.dtype).expand(len(x_t), -1, -1, -1)  # (B, 2, H, W)
        return self.trunk(torch.cat([x_t, m.to(x_t.dtype), grid], dim=1), t).sample  # (B, C, H, W)


NETWORKS["DrawingUNet"] = DrawingUNet
