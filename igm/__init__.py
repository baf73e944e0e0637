"""The method: composition, objective, inference, training. It knows no dataset and no file layout of one."""

import os
import sys

__version__ = "0.2.0"

# PyTorch on Linux then asks for large pages of memory; page faults took nearly a tenth of a training step.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


class UserError(ValueError):
    """A mistake in what the user asked for; the message is one line with the mend."""


def say(message: str) -> None:
    """Print one line, once per run: only the first process of a machine does."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(message)


def warn(message: str) -> None:
    """Print one warning line, once per run: only the first process of a machine does."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"warning: {message}", file=sys.stderr)
