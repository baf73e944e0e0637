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
    """Where a descent stands: conds (B, S, K, D), their m (B, S, P, R) and its slopes (B, S, K, 2, P, R)."""

    conds: torch.Tensor
    m: torch.Tensor
    slopes: torch.Tensor
    error: torch.Tensor  # (B, S)
    gain: torch.Tensor  # (B, S)


def look(
    form: ErrorForm, phi: Phi, conds: torch.Tensor, real: torch.Tensor, fixed: torch.Tensor | float = 0.0
) -> Point:
    """Error, gain and derivatives at conds (B, S, K, D), beside m = `fixed` (B, S, P, R); padding has phi 0."""
    values, slopes = phi.with_slopes(conds.flatten(0, 2))
    values = values.unflatten(0, real.shape) * real[..., None, None]  # (B, S, K, P, R)
    slopes = slopes.unflatten(0, real.shape) * real[..., None, None, None]
    m = values.sum(2) + fixed
    linear, quadratic = form.parts(m)
    error = form.const[:, None] - gain_score(linear, quadratic)
    return Point(conds, m, slopes, error, best_gain(linear, quadratic))


def newton_step(form: ErrorForm, at: Point, damping: torch.Tensor) -> torch.Tensor:
    """The damped Gauss-Newton step (B, S, K, 2) of the positions from a point; damping (B, S), relative to the diagonal."""
    b, s, k, d = at.slopes.shape[:4]
    gain = at.gain[..., None, None]
    m, shape = at.m.flatten(2)[:, :, None], at.m.shape[2:]
    columns = torch.cat([at.slopes.flatten(2, 3).flatten(3) * gain, m], dim=2)  # (B, S, J, P R), J = K D + 1
    curved = form.times(columns.flatten(1, 2).unflatten(2, shape)).flatten(2).unflatten(1, (s, -1))
    rest = (curved[:, :, -1] * at.gain[..., None]) - form.g.flatten(1)[:, None]  # H u - g: (B, S, P R)
    matrix = columns @ curved.transpose(2, 3)  # (B, S, J, J)
    slope = (columns @ rest[..., None])[..., 0]  # (B, S, J)
    diagonal = matrix.diagonal(dim1=2, dim2=3)
    floor = 1e-6 * diagonal.amax(2, keepdim=True) + 1e-20  # padding has zeros there
    matrix = matrix + torch.diag_embed(damping[..., None] * diagonal + floor)
    return -torch.linalg.solve(matrix, slope)[..., :-1].view(b, s, k, d)


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
    at = look(form, phi, conds.clamp(0, 1), real, fixed)
    what = conds[..., 2:]  # (B, S, K, D - 2)
    damping = torch.full_like(at.error, 0.1)
    for _ in range(num_steps):
        step = newton_step(form, at, damping)
        step = step * (longest / step.norm(dim=3, keepdim=True).clamp(min=longest)) * real[..., None]
        where = apart((at.conds[..., :2] + step).clamp(0, 1), real, min_separation)
        trial = look(form, phi, torch.cat([where, what], dim=3), real, fixed)
        lower = trial.error < at.error
        at = choose(lower, trial, at)
        damping = torch.where(lower, damping * 0.3, damping * 5).clamp(1e-4, 1e4)
    return Sets(at.conds, real, at.error, at.gain)


def choose(first: torch.Tensor, one: Point, other: Point) -> Point:
    """`one` where `first` (B, S), else `other`."""

    def pick(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.where(first.view(*first.shape, *[1] * (a.ndim - 2)), a, b)

    return Point(
        pick(one.conds, other.conds),
        pick(one.m, other.m),
        pick(one.slopes, other.slopes),
        pick(one.error, other.error),
        pick(one.gain, other.gain),
    )


def apart(conds: torch.Tensor, real: torch.Tensor, min_separation: float) -> torch.Tensor:
    """Push pairs that are nearer than `min_separation` apart to it: positions (B, S, K, 2), real (B, S, K)."""
    between = conds[..., :, None, :] - conds[..., None, :, :]  # (B, S, K, K, D)
    distance = between.norm(dim=-1).clamp(min=1e-6)
    others = ~torch.eye(conds.shape[2], dtype=torch.bool, device=conds.device)
    pairs = real[..., :, None] & real[..., None, :] & others
    push = (min_separation - distance).clamp(min=0) / 2 * pairs  # half for each of the two
    return (conds + (push / distance)[..., None].mul(between).sum(-2)).clamp(0, 1)
