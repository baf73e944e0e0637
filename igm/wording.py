"""Words of the API for what the commands say in options, and plain Python values for what callers hand over."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from igm import UserError
from igm.data import DataError
from igm.models import ModelError
from igm.settings import SettingError

# What the commands' options are called here, where it is something else than their names without dashes.
OPTIONS = {
    "add --count infer": "leave num_objects out",
    "use --mixed_precision no": "train longer, or use another checkpoint",
    "--timestep_range": "t_range",
    "timestep_range=": "t_range=",
    "--images ": "picture ",
}


@contextlib.contextmanager
def own_words() -> Iterator[None]:
    """Say in keywords what a mistake's message says in options of the commands."""
    try:
        yield
    except SettingError as error:
        raise UserError(without_options(error.in_words)) from None
    except (UserError, ModelError, DataError) as error:
        raise type(error)(without_options(str(error))) from None


def without_options(message: str) -> str:
    """A message with keywords of the API in place of the options that mean them."""
    for option, keyword in OPTIONS.items():
        message = message.replace(option, keyword)
    return re.sub(r"(?<![\w-])--([a-z]\w*)", r"\1", message)


def plain(value: Any) -> Any:
    """Lists and arrays as tuples, NumPy's numbers as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple | np.ndarray):
        return tuple(plain(one) for one in value)
    return value
