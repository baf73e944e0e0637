"""The training loop: minimise E || y - (1/K) sum_k f(x_t, t | c_k) ||^2 over the network.

Everything random in a step is a function of (seed, step) alone, drawn for the global batch and cut into the parts of its
processes and micro-steps. So a resumed run repeats an undisturbed one exactly, and N processes of batch b with A
micro-steps follow one process of batch N A b.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader, Sampler
from tqdm import tqdm

from igm.checkpoints import find_checkpoint, load_checkpoint, register_network_format, save_checkpoint
from igm.composition import pack
from igm.objective import Noise, composed_error, draw_noise, offset_noise, snr_weights
from models.denoiser import Denoiser

OFFSET_NOISE_STRENGTH = 0.1  # the published code's constant


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step and what is kept."""


@dataclass
class TrainSettings:
    """What a training run is. `train_batch_size` is per process; steps are optimizer steps."""

    max_train_steps: int
    train_batch_size: int
    learning_rate: float = 2e-5
    lr_scheduler: str = "constant"
    lr_warmup_steps: int = 0
    gradient_accumulation_steps: int = 1
    max_grad_norm: float = 1.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_weight_decay: float = 1e-2
    adam_epsilon: float = 1e-8
    use_8bit_adam: bool = False
    use_ema: bool = False
    ema_decay: float = 0.9999
    offset_noise: bool = False
    snr_gamma: float | None = None
    set_grads_to_none: bool = True
    seed: int = 0
    dataloader_num_workers: int = 0
    logging_steps: int = 20
    checkpointing_steps: int = 10_000
    checkpoints_total_limit: int | None = None
    validation_steps: int = 1000
    resume_from_checkpoint: str | None = None


class GlobalBatches(Sampler):
    """Yields this process's part of each global batch, from micro-step `start` on.

    Every epoch is a fresh permutation that depends on the seed and the epoch alone; the last, incomplete batch of an
    epoch is dropped.

    Raises:
        ValueError: the global batch is larger than the dataset.
    """

    def __init__(self, size: int, batch: int, rank: int, processes: int, seed: int, start: int, stop: int):
        self.size, self.batch, self.rank, self.seed, self.start, self.stop = size, batch, rank, seed, start, stop
        self.global_batch = batch * processes
        self.per_epoch = size // self.global_batch
        if not self.per_epoch:
            raise ValueError(f"a batch of {self.global_batch} is larger than the dataset of {size}; lower it")

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[int]]:
        epoch = -1
        for step in range(self.start, self.stop):
            if step // self.per_epoch != epoch:
                epoch = step // self.per_epoch
                order = torch.randperm(self.size, generator=step_generator(self.seed, epoch, stream=1))
            first = step % self.per_epoch * self.global_batch + self.rank * self.batch
            yield order[first : first + self.batch].tolist()


def step_generator(seed: int, step: int, stream: int = 0) -> torch.Generator:
    """A CPU generator for one step; streams are independent of each other."""
    return torch.Generator().manual_seed((seed * 2 + stream) * 1_000_000_007 + step)


