"""The batches of a training run as a function of the step: images, packed concepts, noise; made ahead by loader processes.

Everything random in a step is a function of (seed, step) alone, drawn for the global batch and cut into the parts of its
processes and micro-steps. So a resumed run repeats an undisturbed one exactly, and N processes of batch b with A
micro-steps follow one process of batch N A b.
"""

import math
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from igm.composition import pack
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


class TrainingBatches(Dataset):
    """Item `micro_step` is all that this process's micro-step needs, as a dict of tensors.

    `posterior_mean` and `posterior_std` (B, C, H, W), or `pixel_values` (B, 3, R, R); `conds` (P, ...), `weights` (P,) and
    `index` (P,) of `composition.pack`; `t` (B,), `eps` and `posterior_eps` (B, C, H, W).

    Args:
        dataset: items with `conds`, `mask`, and either `pixel_values` or `posterior_mean` and `posterior_std`.
        latent_shape: (C, H, W). num_timesteps: length of the noise schedule.
        t_logit_normal: draw timesteps so, stratified over the step's images; see `draw_noise`. Otherwise uniformly.
        static_shapes: pad the P pairs to one of a few sizes, so that compiled code fits the next batch too.
    """

    def __init__(
        self,
        dataset: Dataset,
        latent_shape: tuple[int, int, int],
        num_timesteps: int,
        share: Share,
        seed: int,
        *,
        with_offset_noise: bool = False,
        t_logit_normal: tuple[float, float] | None = None,
        static_shapes: bool = False,
    ):
        self.dataset, self.latent_shape, self.num_timesteps = dataset, latent_shape, num_timesteps
        self.share, self.seed, self.with_offset_noise = share, seed, with_offset_noise
        self.t_logit_normal, self.static_shapes = t_logit_normal, static_shapes
        self.order = DataOrder(len(dataset), share, seed)

    def __getitem__(self, micro_step: int) -> dict[str, torch.Tensor]:
        items = default_collate([self.dataset[row] for row in self.order.rows(micro_step)])
        conds, weights, index = pack(items["conds"], items["mask"])
        if self.static_shapes:
            conds, weights, index = pad_pairs(conds, weights, index, items["mask"].numel())
        images = {k: items[k] for k in ("posterior_mean", "posterior_std", "pixel_values") if k in items}
        return {"conds": conds, "weights": weights, "index": index, **images, **self.noise(micro_step)}

    def noise(self, micro_step: int) -> dict[str, torch.Tensor]:
        """This micro-step's and process's part of the noise of the whole optimizer step."""
        total, part = self.share.images_per_step, self.share.part(micro_step)
        generator = step_generator(self.seed, micro_step // self.share.accumulation)
        density = self.t_logit_normal
        noise = draw_noise(
            total,
            self.latent_shape,
            (0, self.num_timesteps),
            generator,
            stratified=density is not None,
            logit_normal=density,
        )
        posterior_eps = torch.randn(total, *self.latent_shape, generator=generator)
        if self.with_offset_noise:
            noise.eps = offset_noise(noise.eps, OFFSET_NOISE_STRENGTH, generator)
        return {"t": noise.t[part], "eps": noise.eps[part], "posterior_eps": posterior_eps[part]}

    def loader(self, start: int, stop: int, num_workers: int = 0, pin_memory: bool = False) -> DataLoader:
        """Micro-steps `start` to `stop` - 1 in order."""
        return DataLoader(
            self,
            batch_size=None,
            sampler=range(start, stop),
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
        )


def pad_pairs(
    conds: torch.Tensor, weights: torch.Tensor, index: torch.Tensor, most: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Repeat the first pair with weight 0 until their number is one of NUM_BUCKETS sizes; `most` is the largest.

    A repeated real pair is finite whenever the real ones are, so that 0 times its prediction is 0.
    """
    step = math.ceil(most / NUM_BUCKETS)
    missing = -len(conds) % step
    repeated = torch.cat([torch.arange(len(conds)), torch.zeros(missing, dtype=torch.long)])  # (P',)
    padded = weights[repeated]
    padded[len(conds) :] = 0
    return conds[repeated], padded, index[repeated]


def latent_shape(item: dict, channels: int, downsampling: int | None) -> tuple[int, int, int]:
    """(C, H, W) of a dataset item's latents: those that it holds, or those that the codec will give."""
    if "posterior_mean" in item:
        return tuple(item["posterior_mean"].shape)
    side = item["pixel_values"].shape[-1] // downsampling
    return channels, side, side
