"""Views of a picture: itself, and another in which the codec cuts it elsewhere, mirrored where training saw mirror images.

The concepts of a picture must denoise every view of it, and where they are in a view is known exactly. What the borders of
patches cut in one view is whole in the other, and the network's errors on the two are nearly independent: half of the noise
draws on each tell more than all on one.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class View:
    """A picture mirrored left to right, if `mirrored`; then moved right and down by `shift`, a share of its side."""

    mirrored: bool = False
    shift: float = 0.0

    def images(self, images: torch.Tensor) -> torch.Tensor:
        """The view of pictures (B, 3, R, R); what comes in at the edges repeats them."""
        moved = images.flip(-1) if self.mirrored else images
        pixels, side = round(self.shift * images.shape[-1]), images.shape[-1]
        return torch.nn.functional.pad(moved, (pixels, 0, pixels, 0), mode="replicate")[..., :side, :side]

    def concepts(self, conds: torch.Tensor) -> torch.Tensor:
        """Where concepts (..., D) of the picture are in the view; their attributes stay."""
        x = 1 - conds[..., :1] if self.mirrored else conds[..., :1]
        return torch.cat([x + self.shift, conds[..., 1:2] + self.shift, conds[..., 2:]], dim=-1)

    @property
    def signs(self) -> tuple[float, float]:
        """How the place in the view moves with that in the picture, right and down."""
        return (-1.0 if self.mirrored else 1.0), 1.0


def views_of(side: int, mirrored: bool) -> tuple[View, ...]:
    """The picture, and the view that is moved by half a patch, a picture being `side` patches wide."""
    return View(), View(mirrored=mirrored, shift=0.5 / side)
