"""Settings: frozen dataclasses whose fields know their help and their sense.

One definition makes the option of a command, its default and help, the keyword of the API, and the record of what a
result was made with; see `igm.cli.options` for the commands.
"""

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Self

from igm import UserError


class SettingError(UserError):
    """A setting without sense, named as the option of a command; `in_words` names it as a keyword."""

    def __init__(self, name: str, value: Any, mend: str):
        shown = " ".join(map(str, value)) if isinstance(value, list | tuple) else value
        super().__init__(f"--{name} {shown}: {mend}")
        self.in_words = f"{name}={value!r}: {mend}"


@dataclass(frozen=True)
class Kind:
    """A kind of value: how it is read from a text, and which values make sense; `words` say which."""

    parse: Callable[[str], Any]
    holds: Callable[[Any], bool]
    words: str

    def __call__(self, text: str) -> Any:
        """The value of a text, as argparse asks for it."""
        try:
            value = self.parse(text)
        except (ValueError, OverflowError):
            raise argparse.ArgumentTypeError(f"must be {self.words}, not {shortened(text)}") from None
        if not self.holds(value):
            raise argparse.ArgumentTypeError(f"must be {self.words}, not {shortened(text)}")
        return value

    def check(self, name: str, value: Any) -> None:
        """Raise SettingError where a value of any origin makes no sense."""
        try:
            fits = self.holds(value)
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise SettingError(name, value, f"must be {self.words}")


def shortened(text: str, most: int = 40) -> str:
    """A text for a message: without control characters, and cut where it is long."""
    plain = "".join(c if c.isprintable() else "?" for c in text)
    return plain if len(plain) <= most else f"{plain[:most]}..."


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    """Whether a value is a number that float32 holds with room for arithmetic."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST_FLOAT


def parse_range(text: str) -> tuple[int, int]:
    """ "3-5" as (3, 5), both ends included; "4" as (4, 4)."""
    low, _, high = text.partition("-")
    return int(low), int(high or low)


def _inside(value: Any) -> bool:
    """Whether a name leads to a folder inside the one that it is joined to, on every system."""
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= 200:
        return False
    windows, posix = PureWindowsPath(value), PurePosixPath(value)
    return not windows.anchor and not posix.anchor and ".." not in windows.parts and bool(posix.parts)


MOST = 2**31 - 1  # larger counts fit no tensor's index
MOST_FLOAT = 1e30
positive = Kind(int, lambda v: _whole(v) and 1 <= v <= MOST, "a whole number of at least 1")
not_negative = Kind(int, lambda v: _whole(v) and 0 <= v <= MOST, "a whole number of at least 0")
seed_number = Kind(int, lambda v: _whole(v) and 0 <= v < 2**32, f"a whole number in 0 to {2**32 - 1}")
positive_float = Kind(float, lambda v: _number(v) and v > 0, "a number above 0, up to 1e30")
not_negative_float = Kind(float, lambda v: _number(v) and v >= 0, "a number in 0 to 1e30")
number = Kind(float, _number, "a number in -1e30 to 1e30")
probability = Kind(float, lambda v: _number(v) and 0 < v <= 1, "above 0 and at most 1")
share = Kind(float, lambda v: _number(v) and 0 <= v <= 1, "in 0 to 1")
decay = Kind(float, lambda v: _number(v) and 0 <= v < 1, "at least 0 and below 1")
workers = Kind(int, lambda v: _whole(v) and 0 <= v <= 1024, "a whole number in 0 to 1024")
file_count = Kind(int, lambda v: _whole(v) and 0 <= v <= 10_000_000, "a whole number in 0 to 10,000,000")
side = Kind(int, lambda v: _whole(v) and 1 <= v <= 8192, "a whole number in 1 to 8192")
path = Kind(str, lambda v: isinstance(v, str) and "\0" not in v and 0 < len(v) <= 4096, "a path")
folder_name = Kind(str, _inside, "the name of a folder inside --output_dir, without .. or a leading /")
timestep = Kind(int, lambda v: _whole(v) and 0 <= v <= 1_000_000, "a whole number of at least 0")
int_range = Kind(
    parse_range,
    lambda v: len(v) == 2 and all(map(_whole, v)) and 1 <= v[0] <= v[1] <= MOST,
    "a range like 3-5 that goes upwards from at least 1",
)


def setting(
    default: Any = dataclasses.MISSING,
    help: str = "",
    *,
    kind: Kind | None = None,
    choices: Sequence[str] | None = None,
    nargs: int | str | None = None,
    metavar: str | tuple[str, ...] | None = None,
    option: str | None = None,
    determines: bool = True,
    needs: str | None = None,
    secret: bool = False,
) -> Any:
    """A field of a `Settings` dataclass.

    Args:
        default: None where something else decides, which `help` then names; without one the option is required.
        help: one line, as `--help` shows it.
        kind: of the value, or of each value where `nargs` allows several. choices: instead, the values there are.
        nargs, metavar: as argparse takes them. option: name of the option, where it is not the field's.
        needs: what a command that chose something else is told of the option; without it, only that it has no effect.
        determines: whether results depend on it, so that it is stored beside them, and a resumed run must share it.
        secret: whether it is written nowhere.
    """
    metadata = {"help": help, "kind": kind, "choices": choices, "nargs": nargs, "metavar": metavar}
    metadata |= {"option": option, "determines": determines, "needs": needs, "secret": secret}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a part of the project can be told. Subclasses are frozen dataclasses of `setting` fields.

    Raises:
        SettingError: a value without sense.
    """

    def __post_init__(self) -> None:
        for own in dataclasses.fields(self):
            value, about = getattr(self, own.name), own.metadata
            if value is None or not about:
                continue
            values = value if about["nargs"] is not None else [value]
            if isinstance(about["nargs"], int) and len(value) != about["nargs"]:
                raise SettingError(own.name, value, f"needs {about['nargs']} values")
            for one in values:
                if about["kind"] is not None:
                    about["kind"].check(own.name, one)
                if about["choices"] is not None and one not in about["choices"]:
                    raise SettingError(own.name, one, f"must be one of {', '.join(map(str, about['choices']))}")
        self.check()

    def check(self) -> None:
        """Raise SettingError where values do not fit each other; a subclass says which."""

    def determining(self) -> dict[str, Any]:
        """The values that results depend on, by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.metadata.get("determines", True)}

    def public(self) -> dict[str, Any]:
        """The values that may be written down, by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if not f.metadata.get("secret")}

    def filled(self, values: Mapping[str, Any]) -> Self:
        """A copy in which those settings that are None have the values given for them, where there are any."""
        own = {f.name for f in dataclasses.fields(self) if getattr(self, f.name) is None}
        return dataclasses.replace(self, **{n: v for n, v in values.items() if n in own and v is not None})


def check_t_range(t_range: Sequence[int] | None, name: str = "timestep_range", most: int = 2**20) -> None:
    """Raise SettingError unless a range of timesteps goes upwards, within `most`."""
    if t_range is not None and not 0 <= t_range[0] < t_range[1] <= most:
        raise SettingError(name, t_range, f"must go upwards within 0 to {most}, like 0 500")
