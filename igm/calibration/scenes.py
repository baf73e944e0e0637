"""The scenes that a calibration looks at: training's, perhaps varied, and others beside them."""

from typing import Any

import numpy as np
import torch

from igm.data.dataset import Item
from igm.data.varied import NOTHING, Variation, VariedScenes

LOOKS = 0  # stream of random numbers


class CalibrationScenes(torch.utils.data.Dataset):
    """Training scenes, a share of them varied, then further ones; item i is the same each time.

    Measured on training's own pictures alone a count is too sure elsewhere: what the network cannot explain of an object
    there looks like a second one.

    Args:
        own: training scenes. vary: share of them that get a new look. other: scenes of another source, such as with more
            objects.
    """

    def __init__(self, own: Any, vary: float = 0.0, other: Any = None):
        self.own, self.vary, self.other = own, vary, other
        self.split = own.split
        self._varied: VariedScenes | None = None

    @property
    def resolution(self) -> int:
        """Side of the pictures in pixels."""
        return self.own.resolution

    @resolution.setter
    def resolution(self, side: int) -> None:
        self.own.resolution = side
        if self.other is not None:
            self.other.resolution = side

    def __len__(self) -> int:
        return len(self.own) + (len(self.other) if self.other is not None else 0)

    def __getitem__(self, i: int) -> Item:
        """A picture (3, R, R) in [-1, 1], `conds` and `mask`."""
        if i >= len(self.own):
            return self.other[i - len(self.own)]
        if not self.vary:
            return self.own[i]
        if self._varied is None:  # reads all pictures
            self._varied = VariedScenes(self.own, Variation(share=self.vary), NOTHING)
        return self._varied.varied(i, np.random.default_rng([LOOKS, i]))
