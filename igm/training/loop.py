"""The training loop: minimise E || y - (1/K) sum_k f(x_t, t | c_k) ||^2 over the network.

The host never waits for the device within a step: batches come ready from the loader (`igm.training.batches`), and the loss
is read only when it is reported.
"""

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader
from tqdm import tqdm

from igm import warn
from igm.models.attention import idle_parameters
from igm.models.compilation import compiled_agrees
from igm.models.denoiser import Denoiser
from igm.objective import Noise, composed_error, snr_weights
from igm.training.batches import Share, TrainingBatches, latent_shape
from igm.training.checkpoints import find_checkpoint, load_checkpoint, register_network_format, save_checkpoint


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
    t_logit_normal: tuple[float, float] | None = None
    set_grads_to_none: bool = True
    seed: int = 0
    compile: bool = False
    dataloader_num_workers: int = 0
    logging_steps: int = 20
    checkpointing_steps: int = 10_000
    checkpoints_total_limit: int | None = None
    validation_steps: int = 1000
    resume_from_checkpoint: str | None = None

    @property
    def state_bytes(self) -> int:
        """Bytes per parameter besides the weight: gradient, Adam's two moments, running average."""
        return 4 + (2 if self.use_8bit_adam else 8) + 4 * self.use_ema


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
        loss: what is minimised, called as `training_loss`, which is the default.

    Raises:
        TrainingError: the loss is not finite; the last good checkpoint is kept.
        ModelError: the checkpoint to resume from is missing or of another run.
        OSError: a checkpoint cannot be written; the older ones are intact.
    """
    s = settings
    share = Share(
        s.train_batch_size, accelerator.process_index, accelerator.num_processes, s.gradient_accumulation_steps
    )
    optimizer, ema = prepare(accelerator, denoiser, s, one_token=dataset[0]["conds"].ndim == 2)
    facts = {"seed": s.seed, "images_per_step": share.images_per_step, "dataset_size": len(dataset), **(same_run or {})}
    checkpoint = find_checkpoint(output_dir, s.resume_from_checkpoint) if s.resume_from_checkpoint else None
    step = load_checkpoint(accelerator, checkpoint, facts) if checkpoint else 0
    if checkpoint:
        accelerator.print(f"Resumed {checkpoint} at step {step} of {s.max_train_steps}")

    loader = make_loader(accelerator, denoiser, dataset, s, share, step)
    loss = loss or training_loss
    rehearse(accelerator, denoiser, optimizer, loader, s, loss)
    with contextlib.closing(Meter(accelerator, s, step, share.images_per_step)) as meter:
        for batch in loader:
            batch = to_device(batch, accelerator.device)
            with accelerator.accumulate(denoiser.network):
                value = loss(denoiser, batch, s.snr_gamma)
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
                save_checkpoint(accelerator, output_dir, {"step": step, **facts}, s.checkpoints_total_limit)
            if validate is not None and (last or step % s.validation_steps == 0):
                with torch.compiler.set_stance("force_eager"):  # pictures come in other shapes than batches
                    validate(step)
    return step


def prepare(
    accelerator: Accelerator, denoiser: Denoiser, settings: TrainSettings, *, one_token: bool = True
) -> tuple[torch.optim.Optimizer, EMAModel | None]:
    """Put the denoiser on its device in the fastest form that it has there; make optimizer and running average.

    Args:
        one_token: every condition is one token (D,); text has several (L, D), and its queries and keys are trained.
    """
    network, device = denoiser.network.train(), accelerator.device
    for parameter in idle_parameters(network) if one_token else ():
        parameter.requires_grad_(False)  # no gradient reaches these, and DDP would wait for it
    denoiser.to(device)
    if device.type == "cuda":
        network.to(memory_format=torch.channels_last)  # what its convolutions want; on a CPU it costs 15 %
    if settings.compile:
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)  # one per bucket
        torch.backends.cudnn.benchmark = True
        network.compile(dynamic=False)  # in place: its weights keep their names
    optimizer = make_optimizer(network, settings)
    ema = make_ema(network, settings) if settings.use_ema else None
    denoiser.network, optimizer = accelerator.prepare(network, optimizer)
    register_network_format(accelerator, denoiser, ema)
    return optimizer, ema


def make_loader(
    accelerator: Accelerator, denoiser: Denoiser, dataset, settings: TrainSettings, share: Share, step: int
) -> DataLoader:
    """Loader of this process's micro-steps from optimizer step `step` to the end."""
    codec = denoiser.codec
    shape = latent_shape(dataset[0], denoiser.latent_shape[0], codec.downsampling if codec else None)
    batches = TrainingBatches(
        dataset,
        shape,
        denoiser.num_timesteps,
        share,
        settings.seed,
        with_offset_noise=settings.offset_noise,
        t_logit_normal=settings.t_logit_normal,
        static_shapes=settings.compile,
    )
    first, end = step * share.accumulation, settings.max_train_steps * share.accumulation
    on_gpu = accelerator.device.type == "cuda"
    return batches.loader(first, max(first, end), settings.dataloader_num_workers, pin_memory=on_gpu)


