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

from igm import warn
from igm.facts import FACTS_FILE
from igm.models import ModelError
from igm.models.denoiser import EMA_DIR, NETWORK_DIR, Denoiser, load_network
from igm.models.unet import one_line, read_config

STATE_FILE = "training.json"
# What diffusers notes in a config beside the network's shape: its origin, and the state of the running average.
OF_THE_RUN = ("_name_or_path", "decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step")
OF_THE_RUN += ("use_ema_warmup",)


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
            (Path(output_dir) / FACTS_FILE).write_text(json.dumps(denoiser.facts.to_json(), indent=2) + "\n")
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

    Every process calls it. The older checkpoints are untouched until the new one is complete and on the disk.

    Raises:
        OSError: the disk is full or the folder cannot be written; what was half-written is removed.
    """
    final = Path(folder) / f"checkpoint-{state['step']}"
    temporary = Path(folder) / f".{final.name}.partial"
    if accelerator.is_main_process:
        for rest in (*Path(folder).glob(".checkpoint-*.partial"), *Path(folder).glob(".checkpoint-*.removed")):
            shutil.rmtree(rest, ignore_errors=True)  # of a killed run
    accelerator.wait_for_everyone()
    try:
        accelerator.save_state(str(temporary))
        if accelerator.is_main_process:
            state = {**state, "num_processes": accelerator.num_processes}
            (temporary / STATE_FILE).write_text(json.dumps(state, indent=2) + "\n")
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, SafetensorError | RuntimeError):  # how safetensors and torch.save report a full disk
            raise OSError(errno.EIO, f"checkpoint not written ({one_line(error)})", str(temporary)) from error
        raise
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_through(temporary)
        remove(final)  # an earlier run's, when training starts afresh in the same folder
        os.replace(temporary, final)
        others = [p for p in list_checkpoints(folder) if p != final]
        for old in others[: max(0, len(others) + 1 - total_limit)] if total_limit else []:
            remove(old)
    accelerator.wait_for_everyone()
    return final


def write_through(folder: Path) -> None:
    """Have the system write a folder's files to the disk, so that a power cut after the rename finds them there."""
    for path in sorted(folder.rglob("*"), reverse=True) + [folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove(checkpoint: Path) -> None:
    """Delete a checkpoint; killed on the way, it leaves a hidden folder, never a torn checkpoint."""
    if checkpoint.exists():
        hidden = checkpoint.with_name(f".{checkpoint.name}.removed")
        os.replace(checkpoint, hidden)
        shutil.rmtree(hidden)


def load_checkpoint(accelerator: Accelerator, path: Path, facts: dict) -> int:
    """Restore a checkpoint; return its step.

    Raises:
        ModelError: it is of another run than `facts` (architecture, dataset, batch, seed).
    """
    state = check_same_run(path, facts, accelerator.num_processes)
    if state.get("images_per_step", facts["images_per_step"]) != facts["images_per_step"]:
        warn(
            f"{path} was trained by {state['num_processes']} processes with {state['images_per_step']} images "
            f"per step, now {accelerator.num_processes} with {facts['images_per_step']}: training goes on, but in "
            "another data order (some images of this epoch may be seen twice or not at all)"
        )
    accelerator.load_state(str(path))
    return int(state["step"])


def check_same_run(path: Path, facts: dict, num_processes: int) -> dict:
    """What `training.json` of a checkpoint says. Another number of processes may make another number of images per step.

    Raises:
        ModelError: it differs from `facts`; one line with what differs.
    """
    state = read_config(path / STATE_FILE, "--resume_from_checkpoint")
    for name, value in json.loads(json.dumps(facts)).items():  # as they were written: tuples are lists
        old = state.get(name, value)
        if name == "images_per_step" and state.get("num_processes", num_processes) != num_processes:
            continue
        if isinstance(value, dict):
            differing = [key for key in value if old.get(key, value[key]) != value[key]]
            name = f"{name}: {', '.join(differing)}"
            old, value = [old[key] for key in differing], [value[key] for key in differing]
        if old != value:
            raise ModelError(f"{path} was trained with {name} = {old}, now {value}; use the same, or start afresh")
    return state


def tidy_configs(folder: str | Path) -> None:
    """Take out of the configs under a folder what says where the weights came from, and not what they are."""
    for file in Path(folder).rglob("config.json"):
        config = json.loads(file.read_text())
        file.write_text(json.dumps({k: v for k, v in config.items() if k not in OF_THE_RUN}, indent=2) + "\n")
