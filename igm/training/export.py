"""From a training checkpoint to a folder to ship."""

import dataclasses
import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from igm.files import replace_json
from igm.models.denoiser import Denoiser
from igm.models.unet import one_line

# What diffusers notes in a config beside the network's shape: its origin, and the state of the running average.
OF_THE_AVERAGE = ("decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step")
OF_THE_RUN = ("_name_or_path", "use_ema_warmup", *OF_THE_AVERAGE)


def export_denoiser(denoiser: Denoiser, folder: str | Path) -> int:
    """Write averaged weights in float16, schedule, codec and facts; return the folder's size in bytes.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    denoiser.facts = dataclasses.replace(denoiser.facts, codec=None)  # it is in the folder
    denoiser.network.half()  # `to(torch.float16)` prints a warning of diffusers that is about no module
    denoiser.save_pretrained(folder)
    tidy_configs(folder)
    return folder_size(folder)


def tidy_configs(folder: str | Path) -> None:
    """Take out of the configs under a folder what says where the weights came from, and not what they are."""
    for file in Path(folder).rglob("config.json"):
        config = json.loads(file.read_text(encoding="utf-8"))
        replace_json(file, {k: v for k, v in config.items() if k not in OF_THE_RUN})


def replace_folder(folder: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a new folder beside `folder`, then give it that name; no failure leaves it behind.

    Raises:
        OSError: the disk is full, or the folder cannot be written; what was there is still there.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(16)}.partial")
    temporary.mkdir()
    try:
        write(temporary)
        if folder.exists():
            os.replace(folder, temporary.with_suffix(".removed"))
        os.replace(temporary, folder)
    except (SafetensorError, RuntimeError) as error:  # how safetensors reports a full disk
        raise OSError(errno.EIO, f"not written ({one_line(error)})", str(folder)) from error
    finally:
        for rest in (temporary, temporary.with_suffix(".removed")):
            shutil.rmtree(rest, ignore_errors=True)


def folder_size(folder: str | Path) -> int:
    """Bytes of the files under a folder."""
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
