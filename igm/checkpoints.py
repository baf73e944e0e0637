"""Training checkpoints: `<output_dir>/checkpoint-<step>/`, always complete, because they get that name last.

Contents:
    unet2dconditionmodel/        the network in diffusers format, as the published code writes it
    unet2dconditionmodel_ema/    its running average, if kept
    scheduler/  igm.json         noise schedule, and facts that inference uses
    optimizer.bin ...            what accelerate needs to go on
    training.json                step and the options that a resumed run must share
"""

import errno
import json
import os
import shutil
from pathlib import Path

from accelerate import Accelerator
from safetensors import SafetensorError

from models import ModelError
from models.denoiser import EMA_DIR, META_FILE, NETWORK_DIR, Denoiser, load_network
from models.unet import one_line, read_config

STATE_FILE = "training.json"


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first by step."""
    found = [
        p for p in Path(folder).glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit() and p.is_dir()
    ]
    return sorted(found, key=lambda p: int(p.name.removeprefix("checkpoint-")))


def find_checkpoint(folder: Path, name: str) -> Path | None:
    """Resolve `--resume_from_checkpoint`: "latest" (None if there is none yet), a path, or a folder name in the run.

    Raises:
        ModelError: a named checkpoint does not exist.
    """
    if name == "latest":
        return next((p for p in reversed(list_checkpoints(folder)) if (p / STATE_FILE).is_file()), None)
    for place in (Path(name), Path(folder) / name):
        if (place / STATE_FILE).is_file():
            return place
    raise ModelError(f"--resume_from_checkpoint {name}: no complete checkpoint there; use 'latest' or a path")


def register_network_format(accelerator: Accelerator, denoiser: Denoiser, ema=None) -> None:
    """Make accelerate save and load the network in diffusers format instead of its own."""

    def save(models, weights, output_dir):
        if accelerator.is_main_process:
            accelerator.unwrap_model(denoiser.network).save_pretrained(Path(output_dir) / NETWORK_DIR)
            if denoiser.scheduler is not None:  # a classifier has none
                denoiser.scheduler.save_pretrained(Path(output_dir) / "scheduler")
            (Path(output_dir) / META_FILE).write_text(json.dumps(denoiser.meta, indent=2) + "\n")
            if ema is not None:
                ema.save_pretrained(Path(output_dir) / EMA_DIR)
        weights.clear()

    def load(models, input_dir):
        while models:
            accelerator.unwrap_model(models.pop()).load_state_dict(
                load_network(Path(input_dir), ema=False).state_dict()
            )
        if ema is not None and (Path(input_dir) / EMA_DIR).is_dir():
            network = accelerator.unwrap_model(denoiser.network)
            ema.load_state_dict(type(ema).from_pretrained(Path(input_dir) / EMA_DIR, type(network)).state_dict())
            ema.to(accelerator.device)

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def save_checkpoint(accelerator: Accelerator, folder: Path, state: dict, total_limit: int | None) -> Path:
    """Write `checkpoint-<state["step"]>` under a temporary name, rename it, then remove the oldest beyond the limit.

    Every process calls it. The older checkpoints are untouched until the new one is complete.

    Raises:
        OSError: the disk is full or the folder cannot be written; what was half-written is removed.
    """
    final = Path(folder) / f"checkpoint-{state['step']}"
    temporary = Path(folder) / f".{final.name}.partial"
    if accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)
    accelerator.wait_for_everyone()
    try:
        accelerator.save_state(str(temporary))
        if accelerator.is_main_process:
            (temporary / STATE_FILE).write_text(json.dumps(state, indent=2) + "\n")
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, SafetensorError | RuntimeError):  # how safetensors and torch.save report a full disk
            raise OSError(errno.EIO, f"checkpoint not written ({one_line(error)})", str(temporary)) from error
        raise
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(final, ignore_errors=True)  # an earlier run's, when training starts afresh in the same folder
        os.replace(temporary, final)
        others = [p for p in list_checkpoints(folder) if p != final]
        for old in others[: max(0, len(others) + 1 - total_limit)] if total_limit else []:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return final


def load_checkpoint(accelerator: Accelerator, path: Path, options: dict) -> int:
    """Restore a checkpoint; return its step.

    Raises:
        ModelError: it was made with other options than `options` (architecture, dataset, batch, seed).
    """
    state = read_config(path / STATE_FILE, "--resume_from_checkpoint")
    for name, value in json.loads(json.dumps(options)).items():  # as they were written: tuples are lists
        if state.get(name, value) != value:
            raise ModelError(
                f"{path} was trained with {name} = {state[name]}, now {value}; use the same, or start afresh"
            )
    accelerator.load_state(str(path))
    return int(state["step"])
