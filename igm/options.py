"""Option groups that the scripts share, and how a script ends on a mistake of its user."""

import argparse
import dataclasses
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil  # a dependency of accelerate
import torch
from accelerate import PartialState

from igm import UserError, warn
from igm.checkpoints import list_checkpoints
from igm.training import TrainingError, TrainSettings
from models import ModelError
from models.codec import DEFAULT_MODEL
from models.denoiser import Denoiser, check_resolution
from models.sampling import SCHEDULERS
from models.unet import one_line, read_config

ROOT = Path(__file__).resolve().parent.parent  # the project folder: configs/ and models/pretrained/ are in it


def new_parser(description: str) -> argparse.ArgumentParser:
    """A parser whose help shows the defaults; abbreviations are not accepted, so that a typing error is one."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )


def run(main: Callable[[], None], *user_errors: type[Exception]) -> None:
    """Run a script's main; a mistake of the user ends it with one line and exit code 2, without a stack trace."""
    start_cpu_processes()
    try:
        main()
    except (UserError, ModelError, TrainingError, FloatingPointError, *user_errors) as error:
        fail(str(error))
    except OSError as error:
        if error.errno is None:
            raise
        fail(f"{error.strerror}: {error.filename or 'while writing'}; free space or choose another --output_dir")


def start_cpu_processes() -> None:
    """Make `accelerate launch --cpu --num_processes=N` start N processes; without MPI accelerate starts one, silently.

    N stands only on the command line of the launcher, which is this process's parent.
    """
    launched = "MASTER_ADDR" in os.environ and os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
    if not launched or any(name in os.environ for name in ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE")):
        return
    found = re.search(r"--num_processes[=\s](\d+)", " ".join(psutil.Process(os.getppid()).cmdline()))
    if found is None:
        warn("accelerate launch --cpu started one process; for several, give --num_processes=N on its command line")
        return
    command = ["-m", "torch.distributed.run", f"--nproc_per_node={found[1]}"]
    command.append(f"--master_port={os.environ['MASTER_PORT']}")
    os.execv(sys.executable, [sys.executable, *command, *sys.argv])


def fail(message: str) -> None:
    """Print one line and leave with exit code 2 (at once, so that other processes of the run do not wait)."""
    print(f"error: {message.strip().splitlines()[-1]}", file=sys.stderr, flush=True)
    if "RANK" in os.environ:
        os._exit(2)
    sys.exit(2)


def positive(text: str) -> int:
    """An integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def not_negative(text: str) -> int:
    """An integer of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, not {value}")
    return value


def seed_number(text: str) -> int:
    """An integer that every library takes as a seed."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"must be in 0 to {2**32 - 1}, not {value}")
    return value


def positive_float(text: str) -> float:
    """A number above 0."""
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be above 0, not {value}")
    return value


def not_negative_float(text: str) -> float:
    """A number of at least 0."""
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, not {value}")
    return value


def probability(text: str) -> float:
    """A number above 0 and at most 1."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, not {value}")
    return value


def int_range(text: str) -> tuple[int, int]:
    """A range "3-5" of counts, both ends included; "4" is "4-4"."""
    low, _, high = text.partition("-")
    try:
        pair = int(low), int(high or low)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a range; write it like 3-5") from None
    if not 1 <= pair[0] <= pair[1]:
        raise argparse.ArgumentTypeError(f"{text!r} must go upwards from at least 1, like 3-5")
    return pair


def add_model_options(parser: argparse.ArgumentParser, config: str) -> argparse._ArgumentGroup:
    """Network, schedule and codec; `config` is the folder under configs/ that the defaults come from."""
    group = parser.add_argument_group("model")
    group.add_argument("--unet_config", default=str(ROOT / "configs" / config / "unet"), help="network config")
    group.add_argument(
        "--scheduler_config",
        default=str(ROOT / "configs" / config / "scheduler" / "scheduler_config.json"),
        help="noise schedule",
    )
    group.add_argument("--pretrained_model_name", help=f"folder or hub id of the codec (hub default: {DEFAULT_MODEL})")
    group.add_argument("--local_files_only", action="store_true", help="never ask the hub")
    return group


