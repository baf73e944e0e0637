"""Positions off the grid: damped Gauss-Newton steps on the error of a composition at its best gain, in closed form.

With u = a m(c) the error is const - 2 <g, u> + <u, H u>, its derivative in u is 2 (H u - g), du/dc_k = a dphi(c_k)/dc_k and
du/da = m. H being positive, J^T H J is the Gauss-Newton matrix of positions and gain together: no network row is needed.
"""

from dataclasses import dataclass

import torch

from igm.error_form import ErrorForm, best_gain, gain_score
from igm.inference.phi import Phi


@dataclass
class Sets:
    """S sets of each of B images: conds (B, S, K, D), real (B, S, K) bool; error and gain (B, S) of their composition."""

    conds: torch.Tensor
    real: torch.Tensor
    error: torch.Tensor
    gain: torch.Tensor

    def best(self) -> torch.Tensor:
        """The number (B,) of each image's set of the lowest error."""
        return self.error.argmin(1)

    def take(self, rows: torch.Tensor) -> "Sets":
        """One set of each image, by its number (B,): S = 1."""
        images = torch.arange(len(rows), device=rows.device)
        return Sets(*(part[images, rows][:, None] for part in (self.conds, self.real, self.error, self.gain)))

    def of(self, image: int) -> "Sets":
        """The sets of one image alone."""
        rows = slice(image, image + 1)
        return Sets(self.conds[rows], self.real[rows], self.error[rows], self.gain[rows])

    def where(self, images: torch.Tensor) -> "Sets":
        """The sets of some images, (B,) bool."""
        return Sets(self.conds[images], self.real[images], self.error[images], self.gain[images])

    def put(self, images: torch.Tensor, other: "Sets") -> None:
        """Make the sets of some images, (B,) bool, those of `other`."""
        self.conds[images], self.real[images] = other.conds, other.real
        self.error[images], self.gain[images] = other.error, other.gain

    @classmethod
    def of_images(cls, sets: list["Sets"]) -> "Sets":
        """The sets of several images together."""
        parts = ((own.conds, own.real, own.error, own.gain) for own in sets)
        return cls(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def replaced(self, better: torch.Tensor, other: "Sets") -> "Sets":
        """These sets with those of `other` where `better` (B, S)."""
        pairs = ((self.conds, other.conds), (self.real, other.real), (self.error, other.error), (self.gain, other.gain))
        return Sets(*(torch.where(better.view(*better.shape, *[1] * (a.ndim - 2)), b, a) for a, b in pairs))


@dataclass
class Point:
    """Where a descent stands: conds (B, S, K, D), and what the error form says of the J = 2 K + 1 directions from there.

    Directions are the slopes of m, x and y of one concept after the other, and m itself: linear (B, S, J) their inner
    products with g, gram (B, S, J, J) with H between them.
    """

    conds: torch.Tensor
    linear: torch.Tensor
    gram: torch.Tensor
    error: torch.Tensor  # (B, S)

    @property
    def gain(self) -> torch.Tensor:
        """The best gain (B, S)."""
        return best_gain(self.linear[..., -1], self.gram[..., -1, -1])


def look(
    form: ErrorForm, phi: Phi, conds: torch.Tensor, real: torch.Tensor, fixed: torch.Tensor | float = 0.0
) -> Point:
    """The point at conds (B, S, K, D), beside m = `fixed` (B, S, P, R); padding has phi 0. H is read once."""
    values, slopes = phi.with_slopes(conds.flatten(0, 2))
    m = (values.unflatten(0, real.shape) * real[..., None, None]).sum(2) + fixed  # (B, S, P, R)
    slopes = slopes.unflatten(0, real.shape) * real[..., None, None, None]  # (B, S, K, 2, P, R)
    ways = torch.cat([slopes.flatten(2, 3), m[:, :, None]], dim=2)  # (B, S, J, P, R)
    curved = form.times(ways.flatten(1, 2)).flatten(2).unflatten(1, ways.shape[1:3])  # (B, S, J, P R)
    flat = ways.flatten(3)  # (B, S, J, P R)
    gram, linear = flat @ curved.transpose(2, 3), (flat @ form.g.flatten(1)[:, None, :, None])[..., 0]
    return Point(conds, linear, gram, form.const[:, None] - gain_score(linear[..., -1], gram[..., -1, -1]))


def newton_step(at: Point, damping: torch.Tensor) -> torch.Tensor:
    """The damped Gauss-Newton step (B, S, K, 2) of the positions from a point; damping (B, S), relative to the diagonal."""
    gain = at.gain[..., None]  # (B, S, 1)
    scale = torch.cat(
        [gain.expand_as(at.linear[..., 1:]), torch.ones_like(gain)], dim=-1
    )  # u = a m moves so, (B, S, J)
    matrix = scale[..., :, None] * at.gram * scale[..., None, :]  # (B, S, J, J)
    slope = scale * (at.gram[..., -1] * gain - at.linear)  # (B, S, J): of each direction with H u - g
    diagonal = matrix.diagonal(dim1=2, dim2=3)
    floor = 1e-6 * diagonal.amax(2, keepdim=True) + 1e-20  # padding has zeros there
    matrix = matrix + torch.diag_embed(damping[..., None] * diagonal + floor)
    return -torch.linalg.solve(matrix, slope)[..., :-1].unflatten(2, (-1, 2))


def refine(
    form: ErrorForm,
    phi: Phi,
    conds: torch.Tensor,
    real: torch.Tensor,
    *,
    min_separation: float,
    num_steps: int,
    fixed: torch.Tensor | float = 0.0,
    longest: float = 0.05,
) -> Sets:
    """Descend from conds (B, S, K, D); steps that do not lower the error are not taken, and the next is shorter.

    Only positions move, the first two numbers; objects keep their attributes. Those that a step brings nearer than
    `min_separation` are pushed apart; none moves more than `longest` in a step.
    Other objects, whose m is `fixed` (B, S, P, R), stay where they are.
    """
    start = conds.clamp(0, 1)
    if not num_steps:
        return standing(form, phi, start, real, fixed)

    def onward(at: Point, damping: torch.Tensor) -> torch.Tensor:
        step = newton_step(at, damping)
        step = step * (longest / step.norm(dim=3, keepdim=True).clamp(min=longest)) * real[..., None]
        where = apart((at.conds[..., :2] + step).clamp(0, 1), real, min_separation)
        return torch.cat([where, conds[..., 2:]], dim=3)

    at = look(form, phi, start, real, fixed)
    damping = torch.full_like(at.error, 0.1)
    for _ in range(num_steps - 1):
        trial = look(form, phi, onward(at, damping), real, fixed)
        lower = trial.error < at.error
        at = choose(lower, trial, at)
        damping = torch.where(lower, damping * 0.3, damping * 5).clamp(1e-4, 1e4)
    last = standing(form, phi, onward(at, damping), real, fixed)  # nobody asks for directions from there
    return Sets(at.conds, real, at.error, at.gain).replaced(last.error < at.error, last)


def standing(
    form: ErrorForm, phi: Phi, conds: torch.Tensor, real: torch.Tensor, fixed: torch.Tensor | float = 0.0
) -> Sets:
    """Sets at conds (B, S, K, D) as they are, beside m = `fixed` (B, S, P, R)."""
    values = phi(conds.flatten(0, 2)).unflatten(0, real.shape) * real[..., None, None]  # (B, S, K, P, R)
    error, gain = form.error_at_best_gain(values.sum(2) + fixed)
    return Sets(conds, real, error, gain)


def choose(first: torch.Tensor, one: Point, other: Point) -> Point:
    """`one` where `first` (B, S), else `other`."""

    def pick(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.where(first.view(*first.shape, *[1] * (a.ndim - 2)), a, b)

    return Point(
        pick(one.conds, other.conds),
        pick(one.linear, other.linear),
        pick(one.gram, other.gram),
        pick(one.error, other.error),
    )


def apart(conds: torch.Tensor, real: torch.Tensor, min_separation: float) -> torch.Tensor:
    """Push pairs that are nearer than `min_separation` apart to it: positions (B, S, K, 2), real (B, S, K)."""
    between = conds[..., :, None, :] - conds[..., None, :, :]  # (B, S, K, K, D)
    distance = between.norm(dim=-1).clamp(min=1e-6)
    others = ~torch.eye(conds.shape[2], dtype=torch.bool, device=conds.device)
    pairs = real[..., :, None] & real[..., None, :] & others
    push = (min_separation - distance).clamp(min=0) / 2 * pairs  # half for each of the two
    return (conds + (push / distance)[..., None].mul(between).sum(-2)).clamp(0, 1)
