"""A denoiser whose best positions are known exactly."""

import itertools

import torch

from igm.facts import Facts
from igm.inference.types import Posterior

SIDE, WIDTH = 10, 0.13
SCENES = [[[0.3, 0.4]], [[0.25, 0.3], [0.7, 0.65]], [[0.2, 0.7], [0.5, 0.25], [0.8, 0.6]]]


class Toy(torch.nn.Module):
    """A denoiser of images that are the mean of one bump per position; its composed error is zero at the true positions.

    f(x_t, t | c) = (x_t - sqrt(abar) bump(c)) / sqrt(1 - abar), so y - mean_k f(c_k) is in proportion to
    mean_k bump(c_k) - x_0. `calls` and `rows` count what was asked of it.
    """

    cond_size, latent_shape, device = 2, (1, SIDE, SIDE), torch.device("cpu")
    is_separable = composes = False

    def __init__(self):
        super().__init__()
        self.alphas_cumprod = torch.linspace(0.9, 0.1, 1000)
        self.rows, self.largest, self.encoded = 0, 0, 0

    @property
    def codec(self):
        return self

    def bump(self, conds):
        """Conditions (P, 2) -> images (P, 1, SIDE, SIDE)."""
        centres = (torch.arange(SIDE) + 0.5) / SIDE
        dx = centres[None, None, :] - conds[:, 0, None, None]
        dy = centres[None, :, None] - conds[:, 1, None, None]
        return torch.exp(-(dx**2 + dy**2) / (2 * WIDTH**2))[:, None]

    facts, num_timesteps = Facts(), 1000

    def encode(self, images):
        return self.posterior(images)

    def posterior(self, images):
        self.encoded += 1
        return images[:, :1], torch.zeros_like(images[:, :1])

    def _signal_noise(self, t):
        abar = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        return abar.sqrt(), (1 - abar).sqrt()

    def add_noise(self, x_0, eps, t):
        signal, noise = self._signal_noise(t)
        return signal * x_0 + noise * eps

    def target(self, x_0, eps, t):
        return eps

    def predict_pairs(self, x_t, t, conds, index):
        self.rows += len(conds)
        self.largest = max(self.largest, len(conds))
        signal, noise = self._signal_noise(t[index])
        return (x_t[index] - signal * self.bump(conds)) / noise

    def predict_composed(self, x_t, t, conds, weights, index):
        weighted = self.predict_pairs(x_t, t, conds, index) * weights.view(-1, 1, 1, 1)
        return torch.zeros_like(x_t).index_add(0, index, weighted)

    def share(self, x_t, t):
        return x_t, t

    def predict_shared(self, shared, conds, index):
        return self.predict_pairs(*shared, conds, index)


def scenes(toy, numbers=(0, 1, 2), std=0.0):
    """Posterior of the toy's images, and how many objects each has."""
    mean = torch.stack([toy.bump(torch.tensor(SCENES[i])).mean(0) for i in numbers])
    return Posterior(mean, torch.full_like(mean, std)), torch.tensor([len(SCENES[i]) for i in numbers])


def distance(found, true):
    """Largest distance of a true position to the found one that it is matched with, over the best matching."""
    found, true = torch.as_tensor(found), torch.tensor(true)
    orders = itertools.permutations(range(len(found)))
    return min(float((found[list(order)] - true).norm(dim=1).max()) for order in orders)
