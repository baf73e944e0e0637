"""Weights are read from safetensors alone, and only where they are exactly what the config describes.

What diffusers does in silence is refused here: tensors that are missing (it takes whatever stands in the memory) or too
many, and numbers that are none. A config can ask for no more memory or time than its weights take.
"""

import contextlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import psutil
import torch
from accelerate import init_empty_weights
from diffusers.models.modeling_utils import no_init_weights
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from igm.models import ModelError
from igm.models.configs import one_line, read_config, shown

Model = TypeVar("Model", bound=nn.Module)
STEM = "diffusion_pytorch_model"  # of diffusers' files; transformers' is "model"
MOST_TENSORS = 20_000  # of any network
BYTES_PER_WEIGHT = 4
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # of attention, before 2023
OLD_NAME = re.compile(rf"(\.attentions\.\d+\.)({'|'.join(OLD_NAMES)})(\.(?:weight|bias))$")


class TooLargeError(Exception):
    """A config asks for more than it may."""


def load_model(model_class: type[Model], folder: Path, what: str, config: dict) -> Model:
    """A model of diffusers' format, in float32 and eval mode.

    Args:
        folder: has config.json and weights. what: the option that named it, for messages.
        config: its config, whose values are checked (`check_config`).

    Raises:
        ModelError: the weights are not usable, or not those of the config; one line with the file.
    """
    origin = f"{what} {folder / 'config.json'}"
    files = find_weights(folder, what)
    shapes = read_shapes(files, what)
    model = build(model_class, config, origin, 2 * len(shapes) + 100)  # some more, to say which is missing
    own = model.state_dict()
    wanted = {name: tuple(tensor.shape) for name, tensor in own.items()}
    check_names(wanted, {renamed(name): shape for name, shape in shapes.items()}, f"{what} {files[0]}")
    model.load_state_dict(read_tensors(files, own, what), assign=True)
    return model.eval()


def build(model_class: type[Model], config: dict, what: str, most_tensors: int = MOST_TENSORS) -> Model:
    """The model of a config, its parameters without memory.

    Raises:
        ModelError: it cannot be built, has more tensors than `most_tensors`, or more weights than this machine's memory.
    """
    own = inspect.signature(model_class.__init__).parameters
    try:
        with no_init_weights(), init_empty_weights(), bounded(most_tensors):
            return model_class.from_config({k: v for k, v in config.items() if k in own})  # type: ignore[attr-defined]
    except Exception as error:  # diffusers raises many kinds for values that do not fit each other
        if isinstance(error, TooLargeError | MemoryError) or "alloc" in str(error):
            raise ModelError(
                f"{what} describes a larger network than its weights are of, or than this machine can hold; mend it, or "
                "take config and weights from one place"
            ) from None
        raise ModelError(f"{what} is not usable ({one_line(error)}); take it where the weights are from") from None


