"""Sample data of the project's own, for running without a download."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from igm.data import DataError
from igm.data.clevr import cache_dir
from igm.data.synthetic import clevr, faces

SAMPLE_RESOLUTION = (240, 160)


def sample_root(num_objects: tuple[int, int], num_images: int, seed: int = 0) -> Path:
    """The root of generated CLEVR-like scenes with a `val` split, made at the first call and kept in the cache folder."""
    low, high = num_objects
    root = cache_dir() / f"clevr-sample-{low}-{high}-{num_images}-{seed}"
    if not root.is_dir():
        print(f"Generating {num_images} scenes of {low} to {high} objects in {root}")
        with publishing(root) as folder:
            clevr.generate(
                folder, "val", num_images, num_objects, resolution=SAMPLE_RESOLUTION, seed=seed, progress=True
            )
    return root


def sample_faces(num_images: int, seed: int = 1_000_000) -> Path:
    """The root of drawn faces in CelebA's layout with a `test` split, so many of each domain; made at the first call.

    The default seed is far from those of training sets, and gives faces that no training has seen.
    """
    root = cache_dir() / f"faces-sample-{num_images}-{seed}"
    if not root.is_dir():
        print(f"Drawing {2 * num_images} faces in {root}")
        with publishing(root) as folder:
            faces.generate(folder, num_train=0, num_test=2 * num_images, seed=seed, progress=True)
    return root


@contextlib.contextmanager
def publishing(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `folder` once it is filled; of several processes the first wins.

    Raises:
        DataError: it cannot be written.
    """
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        temporary.chmod(0o777 & ~umask())  # as any other folder; mkdtemp's is closed to others
        yield temporary
        with contextlib.suppress(OSError):  # not empty: another process was first, with the same content
            os.rename(temporary, folder)
    except OSError as error:
        raise DataError(f"{folder} cannot be made ({error.strerror}); set IGM_CACHE to a folder with space") from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def umask() -> int:
    """The permissions that new files of this process lack."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
