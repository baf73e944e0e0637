"""The denoising error of EVERY composition of a separable network, as a quadratic form measured once an image.

A separable network predicts f_0 + W (B * m) at each place of the latent grid; concepts enter through m = sum_k a_k phi(c_k)
alone (`igm.models.separable`). Over draws of (t, eps, x_0) with targets y, the error of ANY m is exactly

    L(m) = const - 2 <g, m> + <m, H m>,   g = E[(W^T (y - f_0)) * B],   H = E[B B^T] * (W^T W)   at each place,

all divided by the number of latent values. So N passes of the trunk price every concept, set, number and gain.

Symbols: B images, S compositions of each, K concepts, P = H W places, R features, C channels, N draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from igm.inference.draws import Draws
from igm.models.denoiser import Denoiser


@dataclass
class ErrorForm:
    """const (B,), g (B, P, R) and H (B, P, R, R), float32: P R (R + 1) + 1 numbers an image (4.2 MB at P 64, R 128)."""

    const: torch.Tensor
    g: torch.Tensor
    H: torch.Tensor

    def __len__(self) -> int:
        return len(self.const)

    def __getitem__(self, rows: slice | torch.Tensor) -> "ErrorForm":
        return ErrorForm(self.const[rows], self.g[rows], self.H[rows])

    def along(self, directions: torch.Tensor) -> "ErrorForm":
        """The form of m in R' orthonormal directions (R, R') alone: every m (..., R') there stands for m directions^T."""
        return ErrorForm(self.const, self.g @ directions, directions.T @ self.H @ directions)

    def times(self, m: torch.Tensor) -> torch.Tensor:
        """H m: (B, S, P, R) -> (B, S, P, R)."""
        return (m.transpose(1, 2) @ self.H).transpose(1, 2)  # H is symmetric

    def parts(self, m: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """L = <g, m> and Q = <m, H m>, (B, S) each, of m (B, S, P, R)."""
        return (self.g[:, None] * m).sum((2, 3)), (self.times(m) * m).sum((2, 3))

    def error(self, m: torch.Tensor) -> torch.Tensor:
        """Denoising error (B, S) of compositions m (B, S, P, R)."""
        linear, quadratic = self.parts(m)
        return self.const[:, None] - 2 * linear + quadratic

    def error_at_best_gain(self, m: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Denoising error (B, S) of m (B, S, P, R) times the gain that makes it least, L / Q, and that gain (B, S)."""
        linear, quadratic = self.parts(m)
        return self.const[:, None] - gain_score(linear, quadratic), best_gain(linear, quadratic)


def best_gain(linear: torch.Tensor, quadratic: torch.Tensor) -> torch.Tensor:
    """The gain a >= 0 that minimises - 2 a L + a^2 Q."""
    return (linear / quadratic.clamp(min=1e-12)).clamp(min=0)


def gain_score(linear: torch.Tensor, quadratic: torch.Tensor) -> torch.Tensor:
    """By how much the best gain lowers the error: L^2 / Q, and 0 where L < 0."""
    return linear.clamp(min=0).square() / quadratic.clamp(min=1e-12)


@dataclass
class DrawFeatures:
    """What a trunk says on N draws of one image: features (N, P, R), and what f_0 leaves of the target (N, P, C)."""

    features: torch.Tensor
    rest: torch.Tensor

    def joined(self, other: "DrawFeatures") -> "DrawFeatures":
        """These draws and others of the same image."""
        return DrawFeatures(torch.cat([self.features, other.features]), torch.cat([self.rest, other.rest]))

    @classmethod
    def of_views(cls, views: Sequence["DrawFeatures"]) -> "DrawFeatures":
        """As many draws of each view of one image together: the places of all views, one after the other."""
        return cls(torch.cat([own.features for own in views], dim=1), torch.cat([own.rest for own in views], dim=1))


@torch.no_grad()
def features_of_draws(denoiser: Denoiser, draws: Draws, batch_size: int) -> DrawFeatures:
    """Run the trunk on one image's draws: x_0, eps (N, C, H, W), t (N,).

    Raises:
        FloatingPointError: a prediction is not finite.
    """
    features, rest = [], []
    for part in torch.arange(len(draws.t), device=draws.t.device).split(batch_size):
        x_0, t, eps = draws.x_0[part], draws.t[part], draws.eps[part]
        start, own = denoiser.share(denoiser.add_noise(x_0, eps, t), t)
        features.append(own.float().flatten(2).transpose(1, 2))  # (n, P, R)
        rest.append((denoiser.target(x_0, eps, t) - start.float()).flatten(2).transpose(1, 2))  # (n, P, C)
    found = DrawFeatures(torch.cat(features), torch.cat(rest))
    if not bool(found.features.isfinite().all() and found.rest.isfinite().all()):
        raise FloatingPointError("a prediction is not finite; use --mixed_precision no")
    return found


def mixing(denoiser: Denoiser) -> torch.Tensor:
    """W (C, R), float32."""
    return getattr(denoiser.network, "module", denoiser.network).mix.weight.detach().float()


def form_of(found: DrawFeatures, mix: torch.Tensor) -> ErrorForm:
    """The error form of one image (B = 1) from its draws and W (C, R); summed in float32 whatever the trunk ran in."""
    n, places, _ = found.features.shape
    scale = 1 / (n * places * len(mix))
    by_place = found.features.transpose(0, 1)  # (P, N, R)
    g = ((found.rest @ mix) * found.features).sum(0) * scale  # (P, R)
    H = (by_place.transpose(1, 2) @ by_place).mul_((mix.T @ mix) * scale)  # (P, R, R)
    const = found.rest.square().sum() * scale
    return ErrorForm(const[None], g[None], H[None])


def features_in_views(denoiser: Denoiser, views: Sequence[Draws], image: int, batch_size: int) -> DrawFeatures:
    """`features_of_draws` of one image's draws in each of its views."""
    return DrawFeatures.of_views([features_of_draws(denoiser, draws[image], batch_size) for draws in views])


def measure_forms(denoiser: Denoiser, views: Sequence[Draws], batch_size: int = 64) -> ErrorForm:
    """The error forms of B images in one or more views from each one's draws; N trunk passes an image and view.

    Args:
        views: for each view x_0, eps (B, N, C, H, W), t (B, N).
    """
    mix, images = mixing(denoiser), range(len(views[0].t))
    forms = [form_of(features_in_views(denoiser, views, image, batch_size), mix) for image in images]
    return ErrorForm(*(torch.cat(parts) for parts in zip(*((f.const, f.g, f.H) for f in forms), strict=True)))


def errors_per_draw(found: DrawFeatures, mix: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
    """Denoising error on each draw of an image of compositions f_0 + W (B * m), exactly: m (S, P, R) -> (N, S)."""
    errors = [(found.rest - (found.features * own) @ mix.T).square().mean((1, 2)) for own in m]
    return torch.stack(errors, dim=1)
