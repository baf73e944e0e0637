"""The training loop: minimise a learner's loss over its network.

The host never waits for the device within a step: batches come ready from the loader (`igm.training.batches`), and the loss
is read only when it is reported.
"""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from igm import warn
from igm.models.compilation import compiled_agrees
from igm.provenance import provenance
from igm.training.batches import Share, TrainingBatches
from igm.training.checkpoints import Checkpoints
from igm.training.faults import TrainingError, faults_in_one_line
from igm.training.learner import Batch, Learner, bare
from igm.training.settings import TrainSettings


def train(
    accelerator: Accelerator,
    learner: Learner,
    dataset: Any,
    output_dir: Path,
    settings: TrainSettings,
    *,
    same_run: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    validate: Callable[[int], Mapping[str, float] | None] | None = None,
    on_begin: Callable[[int], None] | None = None,
) -> int:
    """Train `learner.network` in place; return the last step.

    Args:
        dataset: items that the learner collates.
        output_dir: where `checkpoint-<step>` folders go.
        same_run: facts that a resumed run must share with its checkpoint.
        options: everything that was asked for, by name, kept in every checkpoint beside the command and the versions.
        validate: called with the step, by every process, every `validation_steps` steps; the values that it returns, if
            any, are reported. on_begin: called once with the step to begin at, when the weights are those of this step.

    Raises:
        TrainingError: the loss is not finite, or memory or a loader process is gone; the last good checkpoint is kept.
        ModelError: the checkpoint to resume from is missing, cannot be read, or is of another run.
        OSError: a checkpoint cannot be written; the older ones are intact.
    """
    s = settings.resolved(len(dataset), accelerator.num_processes)
    share = Share(s.train_batch_size, accelerator.process_index, accelerator.num_processes, s.accumulation)
    optimizer, ema = prepare(accelerator, learner, s, dataset[0])
    facts = {"seed": s.seed, "images_per_step": share.images_per_step, "dataset_size": len(dataset), **(same_run or {})}
    made_by = {"options": dict(options or vars(s)), **provenance(accelerator.device, share.processes).to_json()}
    parts, limit = (learner, optimizer, ema), s.checkpoints_total_limit
    checkpoints = Checkpoints(accelerator, *parts, Path(output_dir), facts, made_by, limit)
    step = checkpoints.begin(s)
    if on_begin is not None:
        on_begin(step)
    loader = make_loader(accelerator, learner, dataset, s, share, step)
    with (
        faults_in_one_line(s.dataloader_num_workers),
        contextlib.closing(Meter(accelerator, s, step, share.images_per_step)) as meter,
    ):
        rehearse(accelerator, learner, optimizer, loader, s)
        for batch in loader:
            batch = to_device(batch, accelerator.device)
            with accelerator.accumulate(learner.network):
                value = learner.loss(batch)
                accelerator.backward(value)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(learner.network.parameters(), s.max_grad_norm)
                    for group in optimizer.param_groups:
                        group["lr"] = learning_rate(s, step)
                optimizer.step()
                optimizer.zero_grad(set_to_none=s.set_grads_to_none)
            meter.add(value)
            if not accelerator.sync_gradients:
                continue
            step += 1
            if ema is not None:
                ema.step(bare(learner.network).parameters())
            last = step == s.num_steps
            saves = last or step % s.checkpointing_steps == 0
            if saves or step % s.logging_steps == 0:
                meter.log(step)  # reads the loss: raises on NaN, before anything is saved
            if saves:
                checkpoints.save(step)
            if validate is not None and (last or step % s.validation_steps == 0):
                with torch.compiler.set_stance("force_eager"):  # pictures come in other shapes than batches
                    meter.held_out(validate(step), step)
    return step