def add_run_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Seed, precision and places that every script has."""
    group = parser.add_argument_group("run")
    group.add_argument("--seed", type=seed_number, default=42, help="the same seed gives the same numbers")
    group.add_argument("--mixed_precision", choices=("no", "fp16", "bf16"), default="no", help="network's arithmetic")
    group.add_argument("--allow_tf32", action="store_true", help="TF32 matrix products on Ampere and later GPUs")
    group.add_argument("--output_dir", default="outputs", help="results go to <output_dir>/<tracker_project_name>")
    group.add_argument("--tracker_project_name", help="name of the run and of its folder")
    add_dry_run_option(group)
    return group


def add_dry_run_option(group: argparse._ActionsContainer) -> None:
    """`--dry_run`, which every script has."""
    group.add_argument("--dry_run", action="store_true", help="print options, data, parameters and memory, and stop")


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


def usable_precision(name: str, device: torch.device | str | None = None) -> str:
    """The precision to use on this machine: fp16 on a CPU becomes float32, with a warning."""
    on_cpu = not torch.cuda.is_available() if device is None else torch.device(device).type == "cpu"
    if name == "fp16" and on_cpu:
        warn("--mixed_precision fp16 needs a GPU; using float32")
        return "no"
    return name


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


def add_evaluation_options(parser: argparse.ArgumentParser, *, averaged: bool = True) -> None:
    """What every evaluation script has besides data, method and model; `averaged`: its models may have averages."""
    group = parser.add_argument_group("evaluation")
    group.add_argument("--checkpoint", help="folder, checkpoint-N, or hub id (default: newest of the run, or shipped)")
    if averaged:
        group.add_argument("--no_ema", action="store_true", help="the weights themselves, not their running average")
    group.add_argument("--batch_size", type=positive, default=1024, help="most network rows at once")
    group.add_argument("--images_per_batch", type=positive, default=8, help="images inferred together")
    group.add_argument("--device", help="cuda, mps or cpu (default: the best there is)")
    group.add_argument("--resume", action="store_true", help="skip the images that results.jsonl has")
    group.add_argument("--no_figures", action="store_true", help="records and summary only")
    group.add_argument("--compile", action="store_true", help="torch.compile the network: for many images on a GPU")


def find_model(options: argparse.Namespace, shipped: str | None) -> str:
    """The checkpoint to evaluate: the one named, else the newest of the run's folder, else the shipped model.

    The shipped model, where there is one, is taken only with the embedded data (no --dataset_root).

    Raises:
        ModelError: a dataset is given, but no checkpoint, and the run has none.
    """
    if options.checkpoint:
        return options.checkpoint
    if options.dataset_root is None and shipped:
        return str(ROOT / "models" / "pretrained" / shipped)
    run_dir = Path(options.output_dir) / options.tracker_project_name
    found = list_checkpoints(run_dir)
    if not found:
        hint = f" (shipped: models/pretrained/{shipped})" if shipped else ""
        raise ModelError(f"no checkpoint-* in {run_dir}; pass --checkpoint{hint}")
    return str(found[-1])


def load_denoiser(options: argparse.Namespace, checkpoint: str, cond_size: int, model_class=Denoiser) -> Denoiser:
    """The Denoiser to evaluate, on the device asked for; the checkpoint's own configs win over the options'.

    Args:
        cond_size: D of the task's conditions. model_class: has `from_pretrained` like Denoiser's.

    Raises:
        ModelError: not found, not usable, or made for other conditions.
    """
    on_cpu = options.device == "cpu" or not torch.accelerator.is_available()
    state = PartialState(cpu=on_cpu) if "RANK" in os.environ else None
    device = torch.device(options.device) if options.device else (state.device if state else best_device())
    torch.backends.cuda.matmul.allow_tf32 = options.allow_tf32
    denoiser = model_class.from_pretrained(
        checkpoint,
        codec=options.pretrained_model_name,
        scheduler_config=options.scheduler_config,
        ema=not options.no_ema,
        local_files_only=options.local_files_only,
    )
    if denoiser.cond_size != cond_size:
        raise ModelError(
            f"--checkpoint {checkpoint} takes conditions of size {denoiser.cond_size}, this task's have {cond_size}; "
            "name a checkpoint of this task"
        )
    note_other_config(options, denoiser)
    denoiser.to(device)
    if options.compile:
        compile_where_right(denoiser)
    return denoiser


def check_task(model: Denoiser, task: str, attributes: Iterable[str], checkpoint: str) -> None:
    """Raise ModelError if a checkpoint says that it was trained for another task, or for other attributes.

    Checkpoints of the published code say nothing.
    """
    own = model.meta.get("task", task)
    if own != task:
        raise ModelError(
            f"--checkpoint {checkpoint} was trained as {own}, this needs {task}; name another, or --method"
        )
    trained = model.meta.get("attributes", list(attributes))
    if trained != list(attributes):
        raise ModelError(f"--checkpoint {checkpoint} was trained for --attributes {' '.join(trained)}; pass these")


def compiler_works(device: torch.device) -> bool:
    """Whether torch.compile can make code here; if not, one line says why, and the script goes on without."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=device))
    except Exception as error:  # a missing compiler shows in many ways
        warn(f"--compile does not work here ({one_line(error)}); going on without")
        return False
    return True