@contextlib.contextmanager
def bounded(most_tensors: int) -> Iterator[None]:
    """Raise TooLargeError as soon as the modules made inside have more parameters, or more numbers than memory takes."""
    count, numbers = [0, 0], psutil.virtual_memory().total // BYTES_PER_WEIGHT

    def check(module: nn.Module, name: str, tensor: torch.Tensor | None) -> None:
        if tensor is not None:
            count[0], count[1] = count[0] + isinstance(tensor, nn.Parameter), count[1] + tensor.numel()
        if count[0] > most_tensors or count[1] > numbers:
            raise TooLargeError

    handles = [register_module_parameter_registration_hook(check), register_module_buffer_registration_hook(check)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def find_weights(folder: Path, what: str, stem: str = STEM) -> list[Path]:
    """The safetensors files of a folder: one, or the index and its shards; full precision first, else fp16.

    Raises:
        ModelError: there are none; says whether there are others.
    """
    for variant in ("", ".fp16"):
        one = folder / f"{stem}{variant}.safetensors"
        if one.is_file():
            return [one]
        for index in (f"{stem}{variant}.safetensors.index.json", f"{stem}.safetensors.index{variant}.json"):
            if (folder / index).is_file():
                return shards(folder / index, what)
    raise ModelError(f"{what} {folder} {no_weights(folder, stem)}")


def no_weights(folder: Path, stem: str) -> str:
    """Why a folder has no usable weights, and the mend."""
    others = sorted(p.name for ending in ("bin", "pt", "pth", "ckpt") for p in folder.glob(f"*.{ending}"))
    if others:
        return (
            f"holds no weights as safetensors, only {others[0]}, a pickle, which is never read; where you trust it, "
            "convert it: load it with diffusers and call save_pretrained"
        )
    named = sorted(p.name for p in folder.glob("*.safetensors"))
    other = f", and {shown(named[0])} is not it" if named else ""
    return f"holds no weights ({stem}.safetensors is missing{other}); copy or download it again, or name another"


def has_model(folder: Path) -> bool:
    """Whether a folder holds, or was meant to hold, a model."""
    return (folder / "config.json").is_file() or any(folder.glob("*.safetensors"))


def shards(index: Path, what: str) -> list[Path]:
    """The files that an index of shards names, all in its own folder.

    Raises:
        ModelError: it names none, one elsewhere, or one that is not there.
    """
    names = read_config(index, what).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise ModelError(f"{what} {index} has no weight_map of names; download it again")
    files = [index.parent / name for name in sorted(set(names.values()))]
    for file in files:
        if file.parent != index.parent or file.suffix != ".safetensors" or not file.is_file():
            raise ModelError(f"{what} {index} names {shown(file.name)}, which is not beside it; download it again")
    return files


def read_shapes(files: list[Path], what: str) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor, from the files' headers.

    Raises:
        ModelError: a file that is not safetensors, or is cut off.
    """
    found = {}
    for file in files:
        try:
            with safe_open(file, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (it is no dictionary)
                    found[name] = tuple(tensors.get_slice(name).get_shape())
        except (SafetensorError, OSError, ValueError, OverflowError) as error:
            cause = one_line(error)[:120]
            raise ModelError(f"{what} {file} cannot be loaded ({cause}); copy it again, or name another") from None
    return found


def read_tensors(files: list[Path], model: dict[str, torch.Tensor], what: str) -> dict[str, torch.Tensor]:
    """All tensors by today's names, in float32 (whole numbers, such as a count of batches, in the model's own type).

    Args:
        model: the model's tensors, with values or without.

    Raises:
        ModelError: one holds numbers that are not finite, or of another kind than the model's.
    """
    state = {}
    for file in files:
        own = {}
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (it is no dictionary)
                tensor, kind = tensors.get_tensor(name), model[renamed(name)].dtype
                if tensor.is_floating_point() != kind.is_floating_point:
                    raise ModelError(f"{what} {file}: {shown(name)} is {tensor.dtype}, not {kind}; take another file")
                dtype = torch.float32 if kind.is_floating_point else kind
                own[name] = tensor.to(dtype, copy=True)  # a copy: the file may be replaced while it is in use
        check_finite(own, f"{what} {file}")
        state.update({renamed(name): tensor for name, tensor in own.items()})
    return state


def check_names(wanted: dict, given: dict, what: str) -> None:
    """Raise ModelError unless both have the same names and shapes."""
    again = "take config and weights from one place"
    missing, surplus = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    for names, verb in ((missing, "lacks"), (surplus, "has besides what its config describes")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ModelError(f"{what} {verb} the tensor {shown(names[0])}{more}; {again}")
    for name, shape in wanted.items():
        if given[name] != shape:
            raise ModelError(f"{what}: {name} has the shape {given[name]}, its config describes {shape}; {again}")


def check_finite(tensors: dict[str, torch.Tensor], what: str) -> None:
    """Raise ModelError where a number is NaN or infinite."""
    if torch.stack([tensor.sum(dtype=torch.float32) for tensor in tensors.values()]).isfinite().all():
        return
    for name, tensor in tensors.items():  # a sum of finite numbers may be infinite
        if not tensor.isfinite().all():
            raise ModelError(f"{what}: {shown(name)} holds numbers that are not finite; name another checkpoint")


def renamed(name: str) -> str:
    """A tensor's name today; those of attention were others before 2023, in Stable Diffusion's own files too."""
    return OLD_NAME.sub(lambda found: found[1] + OLD_NAMES[found[2]] + found[3], name)