def prepare(
    accelerator: Accelerator, learner: Learner, settings: TrainSettings, item: Mapping[str, Any]
) -> tuple[torch.optim.Optimizer, EMAModel | None]:
    """Put the learner on its device in the fastest form that it has there; make optimizer and running average.

    Args:
        item: of the dataset; says which parameters no gradient reaches.
    """
    if accelerator.gradient_accumulation_steps != settings.accumulation:
        raise ValueError(
            f"accelerator accumulates {accelerator.gradient_accumulation_steps}, settings {settings.accumulation}"
        )
    network, device = learner.network.train(), accelerator.device
    for parameter in learner.idle_parameters(item):
        parameter.requires_grad_(False)  # no gradient reaches these, and DDP would wait for it
    learner.to(device)
    learner.autocast = accelerator.autocast
    if device.type == "cuda":
        network.to(memory_format=torch.channels_last)  # what its convolutions want; on a CPU it costs 15 %
    if settings.compile:
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)  # one per bucket
        torch.backends.cudnn.benchmark = True
        network.compile(dynamic=False)  # in place: its weights keep their names
    optimizer = make_optimizer(network, settings)
    ema = make_ema(network, settings) if settings.use_ema else None
    network, optimizer = accelerator.prepare(network, optimizer)
    learner.use(network)
    return optimizer, ema


def make_loader(
    accelerator: Accelerator, learner: Learner, dataset: Any, settings: TrainSettings, share: Share, step: int
) -> DataLoader:
    """Loader of this process's micro-steps from optimizer step `step` to the end."""
    collate = functools.partial(learner.collate, static_shapes=settings.compile)
    batches = TrainingBatches(dataset, collate, learner.noise(dataset[0], settings), share, settings.seed)
    first, end = step * share.accumulation, settings.num_steps * share.accumulation
    on_gpu = accelerator.device.type == "cuda"
    return batches.loader(first, max(first, end), settings.dataloader_num_workers, pin_memory=on_gpu)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """A batch on a device, without waiting for the copies of pinned memory."""
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def rehearse(
    accelerator: Accelerator,
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    loader: DataLoader,
    settings: TrainSettings,
) -> None:
    """Run the first batch without a step, where several processes or compiled code must settle before the first step.

    DDP regroups its gradients after its first backward pass: without this one, the first step after a start or a resume
    would sum them in another order than the rest, and a resumed run of more than two processes would differ in the last
    bits.
    """
    if not len(loader) or not (settings.compile or accelerator.num_processes > 1):
        return
    batch = to_device(loader.dataset[next(iter(loader.sampler))], accelerator.device)
    if accelerator.num_processes > 1:
        learner.loss(batch).backward()
        optimizer.zero_grad()
    if settings.compile:
        drop_wrong_code(accelerator, learner, optimizer, batch)


def drop_wrong_code(accelerator: Accelerator, learner: Learner, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    """Go on without torch.compile where the gradients of its code are not the eager ones, and say so."""
    network = bare(learner.network)

    def gradients() -> list[torch.Tensor]:
        accelerator.backward(learner.loss(batch))
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
    options: dict[str, Any] = {
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


def make_ema(network: Any, settings: TrainSettings) -> EMAModel:
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
    done = (step - settings.lr_warmup_steps) / max(1, settings.num_steps - settings.lr_warmup_steps)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


class Meter:
    """Mean loss since the last report, without a host synchronisation per step; progress bar and trackers."""

    def __init__(self, accelerator: Accelerator, settings: TrainSettings, step: int, images_per_step: int):
        self.accelerator, self.settings, self.images_per_step = accelerator, settings, images_per_step
        self.losses: list[torch.Tensor] = []
        self.step, self.time = step, time.perf_counter()
        self.shown: dict[str, str] = {}  # beside the bar
        hidden = not accelerator.is_local_main_process
        self.bar = tqdm(total=settings.num_steps, initial=step, unit="step", disable=hidden)

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
            first = int((~losses.isfinite()).nonzero()[0]) // self.settings.accumulation
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
        self.shown |= {
            "loss": f"{loss:.4f}",
            "lr": f"{values['lr']:.1e}",
            "img/s": f"{values['images_per_second']:.0f}",
        }
        self.bar.set_postfix(self.shown)
        self.accelerator.log(values, step=step)
        self.losses, self.step, self.time = [], step, time.perf_counter()

    def held_out(self, values: Mapping[str, float] | None, step: int) -> None:
        """Report what was measured on held-out images, if anything."""
        if values:
            self.shown |= {"val": f"{values['val_error']:.4f}"}
            self.bar.set_postfix(self.shown)
            self.accelerator.log(dict(values), step=step)

    def close(self) -> None:
        """End the progress bar."""
        self.bar.close()
