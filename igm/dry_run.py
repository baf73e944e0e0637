"""`--dry_run`: what a script would do, without doing it: resolved options, data, parameters, memory."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import nn


class Sizable(Protocol):
    """What memory is estimated of: a Denoiser, or a Learner."""

    network: Any

    @property
    def codec(self) -> Any: ...

    def trial_pass(self, network: nn.Module, rows: int, images: int) -> torch.Tensor: ...


def describe(
    options: Mapping[str, Any],
    counts: Mapping[str, int],
    parts: Mapping[str, nn.Module],
    memory: Mapping[str, float],
    more: Iterable[str] = (),
) -> None:
    """Print everything that is known before the first step.

    Args:
        options: resolved, by name. counts: images of each dataset. parts: networks and codecs, by what they are.
        memory: bytes by purpose, such as `memory_estimate` gives. more: further lines.
    """
    print("Options")
    for name, value in sorted(options.items()):
        print(f"  {name}: {value}")
    if counts:
        print("Data: " + ", ".join(f"{count:,} {name} images" for name, count in counts.items()))
    for name, module in parts.items():
        print(f"{name.capitalize()}: {type(module).__name__}, {size_of(module) / 1e6:,.1f} M parameters")
    for line in more:
        print(line)
    total = sum(memory.values())
    listed = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in memory.items())
    print(f"Memory per process, about {total / 2**30:.2f} GiB: {listed}")
    print("Dry run: nothing was computed or written")


def parts_of(model: Sizable) -> dict[str, nn.Module]:
    """What `describe` names of a denoiser, or of what is trained."""
    return {"network": model.network} | ({} if model.codec is None else {"codec": model.codec})


def size_of(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def memory_estimate(
    model: Sizable,
    rows: int,
    images: int,
    precision: str = "no",
    *,
    gradient_checkpointing: bool = False,
    state_bytes: int = 0,
) -> dict[str, float]:
    """Bytes by purpose for a forward and backward pass of `rows` network rows of `images` images.

    Args:
        state_bytes: per parameter, besides the weight: gradient, optimizer's moments, running average.
    """
    memory: dict[str, float] = {"weights": 4 * size_of(model.network)}
    if model.codec is not None:
        memory["codec"] = 4 * size_of(model.codec)
    if state_bytes:
        memory["gradients, optimizer, average"] = state_bytes * size_of(model.network)
    share = 1.0 if precision == "no" else 0.5
    memory["activations"] = share * activation_bytes(model, rows, images, gradient_checkpointing)
    return memory


def activation_bytes(model: Sizable, rows: int, images: int, gradient_checkpointing: bool = False) -> int:
    """Bytes in float32 that a forward pass keeps for its backward pass, counted on tensors without storage."""
    network = getattr(model.network, "module", model.network)
    with torch.device("meta"):
        copy = type(network).from_config(network.config).train()
    if gradient_checkpointing:
        copy.enable_gradient_checkpointing()
    weights = {parameter.untyped_storage()._cdata for parameter in copy.parameters()}
    kept: dict[int, int] = {}  # bytes by storage, of which several views may be kept

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.device("meta"), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = model.trial_pass(copy, rows, images)
    del result
    return sum(kept.values())
