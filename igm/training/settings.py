"""What a training can be told; each class is a group of options of the training scripts."""

import dataclasses
from dataclasses import dataclass
from pathlib import PurePath
from typing import Self

from igm import UserError
from igm.models.codec import DEFAULT_MODEL
from igm.models.sampling import SCHEDULERS
from igm.settings import (
    SettingError,
    Settings,
    decay,
    folder_name,
    not_negative,
    not_negative_float,
    number,
    path,
    positive,
    positive_float,
    seed_number,
    setting,
    side,
    workers,
)

MOST_PASSES = 100  # over the data in one step: more is a slip of the keyboard


@dataclass(frozen=True, kw_only=True)
class DataSettings(Settings):
    """What every dataset of images can be told; a script adds what is its dataset's own."""

    dataset_root: str = setting(help="folder of the dataset", kind=path)
    resolution: int = setting(64, "images are resized to this square", kind=side)
    max_images: int | None = setting(None, "at most so many images (default: all)", kind=positive)
    flip: bool = setting(False, "add the mirror image of every picture")
    skip_bad_images: bool = setting(False, "leave out unreadable images, and count them")


@dataclass(frozen=True, kw_only=True)
class ModelSettings(Settings):
    """Network, schedule and codec, and where their weights come from."""

    learner: str = setting(
        "compositional", "what is trained: compositional, or a baseline (joint_label, resnet50, slot_attention, ...)"
    )
    unet_config: str = setting("", "network config: a JSON file, or a folder with config.json", kind=path)
    scheduler_config: str = setting("", "noise schedule", kind=path)
    pretrained_model_name: str | None = setting(
        None, f"codec: a folder, the config of one to be fitted, or a hub id (default {DEFAULT_MODEL})", kind=path
    )
    backbone: str | None = setting(
        None, "frozen network whose features --learner dinosaur sees: a folder or a hub id", kind=path
    )
    revision: str | None = setting(None, "branch, tag or commit of the hub's codec or backbone (default: its newest)")
    local_files_only: bool = setting(False, "never ask the hub", determines=False)
    initialize_from: str | None = setting(
        None, "start from this checkpoint's weights, at step 0: to fine-tune (default: fresh weights)", kind=path
    )
    gradient_checkpointing: bool = setting(False, "less memory, more time", determines=False)
    enable_xformers_memory_efficient_attention: bool = setting(False, "needs CUDA and xformers", determines=False)


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Settings):
    """What the loop does. `train_batch_size` is per process; steps are optimizer steps."""

    train_batch_size: int = setting(128, "images per process and step", kind=positive)
    max_train_steps: int | None = setting(
        None, "optimizer steps (default: as many as --num_train_epochs makes)", kind=positive
    )
    num_train_epochs: int = setting(1, "passes over the data, where --max_train_steps is not given", kind=positive)
    learning_rate: float = setting(2e-5, "peak learning rate", kind=positive_float)
    scale_lr: bool = setting(False, "multiply the learning rate by the images per step")
    lr_scheduler: str = setting("constant", "after the warm-up", choices=("constant", "cosine"))
    lr_warmup_steps: int = setting(0, "steps of linear warm-up", kind=not_negative)
    gradient_accumulation_steps: int | None = setting(
        None, "micro-batches per step (default: what accelerate's configuration says, else 1)", kind=positive
    )
    max_grad_norm: float = setting(1.0, "clip the gradient's norm to this", kind=positive_float)
    adam_beta1: float = setting(0.9, "decay of AdamW's mean gradient", kind=decay)
    adam_beta2: float = setting(0.999, "decay of AdamW's mean squared gradient", kind=decay)
    adam_weight_decay: float = setting(1e-2, "AdamW's weight decay", kind=not_negative_float)
    adam_epsilon: float = setting(1e-8, "AdamW's addition to the denominator", kind=positive_float)
    use_8bit_adam: bool = setting(False, "AdamW of bitsandbytes (CUDA)")
    use_ema: bool = setting(False, "keep a running average of the weights")
    ema_decay: float = setting(0.9999, "its decay, reached after a warm-up", kind=decay)
    offset_noise: bool = setting(False, "add one normal number per channel to the noise")
    snr_gamma: float | None = setting(
        None, "min-SNR weights of the error; 5 is usual (default: equal weights)", kind=positive_float
    )
    contrast: float | None = setting(
        None,
        "weight of telling the true attributes of objects from wrong ones; 0 as the default: none",
        kind=not_negative_float,
    )
    t_logit_normal: tuple[float, float] | None = setting(
        None,
        "draw timesteps so, as Stable Diffusion 3 (default: uniformly)",
        kind=number,
        nargs=2,
        metavar=("MEAN", "STD"),
    )
    set_grads_to_none: bool = setting(True, "between steps, instead of zeros", determines=False)
    seed: int = setting(42, "the same seed gives the same numbers", kind=seed_number)
    compile: bool = setting(False, "torch.compile, with a few sizes of packed batches", determines=False)
    dataloader_num_workers: int = setting(0, "loader processes", kind=workers, determines=False)
    no_latent_cache: bool = setting(False, "encode in every step, keep no latents on disk", determines=False)
    logging_steps: int = setting(20, "steps between reports of the loss", kind=positive, determines=False)
    checkpointing_steps: int = setting(10_000, "steps between checkpoints", kind=positive, determines=False)
    checkpoints_total_limit: int | None = setting(
        None, "keep only the newest so many of this run (default: all)", kind=positive, determines=False
    )
    resume_from_checkpoint: str | None = setting(
        None, "'latest', or a checkpoint folder (default: start at step 0)", kind=path, determines=False
    )
    validation_steps: int = setting(
        1000, "steps between validations: held-out error, pictures", kind=positive, determines=False
    )

    def check(self) -> None:
        """Raise SettingError where the density of timesteps has no width."""
        if self.t_logit_normal is not None and self.t_logit_normal[1] <= 0:
            raise SettingError("t_logit_normal", self.t_logit_normal, "its STD must be above 0")

    @property
    def state_bytes(self) -> int:
        """Bytes per parameter besides the weight: gradient, Adam's two moments, running average."""
        return 4 + (2 if self.use_8bit_adam else 8) + 4 * self.use_ema

    @property
    def accumulation(self) -> int:
        """Micro-batches per optimizer step."""
        return self.gradient_accumulation_steps or 1

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run.

        Raises:
            ValueError: nobody has said how many (see `resolved`).
        """
        if self.max_train_steps is None:
            raise ValueError("max_train_steps is None; call resolved() with the size of the dataset")
        return self.max_train_steps

    def resolved(self, dataset_size: int, num_processes: int) -> Self:
        """The same with a number of steps, and with the learning rate that counts.

        Raises:
            SettingError: the batch is larger than the dataset, or a step passes over it more than a hundred times.
        """
        per_step = self.train_batch_size * num_processes
        if per_step > dataset_size:
            words = f"x {num_processes} processes is more than the {dataset_size} images; lower it"
            raise SettingError("train_batch_size", self.train_batch_size, words)
        per_step *= self.accumulation
        if per_step > MOST_PASSES * dataset_size:
            words = f"makes a step of {per_step:,} images of only {dataset_size:,}; lower it"
            raise SettingError("gradient_accumulation_steps", self.accumulation, words)
        steps = self.max_train_steps or max(1, self.num_train_epochs * dataset_size // per_step)
        rate = self.learning_rate * per_step if self.scale_lr else self.learning_rate
        return dataclasses.replace(self, max_train_steps=steps, learning_rate=rate, scale_lr=False)


@dataclass(frozen=True, kw_only=True)
class ReportSettings(Settings):
    """Where losses are reported, what is measured on held-out images, and the validation pictures."""

    report_to: str = setting("wandb", "wandb, tensorboard, all, none, ... (as accelerate)", determines=False)
    logging_dir: str = setting("logs", "trackers' folder inside the run's", kind=path, determines=False)
    held_out_images: int = setting(
        64, "validation images whose error is measured; 0: none", kind=not_negative, determines=False
    )
    validation_found: bool = setting(False, "also the share found in 16 of them", determines=False)
    num_validation_images: int = setting(4, "pictures; 0: none", kind=not_negative, determines=False)
    val_batch_size: int = setting(4, "images sampled at once", kind=positive, determines=False)
    validation_scheduler: str = setting(
        "DPMSolverMultistepScheduler", "sampler of the pictures", choices=sorted(SCHEDULERS), determines=False
    )


@dataclass(frozen=True, kw_only=True)
class RunSettings(Settings):
    """Precision and place of a run."""

    mixed_precision: str | None = setting(
        None, "network's arithmetic (default: what accelerate says, else no)", choices=("no", "fp16", "bf16")
    )
    allow_tf32: bool = setting(False, "TF32 matrix products on Ampere and later GPUs")
    output_dir: str = setting(
        "outputs", "results go to <output_dir>/<tracker_project_name>", kind=path, determines=False
    )
    tracker_project_name: str = setting("igm", "name of the run and of its folder", kind=folder_name, determines=False)
    dry_run: bool = setting(False, "print options, data, parameters and memory, and stop", determines=False)
    push_to_hub: bool = setting(False, "upload the last checkpoint to the hub", determines=False)
    hub_token: str | None = setting(
        None, "token that may write there (default: that of hf auth login)", determines=False, secret=True
    )
    hub_model_id: str | None = setting(
        None, "repository on the hub (default: --tracker_project_name, of the token's owner)", determines=False
    )

    def check(self) -> None:
        """Raise UserError where something is said about the hub, and nothing is to be pushed."""
        for name in ("hub_token", "hub_model_id"):
            if getattr(self, name) is not None and not self.push_to_hub:
                raise UserError(f"--{name} has no effect without --push_to_hub; add it, or leave it out")

    @property
    def repository(self) -> str:
        """The repository to push to."""
        return self.hub_model_id or PurePath(self.tracker_project_name).name