def train(
    accelerator: Accelerator,
    denoiser: Denoiser,
    dataset: torch.utils.data.Dataset,
    output_dir: Path,
    settings: TrainSettings,
    *,
    same_run: dict | None = None,
    validate: Callable[[int], None] | None = None,
    loss: Callable[..., torch.Tensor] | None = None,
) -> int:
    """Train `denoiser.network` in place; return the last step.

    Args:
        dataset: items with `conds`, `mask`, and either `pixel_values` or `posterior_mean` and `posterior_std`.
        output_dir: where `checkpoint-<step>` folders go.
        same_run: facts that a resumed run must share with its checkpoint.
        validate: called with the step, by every process, every `validation_steps` steps.
        loss: what is minimised, called as `training_loss`, the default.

    Raises:
        TrainingError: the loss is not finite; the last good checkpoint is kept.
        ModelError: the checkpoint to resume from is missing or of another run.
        OSError: a checkpoint cannot be written; the older ones are intact.
    """
    s = settings
    optimizer = make_optimizer(denoiser.network, s)
    ema = make_ema(denoiser.network, s) if s.use_ema else None
    denoiser.network.train()
    denoiser.to(accelerator.device)
    denoiser.network, optimizer = accelerator.prepare(denoiser.network, optimizer)
    register_network_format(accelerator, denoiser, ema)
    if ema is not None:
        ema.to(accelerator.device)

    # Resume: the step alone fixes data order and noise.
    batch = s.train_batch_size * accelerator.num_processes * s.gradient_accumulation_steps
    same_run = {"seed": s.seed, "images_per_step": batch, "dataset_size": len(dataset), **(same_run or {})}
    checkpoint = find_checkpoint(output_dir, s.resume_from_checkpoint) if s.resume_from_checkpoint else None
    step = load_checkpoint(accelerator, checkpoint, same_run) if checkpoint else 0
    if checkpoint:
        accelerator.print(f"Resumed {checkpoint} at step {step}")

    loader = make_loader(accelerator, dataset, s, start=step)
    with contextlib.closing(Meter(accelerator, s, step, batch)) as meter:
        for micro_step, items in enumerate(loader, step * s.gradient_accumulation_steps):
            with accelerator.accumulate(denoiser.network):
                value = (loss or training_loss)(accelerator, denoiser, items, s, micro_step)
                accelerator.backward(value)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(denoiser.network.parameters(), s.max_grad_norm)
                    for group in optimizer.param_groups:
                        group["lr"] = learning_rate(s, step)
                optimizer.step()
                optimizer.zero_grad(set_to_none=s.set_grads_to_none)
            meter.add(value)
            if not accelerator.sync_gradients:
                continue

            step += 1
            if ema is not None:
                ema.step(accelerator.unwrap_model(denoiser.network).parameters())
            last = step == s.max_train_steps
            saves = last or step % s.checkpointing_steps == 0
            if saves or step % s.logging_steps == 0:
                meter.log(step)  # reads the loss: raises on NaN, before anything is saved
            if saves:
                save_checkpoint(accelerator, output_dir, {"step": step, **same_run}, s.checkpoints_total_limit)
            if validate is not None and (last or step % s.validation_steps == 0):
                validate(step)
    return step


def training_loss(
    accelerator: Accelerator, denoiser: Denoiser, items: dict, settings: TrainSettings, micro_step: int
) -> torch.Tensor:
    """Mean denoising error of this process's part of the batch: a scalar with a gradient."""
    conds, weights, index = pack(items["conds"], items["mask"])
    device, batch = accelerator.device, len(items["mask"])
    if "posterior_mean" in items:
        mean, std = (items[name].to(device, non_blocking=True) for name in ("posterior_mean", "posterior_std"))
    else:
        with torch.no_grad():
            mean, std = denoiser.codec.posterior(items["pixel_values"].to(device, non_blocking=True))

    # This micro-step's and process's part of the noise of the whole optimizer step.
    step, micro = divmod(micro_step, settings.gradient_accumulation_steps)
    number = micro * accelerator.num_processes + accelerator.process_index
    part = slice(number * batch, (number + 1) * batch)
    total = batch * accelerator.num_processes * settings.gradient_accumulation_steps
    generator = step_generator(settings.seed, step)
    noise = draw_noise(total, mean.shape[1:], (0, denoiser.num_timesteps), generator)
    posterior_eps = torch.randn(total, *mean.shape[1:], generator=generator)[part].to(device, non_blocking=True)
    if settings.offset_noise:
        noise.eps = offset_noise(noise.eps, OFFSET_NOISE_STRENGTH, generator)
    noise = Noise(noise.t[part], noise.eps[part]).to(device)
    x_0 = mean + std * posterior_eps  # (B, C, H, W)
    error = composed_error(denoiser, x_0, noise, conds.to(device), weights.to(device), index.to(device))  # (B,)
    if settings.snr_gamma is not None:
        kind = denoiser.scheduler.config.prediction_type
        error = error * snr_weights(denoiser.alphas_cumprod, noise.t, settings.snr_gamma, kind)
    return error.mean()


