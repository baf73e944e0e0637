"""What a machine lacks, said in one line with the way out."""

import contextlib
import errno
from collections.abc import Iterator

import torch

from igm.models.unet import one_line


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step and what is kept."""


@contextlib.contextmanager
def faults_in_one_line(num_workers: int = 0) -> Iterator[None]:
    """Turn the end of a loader process, and of memory, into one line; whatever was finished before stays.

    Args:
        num_workers: loader processes that the block uses.

    Raises:
        TrainingError: a loader process ended or could not start, or memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        text = one_line(error)
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text:
            mend = "lower --train_batch_size (and raise --gradient_accumulation_steps), or use --gradient_checkpointing"
            raise TrainingError(f"memory ran out; the last checkpoint is kept; {mend}") from error
        no_room = num_workers and isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None
        if no_room or text.startswith("DataLoader worker") or "shared memory" in text or "torch_shm" in text:
            mend = "lower --dataloader_num_workers (0: none), or give /dev/shm more space"
            raise TrainingError(f"a loader process ended ({text}); the last checkpoint is kept; {mend}") from error
        raise
