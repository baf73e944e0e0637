"""Where losses are reported: accelerate's trackers, none of which may stop a training."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator, tracking
from accelerate.utils import LoggerType

from igm import UserError, warn


def choose_tracker(name: str) -> str | None:
    """The tracker for accelerate, or None; wandb without a login records offline, and never asks.

    Raises:
        UserError: accelerate does not know it.
    """
    if name == "none":
        return None
    if name != "all" and name not in {str(kind) for kind in LoggerType}:
        raise UserError(f"--report_to {name} is not known; use one of {', '.join(sorted(map(str, LoggerType)))}, none")
    if name != "all" and name not in map(str, tracking.get_available_trackers()):
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


def start_trackers(accelerator: Accelerator, name: str, project: str, options: Mapping[str, Any]) -> None:
    """Start the trackers; one that fails is dropped with a message, and training goes on."""
    config = {k: v for k, v in options.items() if isinstance(v, int | float | str | bool)}
    try:
        # wandb reads WANDB_MODE once, when it is asked for a login: the mode is passed on as well
        wandb = {"dir": str(Path(accelerator.project_dir or ".")), "mode": os.environ.get("WANDB_MODE")}
        accelerator.init_trackers(project, config=config, init_kwargs={"wandb": wandb})
    except Exception as error:  # trackers raise whatever their services do
        warn(f"--report_to {name} could not start ({error}); training goes on without it")
        accelerator.trackers = []
