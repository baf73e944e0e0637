"""phi of a separable network as the search reads it; that of places alone from a table, made once a network.

phi depends on a concept's place through the offset to each place of the latent grid alone. So a cubic B-spline through its
values on a fine lattice of offsets, a multiple of the grid's, gives phi and its slopes at a few per cent of the network's
arithmetic: all places of one concept use the same 16 weights.
"""

import copy
import functools
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.ndimage import spline_filter1d

from igm.inference.views import View
from igm.models.separable import SeparableUNet

STEPS = 8  # lattice steps from one place of the grid to the next
LEFT_OUT = 0.01  # the share of phi that a quick search does without
MARGIN = 4  # lattice points beyond the farthest offset
_tables: "weakref.WeakKeyDictionary[SeparableUNet, tuple[Any, PhiTable]]" = weakref.WeakKeyDictionary()


class Phi:
    """phi of a network: concepts (M, D) -> (M, P, R) float32, no gradient; P places of all views, one after the other.

    Concepts may be positions (M, 2) alone, also where the network knows whole objects: their attributes are unknown then.
    """

    def __init__(self, network: SeparableUNet, views: Sequence[View] = (View(),)):
        self.network, self.views = network, views

    @property
    def table(self) -> "PhiTable":
        """That of places alone."""
        return table_of(self.network)

    def whole(self, conds: torch.Tensor) -> torch.Tensor:
        """Concepts (M, 2) or (M, D) as (M, D): zeros for what is unknown."""
        return torch.nn.functional.pad(conds, (0, self.network.config.cond_size - conds.shape[-1]))

    @torch.no_grad()
    def __call__(self, conds: torch.Tensor) -> torch.Tensor:
        there = self.in_views(conds)
        if conds.shape[-1] == 2:
            values = self.table(there)
        else:
            values = self.network.phi(there).float().flatten(2).transpose(1, 2)  # (V M, P, R), P of one view
        return self.side_by_side(values)

    def in_views(self, conds: torch.Tensor) -> torch.Tensor:
        """Concepts (M, D) as they are in each view: (V M, D)."""
        return torch.cat([view.concepts(conds) for view in self.views])

    def side_by_side(self, values: torch.Tensor) -> torch.Tensor:
        """The places of all views one after the other: (V M, ..., P, R) -> (M, ..., V P, R)."""
        return torch.cat(values.chunk(len(self.views)), dim=-2)

    def around(self, place: torch.Tensor, number: int) -> torch.Tensor:
        """The places of each view nearest to a place (2,) of the picture: their numbers (V J,) among those of all views."""
        grid = self.network.grid.flatten(1).T  # (P, 2)
        distances = [(grid - view.concepts(place)).norm(dim=1) for view in self.views]
        nearest = [own.topk(min(number, len(grid)), largest=False).indices for own in distances]
        return torch.cat([own + i * len(grid) for i, own in enumerate(nearest)])

    @torch.no_grad()
    def at(self, place: torch.Tensor, values: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
        """phi (M, V J, R) of objects at one place (2,) with attributes (M, D - 2), where `around` says, as in each view."""
        grid, offsets = self.network.grid.flatten(1).T, []
        for i, (view, own) in enumerate(zip(self.views, near.chunk(len(self.views)), strict=True)):
            offsets.append(grid[own - i * len(grid)] - view.concepts(place))  # (J, 2)
        return self.network.phi_at(torch.cat(offsets), values[:, None]).float()

    @torch.no_grad()
    def of_values(self, places: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """phi (K, T, P, R) of objects at K places (K, 2), each with T choices of attributes (K, T, D - 2)."""
        offsets = self.network.offsets(self.in_views(places))[:, None]  # (V K, 1, H, W, 2)
        what = values.repeat(len(self.views), 1, 1)[:, :, None, None]  # (V K, T, 1, 1, D - 2)
        return self.side_by_side(self.network.phi_at(offsets, what).float().flatten(2, 3))

    @torch.no_grad()
    def of_grid(self, conds: torch.Tensor) -> torch.Tensor:
        """phi of a search's grid of positions (M, 2): the last is kept, so that pictures measured one by one share it."""
        table = self.table
        if table.grid is None or table.grid[0] != self.views or not torch.equal(table.grid[1], conds):
            table.grid = self.views, conds, self(conds)
        return table.grid[2]

    @torch.no_grad()
    def with_slopes(self, conds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """phi (M, P, R) and its derivatives (M, 2, P, R) in the positions."""
        there = self.in_views(conds)
        if conds.shape[-1] == 2:
            values, slopes = self.table.with_slopes(there)
        else:
            values, slopes = self.network.phi_and_slopes(there)
            values, slopes = values.float().flatten(2).transpose(1, 2), slopes.float().flatten(3).transpose(2, 3)
        signs = slopes.new_tensor([view.signs for view in self.views]).repeat_interleave(len(conds), 0)  # (V M, 2)
        return self.side_by_side(values), self.side_by_side(slopes * signs[..., None, None])


class QuickPhi(Phi):
    """phi of places alone, (M, P, R'), in the few of its R directions that hold nearly all of it at any offset.

    A search in the error form along these (`ErrorForm.along`) reads a fraction of the whole one.
    """

    @property
    def table(self) -> "PhiTable":
        """That along the directions."""
        return table_of(self.network).along_few

    @property
    def directions(self) -> torch.Tensor:
        """Orthonormal columns (R, R')."""
        return table_of(self.network).directions


class PhiTable:
    """phi of places alone, from spline coefficients on a lattice of offsets.

    Memory: (2 STEPS side + 2 MARGIN)^2 R numbers: 21 MB at side 12, R 128. Error of clevr-mini's: 0.03 % of phi's root
    mean square.
    """

    @torch.no_grad()
    def __init__(self, network: SeparableUNet):
        self.side = int(network.config.sample_size)
        self.grid: tuple[Sequence[View], torch.Tensor, torch.Tensor] | None = None  # views, positions and their phi
        self.step = 1 / (self.side * STEPS)
        self.first = -self.side * STEPS - MARGIN  # lattice number of the first offset
        self.count = 2 * (self.side * STEPS + MARGIN) + 1
        axis = (torch.arange(self.count, device=network.grid.device) + self.first) * self.step
        offsets = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)  # (N, N, 2): row y, column x
        what = offsets.new_zeros(*offsets.shape[:2], network.config.cond_size - 2)
        values = torch.stack([network.phi_at(*row).float() for row in zip(offsets, what, strict=True)])  # (N, N, R)
        filtered = spline_filter1d(spline_filter1d(values.cpu().numpy(), axis=0), axis=1).astype(np.float32)
        self.coefficients = torch.from_numpy(filtered).flatten(0, 1).to(values.device)  # (N^2, R)

    @functools.cached_property
    def directions(self) -> torch.Tensor:
        """Orthonormal columns (R, R'), as few as leave out no more than the share LEFT_OUT of phi's root mean square."""
        values = self.coefficients.double()
        energy, columns = torch.linalg.eigh(values.T @ values)  # ascending
        left_out = (energy.clamp(min=0).cumsum(0) / energy.sum()).sqrt()  # by leaving out so many and one more
        return columns[:, int((left_out <= LEFT_OUT).sum()) :].flip(1).to(self.coefficients)

    @functools.cached_property
    def along_few(self) -> "PhiTable":
        """The table of phi along `directions`."""
        few = copy.copy(self)
        few.coefficients, few.grid = self.coefficients @ self.directions, None
        return few

    def __call__(self, conds: torch.Tensor) -> torch.Tensor:
        """phi (M, P, R) of positions (M, 2)."""
        start, (x, y) = self.weights(conds)
        return self.summed(start, (y[0][:, :, None] * x[0][:, None])[:, None])[:, 0]

    def with_slopes(self, conds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """phi (M, P, R) and its derivatives (M, 2, P, R) of positions (M, 2)."""
        start, (x, y) = self.weights(conds)
        both = [b[:, :, None] * a[:, None] for a, b in ((x[0], y[0]), (x[1], y[0]), (x[0], y[1]))]  # (M, 4, 4) each
        found = self.summed(start, torch.stack(both, dim=1))  # (M, 3, P, R)
        return found[:, 0], found[:, 1:]

    def weights(self, conds: torch.Tensor) -> tuple[torch.Tensor, tuple]:
        """The first lattice point (M, 2) for place (0, 0); for x and for y four weights and their slopes, (M, 4) each."""
        place = STEPS / 2 - conds.float() / self.step  # (M, 2): the offset of place (0, 0), in lattice steps
        whole = place.floor()
        f = (place - whole)[..., None]  # (M, 2, 1)
        value = torch.cat([(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3], dim=-1) / 6
        slope = torch.cat([-((1 - f) ** 2), 3 * f**2 - 4 * f, -3 * f**2 + 2 * f + 1, f**2], dim=-1) / 2
        slope = -slope / self.step  # the offset falls as the concept moves on
        return whole.long() - 1 - self.first, tuple((value[:, i], slope[:, i]) for i in range(2))

    def summed(self, start: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Sums (M, S, P, R) of 4 x 4 lattice points at each place: start (M, 2), weights (M, S, 4, 4) by row and column."""
        taps = torch.arange(4, device=start.device)
        places = torch.arange(self.side, device=start.device) * STEPS
        columns = start[:, 0, None, None] + places[:, None] + taps  # (M, W, 4)
        rows = start[:, 1, None, None] + places[:, None] + taps  # (M, H, 4)
        index = rows[:, :, None, :, None] * self.count + columns[:, None, :, None, :]  # (M, H, W, 4, 4)
        index = index.view(len(start), 1, -1, 16).expand(-1, weights.shape[1], -1, -1)  # (M, S, P, 16)
        each = weights.flatten(2)[:, :, None].expand_as(index)
        bags = torch.nn.functional.embedding_bag(
            index.flatten(0, 2), self.coefficients, per_sample_weights=each.flatten(0, 2), mode="sum"
        )
        return bags.view(*index.shape[:3], -1)


def table_of(network: SeparableUNet) -> PhiTable:
    """The network's table, made anew where its weights have changed."""
    own = list(network.where.parameters())
    state = [(p.data_ptr(), p._version, p.dtype) for p in own]
    known = _tables.get(network)
    if known is None or known[0] != state:
        _tables[network] = known = (state, PhiTable(network))
    return known[1]
