"""Where and how to compute on this machine."""

import torch

from igm import UserError, warn
from igm.models.denoiser import Denoiser
from igm.models.unet import one_line


def usable_precision(name: str, device: torch.device | str | None = None) -> str:
    """The precision to use on this machine: fp16 on a CPU becomes float32, with a warning."""
    on_cpu = not torch.cuda.is_available() if device is None else torch.device(device).type == "cpu"
    if name == "fp16" and on_cpu:
        warn("--mixed_precision fp16 needs a GPU; using float32")
        return "no"
    return name


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


def best_device() -> torch.device:
    """CUDA, else Apple's MPS, else the CPU."""
    kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return torch.device(kind)


def find_device(name: str | None) -> torch.device:
    """The device of that name ("cuda", "cuda:1", "mps", "cpu"), or the best there is.

    Raises:
        UserError: there is no such device, or it cannot be used here.
    """
    if name is None:
        return best_device()
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError, TypeError):
        raise UserError(f"--device {ascii(name)} is no device; use cuda, cuda:N, mps or cpu") from None
    if device.type not in ("cuda", "mps", "cpu"):
        raise UserError(f"--device {name} is not supported; use cuda, cuda:N, mps or cpu")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {name}: PyTorch finds no CUDA GPU here; leave it out, or use --device cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"--device {name}: PyTorch finds no Apple GPU here; leave it out, or use --device cpu")
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if device.index is not None and device.index >= count:
        raise UserError(f"--device {name}: there are {count}, counted from 0; use {device.type}:0 to {count - 1}")
    return device
