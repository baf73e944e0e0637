"""What a checkpoint's folder holds besides its codec: network, schedule and facts, and how the folder is found."""

from pathlib import Path
from typing import Any

from diffusers import DDPMScheduler

from igm import warn
from igm.facts import FACTS_FILE, Facts
from igm.hub import EMA_DIR, MODEL_DIRS, NETWORK_DIR, find_repository, local_path
from igm.models import ModelError
from igm.models.configs import check_schedule, read_config
from igm.models.unet import read_network
from igm.models.weights import has_model


def fetch_folder(name: str | Path, local_files_only: bool, revision: str | None = None) -> Path:
    """A local folder as it is; anything else is fetched from the hub.

    Raises:
        ModelError: neither a folder nor a repository within reach.
    """
    if (path := local_path(name)) is not None:
        return path
    return find_repository(str(name), revision, local_files_only, "--checkpoint").fetch(MODEL_DIRS, "--checkpoint")


def load_network(folder: Path, ema: bool = True) -> Any:
    """The network of a checkpoint, averaged weights first if `ema`.

    Raises:
        ModelError: no weights there, not safetensors, or not exactly those that their config describes.
    """
    places = [folder / EMA_DIR] * ema + [folder / NETWORK_DIR, folder / "unet", folder]
    place = next((p for p in places if has_model(p)), None)
    if place is None:
        raise ModelError(f"checkpoint {folder} holds no weights (looked for {NETWORK_DIR}/*.safetensors); name another")
    return read_network(place, "checkpoint")


def load_scheduler(path: str | Path) -> DDPMScheduler:
    """The training noise schedule from a scheduler_config.json.

    Raises:
        ModelError: no such file, not a scheduler's, or one of impossible values.
    """
    config = read_config(path, "--scheduler_config")
    if "beta_schedule" not in config and "beta_start" not in config:
        raise ModelError(f"--scheduler_config {path} names no beta schedule; it is not a scheduler's config")
    check_schedule(config, f"--scheduler_config {path}")
    return DDPMScheduler.from_config({k: v for k, v in config.items() if not k.startswith("_")})


def read_facts(folder: Path, published: Facts) -> Facts:
    """What igm.json says of a checkpoint; where there is none, what is assumed of a published one, and said."""
    if (folder / FACTS_FILE).is_file():
        return Facts.read(folder)
    low, high = published.pixel_range
    if (low, high) != (-1, 1):
        warn(f"{folder} has no {FACTS_FILE}: taken as the published code's, trained on pixels in [{low:g}, {high:g}]")
    return published
