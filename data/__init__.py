"""Datasets. Each yields the same item: `pixel_values`, `conds`, `mask`, `image_id`; none knows a network."""

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from igm.data.dataset import ImageDataset

MESSAGE_LENGTH = 1000  # characters; a longer one loses its middle, which is some endless value of a file


class DataError(ValueError):
    """A fault in the user's files; the message is one line that names the file and the mend."""

    def __init__(self, message: object = ""):
        text = str(message)
        if "\nOriginal Traceback" in text:  # a loader process hands the message over inside its stack trace
            text = text.strip().rpartition("\n")[2].partition(": ")[2]
        if len(text) > MESSAGE_LENGTH:
            text = f"{text[: MESSAGE_LENGTH // 2]} ... {text[-MESSAGE_LENGTH // 2 :]}"
        super().__init__(printable(text))


class NothingAsked(DataError):
    """The files are right, but none of their pictures is of the kind that was asked for."""


def printable(text: str) -> str:
    """The text with its control characters, and whatever else a terminal would obey, as escapes such as `\\x1b`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def find_dataset(root: str | Path, task: str) -> Callable[..., "ImageDataset"]:
    """The class of `igm.data` that reads a folder, told by what the folder holds.

    Every module of the package is asked, so that a new dataset is one new file. A folder that none recognises goes to
    the task's default class, whose error says what it expects.

    Args:
        root: the folder. task: kind of concept, "positions", "attributes" or "classes".

    Raises:
        DataError: two classes recognise the folder. ValueError: no class is the default of this task.
    """
    known = [found for found in dataset_classes() if found.task == task]
    fitting = [found for found in known if not found.is_default and found.recognises(Path(root))]
    if len(fitting) > 1:
        names = " and ".join(found.__name__ for found in fitting)
        raise DataError(f"--dataset_root {root} holds the files of {names}; keep one dataset in a folder")
    default = [found for found in known if found.is_default]
    if not default:
        raise ValueError(
            f"no dataset of task {task!r}; there are {sorted({found.task for found in dataset_classes()})}"
        )
    return [*fitting, *default][0]


def dataset_classes() -> list[type["ImageDataset"]]:
    """The dataset classes that the modules of this package define, in the order of the modules' names."""
    from igm.data.dataset import ImageDataset

    found: list[type[ImageDataset]] = []
    for info in pkgutil.iter_modules(__path__):
        if not info.ispkg:
            module = importlib.import_module(f"{__name__}.{info.name}")
            own = [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
            found += [value for value in own if isinstance(value, type) and issubclass(value, ImageDataset)]
    return [value for value in found if value.task]
