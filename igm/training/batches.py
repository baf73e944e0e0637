"""The batches of a training run as a function of the step: images, packed concepts, noise; made ahead by loader processes.

Everything random in a step is a function of (seed, step) alone, drawn for the global batch and cut into the parts of its
processes and micro-steps. So a resumed run repeats an undisturbed one exactly, and N processes of batch b with A
micro-steps follow one process of batch N A b.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from igm.objective import draw_noise, offset_noise

OFFSET_NOISE_STRENGTH = 0.1  # the published code's constant
NUM_BUCKETS = 16  # sizes that packed concepts are padded to, where shapes must repeat


def step_generator(seed: int, step: int, stream: int = 0) -> torch.Generator:
    """A CPU generator for one step; streams are independent of each other."""
    return torch.Generator().manual_seed((seed * 2 + stream) * 1_000_000_007 + step)


@dataclass(frozen=True)
class Share:
    """Which part of every optimizer step is this process's: `batch` images per process and micro-step."""

    batch: int
    rank: int = 0
    processes: int = 1
    accumulation: int = 1

    @property
    def images_per_step(self) -> int:
        """Images of one optimizer step, over all processes and micro-steps."""
        return self.batch * self.processes * self.accumulation

    def part(self, micro_step: int) -> slice:
        """The rows of the step's noise that belong to this process's micro-step."""
        number = micro_step % self.accumulation * self.processes + self.rank
        return slice(number * self.batch, (number + 1) * self.batch)


class DataOrder:
    """Which images this process reads in each micro-step.

    Every epoch is a fresh permutation that depends on the seed and the epoch alone; the last, incomplete batch of an
    epoch is dropped.

    Raises:
        ValueError: the global batch is larger than the dataset.
    """

    def __init__(self, size: int, share: Share, seed: int):
        self.size, self.share, self.seed = size, share, seed
        self.global_batch = share.batch * share.processes
        self.per_epoch = size // self.global_batch
        if not self.per_epoch:
            raise ValueError(f"a batch of {self.global_batch} is larger than the dataset of {size}; lower it")
        self.epoch = -1

    def rows(self, micro_step: int) -> list[int]:
        """Dataset indices, `share.batch` of them."""
        epoch, number = divmod(micro_step, self.per_epoch)
        if epoch != self.epoch:
            generator = step_generator(self.seed, epoch, stream=1)
            self.epoch, self.permutation = epoch, torch.randperm(self.size, generator=generator)
        first = number * self.global_batch + self.share.rank * self.share.batch
        return self.permutation[first : first + self.share.batch].tolist()


class DrawsNoise(Protocol):
    """What a step draws at random for its images."""

    def draw(self, total: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Of a step of N images, what is added to its batch by name, (N, ...) each."""


@dataclass(frozen=True)
class StepNoise:
    """What noise a step draws.

    Args:
        shape: (C, H, W) of the latents. num_timesteps: length of the noise schedule.
        with_offset: add one normal number per channel.
        logit_normal: draw timesteps so, stratified over the step's images; see `draw_noise`. Otherwise uniformly.
    """

    shape: tuple[int, int, int]
    num_timesteps: int
    with_offset: bool = False
    logit_normal: tuple[float, float] | None = None

    def draw(self, total: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """`t` (N,), `eps` and `posterior_eps` (N, C, H, W) of a step of N images."""
        density, timesteps = self.logit_normal, (0, self.num_timesteps)
        stratified = density is not None
        noise = draw_noise(total, self.shape, timesteps, generator, stratified=stratified, logit_normal=density)
        posterior_eps = torch.randn(total, *self.shape, generator=generator)
        if self.with_offset:
            noise.eps = offset_noise(noise.eps, OFFSET_NOISE_STRENGTH, generator)
        return {"t": noise.t, "eps": noise.eps, "posterior_eps": posterior_eps}


class TrainingBatches(Dataset):
    """Item `micro_step` is all that this process's micro-step needs: what `collate` makes of its items, and noise.

    Args:
        dataset: items; one that can vary them has `varied(i, rng)`, item i drawn anew.
        collate: makes a batch of items. noise: drawn for each step, None for none.
    """

    def __init__(
        self,
        dataset: Any,
        collate: Callable[[list[Any]], dict[str, torch.Tensor]],
        noise: DrawsNoise | None,
        share: Share,
        seed: int,
    ):
        self.dataset, self.collate, self.step_noise, self.share, self.seed = dataset, collate, noise, share, seed
        self.order = DataOrder(len(dataset), share, seed)

    def __getitem__(self, micro_step: int) -> dict[str, torch.Tensor]:
        return {**self.collate(self.items(micro_step)), **self.noise(micro_step)}

    def items(self, micro_step: int) -> list[Any]:
        """This micro-step's items; what varies in them depends on the seed and on their place in the run's order alone."""
        rows, vary = self.order.rows(micro_step), getattr(self.dataset, "varied", None)
        if vary is None:
            return [self.dataset[row] for row in rows]
        first = micro_step * self.order.global_batch + self.share.rank * self.share.batch
        return [vary(row, np.random.default_rng([self.seed, first + i])) for i, row in enumerate(rows)]

    def noise(self, micro_step: int) -> dict[str, torch.Tensor]:
        """This micro-step's and process's part of the noise of the whole optimizer step."""
        if self.step_noise is None:
            return {}
        generator = step_generator(self.seed, micro_step // self.share.accumulation)
        whole, part = self.step_noise.draw(self.share.images_per_step, generator), self.share.part(micro_step)
        return {name: value[part] for name, value in whole.items()}

    def loader(self, start: int, stop: int, num_workers: int = 0, pin_memory: bool = False) -> DataLoader:
        """Micro-steps `start` to `stop` - 1 in order."""
        return DataLoader(
            self,
            batch_size=None,
            sampler=range(start, stop),
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            worker_init_fn=quiet_threads,
        )


def quiet_threads(worker: int) -> None:
    """Let the threads of a loader process end in silence.

    Its own errors go to the main process; what its threads say, a broken connection when a run is stopped, is no news.
    """
    sys.excepthook = lambda *error: None


def pad_pairs(pairs: dict[str, torch.Tensor], weights: str, most: int) -> dict[str, torch.Tensor]:
    """Repeat the first of P pairs, (P, ...) by name, until their number is one of NUM_BUCKETS sizes; `most` is the largest.

    `weights` names those that are 0 of what is repeated. A repeated real pair is finite whenever the real ones are, so
    that 0 times its prediction is 0. No pairs stay none.
    """
    size = len(pairs[weights])
    missing = -size % math.ceil(most / NUM_BUCKETS)
    repeated = torch.cat([torch.arange(size), torch.zeros(missing, dtype=torch.long)])  # (P',)
    padded = {name: own[repeated] for name, own in pairs.items()}
    padded[weights][size:] = 0
    return padded
