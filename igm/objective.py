"""Noise draws and the denoising error E || y - f_w(x_t, t) ||^2, which training and inference both minimise."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from igm.models.denoiser import Denoiser

OFFSET_NOISE_STRENGTH = 0.1  # the published code's constant
CONTRAST_SCALE = 5.0  # squared error that makes concepts e times less believed


@dataclass
class Noise:
    """Draws of timestep and noise: `t` (N,) and `eps` (N, C, H, W)."""

    t: torch.Tensor
    eps: torch.Tensor

    def to(self, device: torch.device | str) -> "Noise":
        """The same draws on another device."""
        return Noise(self.t.to(device), self.eps.to(device))


def draw_noise(
    num: int,
    shape: tuple[int, ...],
    t_range: tuple[int, int],
    generator: torch.Generator,
    *,
    stratified: bool = False,
    logit_normal: tuple[float, float] | None = None,
) -> Noise:
    """Draw timesteps from [low, high), uniformly unless asked otherwise, and standard normal noise.

    Drawn where the generator lives (the CPU, so that every device gives the same numbers).

    Args:
        num: N draws. shape: (C, H, W). stratified: one timestep from each of N equal parts of the range, which lowers
            the variance of a mean over the draws without biasing it.
        logit_normal: mean and deviation of the logit of the share of the range (Esser et al. 2024, section 3.1): most
            timesteps are then drawn around sigmoid(mean) of the range.
    """
    low, high = t_range
    if stratified:
        share = (torch.arange(num) + torch.rand(num, generator=generator)) / num
    else:
        share = torch.rand(num, generator=generator)
    if logit_normal is not None:
        mean, deviation = logit_normal
        share = torch.sigmoid(mean + deviation * torch.special.ndtri(share))  # (N,)
    t = (low + share * (high - low)).long().clamp(max=high - 1)  # (N,)
    return Noise(t, torch.randn(num, *shape, generator=generator))


def offset_noise(eps: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """Add one normal number per channel to the noise (crosslabs.org, diffusion with offset noise)."""
    return eps + strength * torch.randn(*eps.shape[:2], 1, 1, generator=generator)


def snr_weights(alphas_cumprod: torch.Tensor, t: torch.Tensor, gamma: float, prediction_type: str) -> torch.Tensor:
    """Min-SNR-gamma weights (N,) of the error at t (Hang et al. 2023, eq. 6; v-prediction divides by SNR + 1)."""
    abar = alphas_cumprod[t]
    snr = abar / (1 - abar)
    return snr.clamp(max=gamma) / (snr if prediction_type == "epsilon" else snr + 1)


def composed_error(
    denoiser: Denoiser,
    x_0: torch.Tensor,
    noise: Noise,
    conds: torch.Tensor,
    weights: torch.Tensor,
    index: torch.Tensor,
) -> torch.Tensor:
    """Denoising error of one composition per image, on one draw per image.

    Args:
        x_0: latents (B, C, H, W). noise: B draws.
        conds, weights, index: the P packed pairs of `composition.pack`.

    Returns:
        error (B,): squared error, mean over C, H, W.
    """
    x_t = denoiser.add_noise(x_0, noise.eps, noise.t)
    prediction = denoiser.predict_composed(x_t, noise.t, conds, weights, index)  # (B, C, H, W)
    target = denoiser.target(x_0, noise.eps, noise.t)
    return (target - prediction).square().mean((1, 2, 3))


def contrasted_error(
    denoiser: Denoiser,
    x_0: torch.Tensor,
    noise: Noise,
    pairs: Sequence[torch.Tensor],
    mistaken: torch.Tensor,
    replaced: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`composed_error` (B,), and how badly concepts are told from mistaken ones (Q,), on the same draws.

    The latter is -log of the share of belief that is the truth's, where belief is exp(-||y - f_w||^2 / CONTRAST_SCALE), as
    inference compares concepts by their squared errors alone. Lowering it sharpens what a network says of an attribute
    whose trace in the picture is small, where the denoising error of the truth alone hardly tells.

    Args:
        pairs: conds, weights and index of `composition.pack`. mistaken: concepts (Q, D), each of which stands once for that
            of pair `replaced` (Q,), all others as they are.
    """
    conds, weights, index = pairs
    x_t = denoiser.add_noise(x_0, noise.eps, noise.t)
    replacements = (mistaken, replaced)
    prediction, changes = denoiser.predict_replaced(x_t, noise.t, conds, weights, index, replacements)
    left = denoiser.target(x_0, noise.eps, noise.t) - prediction  # (B, C, H, W)
    more = (changes * (changes - 2 * left[index[replaced]])).sum((1, 2, 3))  # (Q,): ||left - change||^2 - ||left||^2
    return left.square().mean((1, 2, 3)), torch.nn.functional.softplus(-more / CONTRAST_SCALE)
