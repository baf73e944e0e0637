"""Configs of networks, codecs and noise schedules: read from JSON, and checked before anything is built from them."""

import inspect
import json
import math
import types
import typing
from pathlib import Path

from igm.models import ModelError

MOST_BYTES = 2**24  # of a config file
LARGEST, LONGEST = 2**20, 2**17  # a whole number, a list
# What every value of these names must lie in, whatever it configures; a list's, each.
RANGES = {
    "sample_size": (1, 256),
    "in_channels": (1, 4096),
    "out_channels": (1, 4096),
    "latent_channels": (1, 4096),
    "layers_per_block": (1, 100),
    "attention_head_dim": (1, 4096),
    "norm_num_groups": (1, 4096),
    "norm_eps": (1e-12, 0.1),
    "freq_shift": (0, 1),
    "dropout": (0, 0.999),
    "mid_block_scale_factor": (1e-2, 100),
    "resnet_out_scale_factor": (1e-2, 100),
    "head_layers": (0, 100),
    "windows": (1e-3, 100),
    "cond_size": (1, 4096),
    "patch_size": (1, 256),
    "whitening": (0, 1),
    "scaling_factor": (1e-4, 1e4),
}
OF_CODECS = {**RANGES, "sample_size": (1, 2**16)}  # in pixels, a note only
SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
MOST_TIMESTEPS = 100_000


def read_config(path: str | Path, what: str) -> dict:
    """Read a JSON config: the file itself, or `config.json` in a folder.

    Raises:
        ModelError: no such file, not JSON, or one in which a key stands twice; `what` names the option to mend.
    """
    path = Path(path)
    file = path / "config.json" if path.is_dir() else path
    compare = "compare it with those under configs/"
    try:
        if file.stat().st_size > MOST_BYTES:
            raise ModelError(f"{what} {file} has {file.stat().st_size:,} bytes, too many for a config; {compare}")
        text = file.read_text("utf-8-sig")
        config = json.loads(text, object_pairs_hook=once_each, parse_constant=refuse_constant)
    except FileNotFoundError:
        raise ModelError(f"{what} {file} does not exist; give a JSON file such as those under configs/") from None
    except OSError as error:
        raise ModelError(f"{what} {file} cannot be read ({error.strerror}); {compare}") from None
    except KeyError as error:
        raise ModelError(f"{what} {file} names {error.args[0]!r:.80} twice; {compare}") from None
    except RecursionError:
        raise ModelError(f"{what} {file} is nested too deeply; {compare}") from None
    except (OverflowError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{what} {file} is not JSON ({one_line(error)[:80]}); {compare}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{what} {file} is not a JSON object; {compare}")
    return config


def once_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The object of these pairs; KeyError for a key that stands in it twice."""
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise KeyError(key)
        found[key] = value
    return found


def refuse_constant(name: str) -> None:
    """NaN and Infinity are no JSON."""
    raise ValueError(f"{name} is no number")


def check_config(model_class: type, config: dict, what: str, ranges: dict | None = None) -> None:
    """Compare a config's values with the types that a class's constructor declares, and with `ranges` (`RANGES`).

    Args:
        what: the file, for the message.

    Raises:
        ModelError: a value of another type, or outside its range.
    """
    hints = typing.get_type_hints(model_class.__init__)  # type: ignore[misc]
    defaults = inspect.signature(model_class.__init__).parameters  # type: ignore[misc]
    for name, value in config.items():
        kind = hints.get(name)
        if kind is None or name not in defaults:
            continue
        default = defaults[name].default
        if not fits(value, kind) and not (value == default and type(value) is type(default)):
            expected = getattr(kind, "__name__", str(kind)) if inspect.isclass(kind) else str(kind)
            expected = expected.replace("typing.", "").replace("numpy.", "")
            raise ModelError(f"{what}: {name} is {shown(value)}, expected {expected}; mend it, or take another file")
        low, high = (RANGES if ranges is None else ranges).get(name, (-math.inf, math.inf))
        values = value if isinstance(value, list | tuple) else [value]
        if not all(low <= v <= high for v in values if isinstance(v, int | float)):
            raise ModelError(f"{what}: {name} is {shown(value)}, expected {low} to {high}; mend it")


def fits(value: object, kind: object) -> bool:
    """Whether a JSON value is of an annotated type; lists are tuples there, and every number is finite."""
    origin, members = typing.get_origin(kind), [k for k in typing.get_args(kind) if k is not Ellipsis]
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, member) for member in members)
    if origin is typing.Literal:
        return isinstance(value, str) and value in members
    if origin in (tuple, list) or kind in (tuple, list):
        inner = members or [int, float]
        return (
            isinstance(value, list | tuple)
            and len(value) <= LONGEST
            and all(any(fits(v, member) for member in inner) for v in value)
        )
    if isinstance(value, bool):
        return kind is bool
    if isinstance(value, int):
        return kind in (int, float) and abs(value) <= LARGEST
    if isinstance(value, float):
        return kind is float and math.isfinite(value)
    return kind is type(value)


def check_schedule(config: dict, what: str) -> None:
    """Check what a scheduler_config.json says of the noise.

    Args:
        config: of any of diffusers' schedulers that has betas. what: the file, for the message.

    Raises:
        ModelError: a value of another type, outside its range, or a list of another length.
    """
    from diffusers import DDPMScheduler

    check_config(DDPMScheduler, {k: v for k, v in config.items() if k != "variance_type"}, what, {})
    steps = config.get("num_train_timesteps", 1000)
    if not 1 <= steps <= MOST_TIMESTEPS:
        raise ModelError(f"{what}: num_train_timesteps is {steps}, expected 1 to {MOST_TIMESTEPS}; 1000 is usual")
    if not 0 <= config.get("steps_offset", 0) < max(steps, 2):
        raise ModelError(f"{what}: steps_offset is {config['steps_offset']}, expected 0 to {steps - 1}; 1 is usual")
    trained = config.get("trained_betas")
    if trained is not None:
        if len(trained) != steps:
            raise ModelError(f"{what}: trained_betas has {len(trained)} numbers, expected num_train_timesteps, {steps}")
        if not all(0 < beta < 1 for beta in trained):
            raise ModelError(f"{what}: trained_betas holds a number outside 0 to 1; mend it")
        return
    if config.get("beta_schedule", "linear") not in SCHEDULES:
        raise ModelError(f"{what}: beta_schedule {shown(config['beta_schedule'])} is not one of {', '.join(SCHEDULES)}")
    low, high = config.get("beta_start", 0.0001), config.get("beta_end", 0.02)
    if config.get("beta_schedule") != "squaredcos_cap_v2" and not 0 < low <= high < 1:
        raise ModelError(f"{what}: beta_start {low} and beta_end {high} must go upwards within 0 to 1")


def shown(value: object) -> str:
    """A value for a message, on one line and not longer than one."""
    try:
        return ascii(value)[:60]
    except ValueError:  # a whole number of thousands of digits
        return "a very large number"


def one_line(error: BaseException) -> str:
    """The first line of an exception's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
