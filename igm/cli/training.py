"""Options of a training, and the settings that they become."""

import argparse
import dataclasses
import os

from igm import warn
from igm.models import ModelError
from igm.models.sampling import SCHEDULERS
from igm.settings import not_negative, positive, positive_float
from igm.training.loop import TrainSettings


def add_training_options(parser: argparse.ArgumentParser, **defaults) -> None:
    """Everything that the loop needs. The published parser's flags, and few more."""
    group = parser.add_argument_group("training")
    group.add_argument("--initialize_from", help="start from this checkpoint's weights, step 0 (to fine-tune)")
    group.add_argument("--train_batch_size", type=positive, help="images per process and step")
    group.add_argument("--max_train_steps", type=positive, help="optimizer steps; overrides --num_train_epochs")
    group.add_argument("--num_train_epochs", type=positive, help="passes over the data")
    group.add_argument("--learning_rate", type=positive_float, help="peak learning rate")
    group.add_argument("--scale_lr", action="store_true", help="multiply the learning rate by images per step")
    group.add_argument("--lr_scheduler", choices=("constant", "cosine"), help="after the warm-up")
    group.add_argument("--lr_warmup_steps", type=not_negative, help="steps of linear warm-up")
    group.add_argument("--gradient_accumulation_steps", type=positive, help="micro-batches per step")
    group.add_argument("--gradient_checkpointing", action="store_true", help="less memory, more time")
    group.add_argument("--max_grad_norm", type=positive_float, help="clip the gradient's norm to this")
    group.add_argument("--adam_beta1", type=float)
    group.add_argument("--adam_beta2", type=float)
    group.add_argument("--adam_weight_decay", type=float)
    group.add_argument("--adam_epsilon", type=float)
    group.add_argument("--use_8bit_adam", action="store_true", help="AdamW of bitsandbytes (CUDA)")
    group.add_argument("--use_ema", action="store_true", help="keep a running average of the weights")
    group.add_argument("--ema_decay", type=float, help="its decay, reached after a warm-up")
    group.add_argument("--offset_noise", action="store_true", help="add one normal number per channel to the noise")
    group.add_argument("--snr_gamma", type=positive_float, help="min-SNR weights of the error; 5 is usual")
    group.add_argument(
        "--t_logit_normal",
        type=float,
        nargs=2,
        metavar=("MEAN", "STD"),
        help="draw timesteps so, as Stable Diffusion 3",
    )
    group.add_argument("--set_grads_to_none", action=argparse.BooleanOptionalAction, help="instead of zeros")
    group.add_argument("--compile", action="store_true", help="torch.compile, with a few sizes of packed batches")
    group.add_argument("--enable_xformers_memory_efficient_attention", action="store_true", help="needs CUDA, xformers")
    group.add_argument("--dataloader_num_workers", type=not_negative, help="loader processes")
    group.add_argument("--no_latent_cache", action="store_true", help="encode in every step, keep no latents on disk")
    group = parser.add_argument_group("checkpoints, logging, validation")
    group.add_argument("--checkpointing_steps", type=positive, help="steps between checkpoints")
    group.add_argument("--checkpoints_total_limit", type=positive, help="keep only the newest so many")
    group.add_argument("--resume_from_checkpoint", help="'latest', or a checkpoint folder")
    group.add_argument("--report_to", default="wandb", help="wandb, tensorboard, all, none, ... (as accelerate)")
    group.add_argument("--logging_dir", default="logs", help="trackers' folder inside the run's")
    group.add_argument("--logging_steps", type=positive, help="steps between reports of the loss")
    group.add_argument("--validation_steps", type=positive, help="steps between validation pictures")
    group.add_argument("--num_validation_images", type=not_negative, default=4, help="0: none")
    group.add_argument("--val_batch_size", type=positive, default=4, help="images sampled at once")
    group.add_argument("--validation_scheduler", choices=sorted(SCHEDULERS), default="DPMSolverMultistepScheduler")
    fields = {f.name: f.default for f in dataclasses.fields(TrainSettings) if f.default is not dataclasses.MISSING}
    parser.set_defaults(**{**fields, **defaults})


def train_settings(options: argparse.Namespace, dataset_size: int, num_processes: int) -> TrainSettings:
    """The loop's settings from parsed options; epochs become steps.

    Raises:
        ModelError: the batch is larger than the dataset.
    """
    values = {f.name: getattr(options, f.name) for f in dataclasses.fields(TrainSettings)}
    per_step = options.train_batch_size * num_processes * options.gradient_accumulation_steps
    if options.train_batch_size * num_processes > dataset_size:
        raise ModelError(
            f"--train_batch_size {options.train_batch_size} x {num_processes} processes is more than the "
            f"{dataset_size} images; lower it"
        )
    if options.max_train_steps is None:
        values["max_train_steps"] = max(1, (options.num_train_epochs or 1) * dataset_size // per_step)
    if options.scale_lr:
        values["learning_rate"] *= per_step
    return TrainSettings(**values)


def choose_tracker(name: str) -> str | None:
    """The tracker for accelerate, or None; wandb without a login records offline, and never asks.

    Raises:
        ModelError: accelerate does not know it, or its package is not installed.
    """
    if name == "none":
        return None
    from accelerate.tracking import get_available_trackers
    from accelerate.utils import LoggerType

    if name != "all" and name not in {str(kind) for kind in LoggerType}:
        raise ModelError(f"--report_to {name} is not known; use one of {', '.join(sorted(map(str, LoggerType)))}, none")
    if name != "all" and name not in map(str, get_available_trackers()):
        warn(f"--report_to {name}: the package is not installed (pip install {name}); training goes on without it")
        return None
    if name in ("wandb", "all"):
        wandb_offline_without_login()
    return name


def wandb_offline_without_login() -> None:
    """Set WANDB_MODE=offline where wandb would ask for a login."""
    if "WANDB_MODE" in os.environ:
        return
    try:
        import wandb

        logged_in = wandb.login(prompt=False, timeout=5)
    except Exception:  # no package, no network, a broken settings file: none may stop a training
        logged_in = False
    if not logged_in:
        os.environ["WANDB_MODE"] = "offline"
        warn("wandb has no login here; it records offline (later: wandb login, then wandb sync)")