def compile_where_right(denoiser: Denoiser, *, gradients: bool = True) -> None:
    """Compile the network for inference; where that does not work, or is wrong, say so and go on without."""
    if compiler_works(denoiser.device) and not denoiser.compile_network(gradients=gradients):
        warn("--compile gives other numbers than eager PyTorch here; going on without")


def note_other_config(options: argparse.Namespace, denoiser: Denoiser) -> None:
    """Say so when --unet_config differs from the checkpoint's own config, which is used."""
    if options.unet_config is None:
        return
    given = read_config(options.unet_config, "--unet_config")
    own = denoiser.network.config
    names = [
        n for n, value in given.items() if not n.startswith("_") and n in own and to_list(own[n]) != to_list(value)
    ]
    if names:
        print(
            f"note: --unet_config differs from the checkpoint's own config in {', '.join(names)}; the checkpoint's is used"
        )


def to_list(value):
    """Tuples as lists, as JSON has them."""
    return list(value) if isinstance(value, tuple) else value


def best_device() -> torch.device:
    """CUDA, else Apple's MPS, else the CPU."""
    kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return torch.device(kind)


def set_resolution(options: argparse.Namespace, denoiser: Denoiser, datasets: Iterable) -> None:
    """Read images at the checkpoint's resolution, or at --resolution where the network can take it.

    Raises:
        ModelError: the network cannot take it.
    """
    resolution = options.resolution or denoiser.resolution
    check_resolution(denoiser.network.config, denoiser.codec, resolution)
    for dataset in datasets:
        dataset.resolution = resolution


def evaluation_settings(options: argparse.Namespace, checkpoint: str, names: Iterable[str]) -> dict:
    """What `igm.evaluation.evaluate` takes of the options that every evaluation has; `names` as in `determining`."""
    return {
        "options": determining(options, names),
        "checkpoint": checkpoint,
        "images_per_batch": options.images_per_batch,
        "batch_size": options.batch_size,
        "resume": options.resume,
    }


def determining(options: argparse.Namespace, names: Iterable[str]) -> dict:
    """The options that determine results, to be stored beside them: `names`, and those that every evaluation has."""
    common = ("seed", "mixed_precision", "resolution", "no_ema", "pretrained_model_name")
    return {name: getattr(options, name) for name in (*names, *common) if hasattr(options, name)}
