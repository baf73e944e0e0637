"""Noise draws of images: each image's own, whatever batch it is in."""

from dataclasses import dataclass

import numpy as np
import torch

from igm.inference.types import Posterior
from igm.objective import OFFSET_NOISE_STRENGTH, draw_noise, offset_noise


@dataclass
class Draws:
    """Noise draws of a batch: `x_0` (B, N, C, H, W), a draw of the posterior each; `t` (B, N); `eps` as x_0."""

    x_0: torch.Tensor
    t: torch.Tensor
    eps: torch.Tensor

    def __getitem__(self, image: int) -> "Draws":
        return Draws(self.x_0[image], self.t[image], self.eps[image])


def image_generators(seed: int, image_numbers: list[int], stream: int) -> list[torch.Generator]:
    """One generator per image, from seed, stream and the image's own number: results do not depend on the batching.

    The three are hashed into 32 bits, all that torch's CPU generator takes of a seed.
    """
    states = [np.random.SeedSequence([seed, stream, number]).generate_state(1) for number in image_numbers]
    return [torch.Generator().manual_seed(int(state[0])) for state in states]


def draw_for_images(
    posterior: Posterior,
    num_draws: int,
    t_range: tuple[int, int],
    generators: list[torch.Generator],
    *,
    stratified: bool,
) -> Draws:
    """N draws of (t, eps, x_0) for each image, each from its own generator."""
    shape = posterior.mean.shape[1:]
    noises, posterior_eps = [], []
    for generator in generators:
        noises.append(draw_noise(num_draws, shape, t_range, generator, stratified=stratified))
        posterior_eps.append(torch.randn(num_draws, *shape, generator=generator))
    mean, std = posterior.mean, posterior.std
    x_0 = mean[:, None] + std[:, None] * torch.stack(posterior_eps).to(mean)  # (B, N, C, H, W)
    t = torch.stack([noise.t for noise in noises]).to(mean.device)  # (B, N)
    return Draws(x_0, t, torch.stack([noise.eps for noise in noises]).to(mean))


def with_offset_noise(draws: Draws, generators: list[torch.Generator]) -> Draws:
    """The same draws with one normal number per channel added to the noise of each, as the published option."""
    more = [offset_noise(eps.cpu(), OFFSET_NOISE_STRENGTH, g) for eps, g in zip(draws.eps, generators, strict=True)]
    return Draws(draws.x_0, draws.t, torch.stack(more).to(draws.eps))