def make_loader(accelerator: Accelerator, dataset, settings: TrainSettings, start: int) -> DataLoader:
    """Loader of this process's batches from optimizer step `start` to the end."""
    accumulation = settings.gradient_accumulation_steps
    sampler = GlobalBatches(
        len(dataset),
        settings.train_batch_size,
        accelerator.process_index,
        accelerator.num_processes,
        settings.seed,
        start * accumulation,
        settings.max_train_steps * accumulation,
    )
    workers = settings.dataloader_num_workers
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        pin_memory=accelerator.device.type == "cuda",
        persistent_workers=workers > 0,
    )


def make_optimizer(network: torch.nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters, 8-bit on request.

    Raises:
        ImportError: 8-bit Adam asked for without bitsandbytes.
    """
    options = {
        "lr": settings.learning_rate,
        "betas": (settings.adam_beta1, settings.adam_beta2),
        "weight_decay": settings.adam_weight_decay,
        "eps": settings.adam_epsilon,
    }
    if settings.use_8bit_adam:
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit(network.parameters(), **options)
    return torch.optim.AdamW(network.parameters(), **options, fused=torch.cuda.is_available() or None)


def make_ema(network: torch.nn.Module, settings: TrainSettings) -> EMAModel:
    """Running average of the weights, with a decay that warms up so that early steps do not linger."""
    return EMAModel(
        network.parameters(),
        decay=settings.ema_decay,
        use_ema_warmup=True,
        power=0.75,
        model_cls=type(network),
        model_config=network.config,
    )


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Linear warm-up, then constant (as published) or a cosine to zero; a function of the step, so there is no state."""
    if step < settings.lr_warmup_steps:
        return settings.learning_rate * (step + 1) / settings.lr_warmup_steps
    if settings.lr_scheduler == "constant":
        return settings.learning_rate
    done = (step - settings.lr_warmup_steps) / max(1, settings.max_train_steps - settings.lr_warmup_steps)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


class Meter:
    """Mean loss since the last report, without a host synchronisation per step; progress bar and trackers."""

    def __init__(self, accelerator: Accelerator, settings: TrainSettings, step: int, images_per_step: int):
        self.accelerator, self.settings, self.images_per_step = accelerator, settings, images_per_step
        self.losses, self.step, self.time = [], step, time.perf_counter()
        hidden = not accelerator.is_local_main_process
        self.bar = tqdm(total=settings.max_train_steps, initial=step, unit="step", disable=hidden)

    def add(self, loss: torch.Tensor) -> None:
        """Add one micro-step's loss, on its device."""
        self.losses.append(loss.detach())

    def log(self, step: int) -> None:
        """Report the mean loss, learning rate and images/s.

        Raises:
            TrainingError: the loss is not finite.
        """
        losses = self.accelerator.reduce(torch.stack(self.losses).float(), "mean").cpu()
        if not losses.isfinite().all():
            first = int((~losses.isfinite()).nonzero()[0]) // self.settings.gradient_accumulation_steps
            raise TrainingError(
                f"loss {losses[~losses.isfinite()][0]} at step {self.step + 1 + first}; the last checkpoint is kept; "
                "lower --learning_rate, or use --mixed_precision bf16 or no"
            )
        loss = losses.mean().item()
        elapsed = time.perf_counter() - self.time
        values = {
            "train_loss": loss,
            "lr": learning_rate(self.settings, step - 1),
            "images_per_second": (step - self.step) * self.images_per_step / elapsed,
        }
        self.bar.update(step - self.step)
        self.bar.set_postfix(
            {"loss": f"{loss:.4f}", "lr": f"{values['lr']:.1e}", "img/s": f"{values['images_per_second']:.0f}"}
        )
        self.accelerator.log(values, step=step)
        self.losses, self.step, self.time = [], step, time.perf_counter()

    def close(self) -> None:
        """End the progress bar."""
        self.bar.close()
