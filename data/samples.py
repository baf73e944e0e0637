"""Sample data of the project's own, for running without a download."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from data.clevr import cache_dir
from data.synthetic.clevr import generate

SAMPLE_RESOLUTION = (240, 160)


def sample_root(num_objects: tuple[int, int], num_images: int, seed: int = 0) -> Path:
    """The root of generated CLEVR-like scenes with a `val` split, made at the first call and kept in the cache folder."""
    low, high = num_objects
    root = cache_dir() / f"clevr-sample-{low}-{high}-{num_images}-{seed}"
    if not root.is_dir():
        print(f"Generating {num_images} scenes of {low} to {high} objects in {root}")
        with publishing(root) as folder:
            generate(folder, "val", num_images, num_objects, resolution=SAMPLE_RESOLUTION, seed=seed, progress=True)
    return root


@contextlib.contextmanager
def publishing(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `folder` once it is filled; of several processes the first wins."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        yield temporary
        with contextlib.suppress(OSError):  # not empty: another process was first, with the same content
            os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
