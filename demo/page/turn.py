"""The one thread that computes, whoever asks.

OpenMP gives every thread that computes helpers of its own, and where these are more than the cores, they fall asleep after
each small step. A model loaded by one thread and asked by another was no faster on two cores than on one.
"""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

Asked, Answer = ParamSpec("Asked"), TypeVar("Answer")
COMPUTING = ThreadPoolExecutor(max_workers=1, thread_name_prefix="computing")


def in_turn(function: Callable[Asked, Answer]) -> Callable[Asked, Answer]:
    """A function that runs in that thread, after what was asked before; none may call another such function."""

    @functools.wraps(function)
    def wrapped(*args: Asked.args, **named: Asked.kwargs) -> Answer:
        return COMPUTING.submit(function, *args, **named).result()

    return wrapped
