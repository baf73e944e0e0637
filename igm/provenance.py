"""Where a result comes from: the command, the versions, the machine and the commit that made it."""

import dataclasses
import functools
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from igm import __version__

PACKAGES = ("torch", "diffusers", "accelerate", "transformers", "numpy", "pillow", "safetensors", "scipy")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What made a result, besides its settings.

    Args:
        command: the words of the command line, program first.
        versions: of Python and of the packages that numbers depend on, by name.
        device: what computed, such as "cuda: NVIDIA H100" or "cpu: x86_64". threads: of one operation on the CPU.
        processes: how many worked together.
        commit: of the checkout that IGM runs from, with "-dirty" where files differ from it; None for an installed copy.
    """

    command: tuple[str, ...]
    versions: Mapping[str, str]
    device: str
    threads: int
    processes: int
    commit: str | None

    def to_json(self) -> dict[str, Any]:
        """Plain values by name."""
        return dataclasses.asdict(self) | {"command": list(self.command), "versions": dict(self.versions)}


def provenance(device: torch.device | str = "cpu", processes: int = 1) -> Provenance:
    """The provenance of what this process makes on a device."""
    return Provenance(
        command=without_tokens(sys.argv),
        versions=library_versions(),
        device=device_in_words(torch.device(device)),
        threads=torch.get_num_threads(),
        processes=processes,
        commit=git_commit(),
    )


def without_tokens(words: Sequence[str]) -> tuple[str, ...]:
    """A command line whose options that end in `token` have no values, for files that others will read."""
    return tuple(
        "<token>"
        if before.startswith("--") and before.endswith("token")
        else re.sub("^(--[a-z_]*token)=.*", r"\1=<token>", w)
        for before, w in zip(["", *words], words, strict=False)
    )


def library_versions() -> dict[str, str]:
    """Versions of this package, of Python and of the installed packages that results depend on."""
    versions = {"igm": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def device_in_words(device: torch.device) -> str:
    """The kind of a device, and its name where it has one."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return f"{device.type}: {name}" if name else device.type


@functools.cache
def git_commit() -> str | None:
    """The commit of the checkout that this package lies in, "-dirty" after it where tracked files differ.

    None for an installed copy, and where git is not there or refuses.
    """
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-c", "core.fsmonitor=false", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(command, cwd=root, env=plain, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