def training_loss(denoiser: Denoiser, batch: dict[str, torch.Tensor], snr_gamma: float | None = None) -> torch.Tensor:
    """Mean denoising error of one batch of `TrainingBatches`, on the denoiser's device: a scalar with a gradient."""
    if "posterior_mean" in batch:
        mean, std = batch["posterior_mean"], batch["posterior_std"]  # (B, C, H, W) each
    else:
        with torch.no_grad():
            mean, std = denoiser.codec.posterior(batch["pixel_values"])
    x_0 = mean + std * batch["posterior_eps"]  # (B, C, H, W)
    noise = Noise(batch["t"], batch["eps"])
    error = composed_error(denoiser, x_0, noise, batch["conds"], batch["weights"], batch["index"])  # (B,)
    if snr_gamma is not None:
        kind = denoiser.scheduler.config.prediction_type
        error = error * snr_weights(denoiser.alphas_cumprod, noise.t, snr_gamma, kind)
    return error.mean()


def to_device(batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """A batch on a device, without waiting for the copies of pinned memory."""
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def rehearse(
    accelerator: Accelerator,
    denoiser: Denoiser,
    optimizer: torch.optim.Optimizer,
    loader: DataLoader,
    settings: TrainSettings,
    loss: Callable[..., torch.Tensor],
) -> None:
    """Run the first batch without a step, where several processes or compiled code must settle before the first step.

    DDP regroups its gradients after its first backward pass: without this one, the first step after a start or a resume
    would sum them in another order than the rest, and a resumed run of more than two processes would differ in the last
    bits.
    """
    if not len(loader) or not (settings.compile or accelerator.num_processes > 1):
        return
    batch = to_device(loader.dataset[loader.sampler[0]], accelerator.device)

    def first_loss() -> torch.Tensor:
        return loss(denoiser, batch, settings.snr_gamma)

    if accelerator.num_processes > 1:
        first_loss().backward()
        optimizer.zero_grad()
    if settings.compile:
        drop_wrong_code(accelerator, denoiser, optimizer, first_loss)


def drop_wrong_code(
    accelerator: Accelerator, denoiser: Denoiser, optimizer: torch.optim.Optimizer, loss: Callable[[], torch.Tensor]
) -> None:
    """Go on without torch.compile where the gradients of its code are not the eager ones, and say so."""
    network = accelerator.unwrap_model(denoiser.network)

    def gradients() -> list[torch.Tensor]:
        accelerator.backward(loss())
        found = [p.grad for p in network.parameters() if p.grad is not None]
        optimizer.zero_grad(set_to_none=True)
        return found

    if not compiled_agrees(gradients):
        network._compiled_call_impl = None  # what Module.compile sets
        if accelerator.is_main_process:
            warn("--compile gives other gradients than eager PyTorch here; going on without")


def make_optimizer(network: torch.nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters, in one fused kernel where there is one; 8-bit on request.

    Raises:
        TrainingError: 8-bit Adam asked for without bitsandbytes, or without CUDA.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    device = parameters[0].device.type
    options = {
        "lr": settings.learning_rate,
        "betas": (settings.adam_beta1, settings.adam_beta2),
        "weight_decay": settings.adam_weight_decay,
        "eps": settings.adam_epsilon,
    }
    if not settings.use_8bit_adam:
        return torch.optim.AdamW(parameters, **options, fused=device in ("cuda", "cpu") or None)
    try:
        import bitsandbytes
    except ImportError:
        raise TrainingError("--use_8bit_adam needs bitsandbytes (pip install bitsandbytes); or leave it out") from None
    if device != "cuda":
        raise TrainingError("--use_8bit_adam needs a CUDA device; leave it out here")
    return bitsandbytes.optim.AdamW8bit(parameters, **options)


def make_ema(network: torch.nn.Module, settings: TrainSettings) -> EMAModel:
    """Running average of the weights, with a decay that warms up so that early steps do not linger."""
    return EMAModel(
        network.parameters(),
        decay=settings.ema_decay,
        use_ema_warmup=True,
        power=0.75,
        foreach=True,
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
