"""What a concept is: one file for each kind. A new file here is found by itself."""

import importlib
import pkgutil
from typing import TYPE_CHECKING

from igm import UserError

if TYPE_CHECKING:
    from igm.tasks.task import Task

_registered: dict[str, "Task"] = {}


def register(task: "Task") -> "Task":
    """Make a task known by its name; a module under `igm.tasks` calls it once for each task that it defines."""
    for name in (task.name, *task.former_names):
        _registered[name] = task
    return task


def find_task(name: str | None, source: object = "") -> "Task":
    """The task of a name, of this or an earlier version.

    Args:
        source: the file or option that has the name, for the message.

    Raises:
        UserError: there is none.
    """
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    if not isinstance(name, str) or name not in _registered:  # a results file may hold anything
        known = sorted({task.name for task in _registered.values()})
        start = f"{source}: " if source else ""
        raise UserError(f"{start}no task is called {name!r}; known are {', '.join(known)}")
    return _registered[name]
