"""Options of an evaluation, and the model that they name."""

import argparse
import os
from collections.abc import Iterable
from pathlib import Path

import torch
from accelerate import PartialState

from igm.cli.types import positive
from igm.devices import compile_where_right, find_device
from igm.models import ModelError
from igm.models.denoiser import Denoiser, check_resolution
from igm.models.unet import read_config
from igm.resources import PRETRAINED
from igm.training.checkpoints import list_checkpoints


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
        return str(PRETRAINED / shipped)
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
    device = state.device if state and not options.device else find_device(options.device)
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
