"""Sample data of the project's own, for running without a download."""

from pathlib import Path

from data.clevr import cache_dir
from data.synthetic import clevr, faces

SAMPLE_RESOLUTION = (240, 160)


def sample_root(num_objects: tuple[int, int], num_images: int, seed: int = 0) -> Path:
    """The root of generated CLEVR-like scenes with a `val` split, made at the first call and kept in the cache folder."""
    low, high = num_objects
    root = cache_dir() / f"clevr-sample-{low}-{high}-{num_images}-{seed}"
    if not (root / "scenes" / "CLEVR_val_scenes.json").is_file():
        print(f"Generating {num_images} scenes of {low} to {high} objects in {root}")
        clevr.generate(root, "val", num_images, num_objects, resolution=SAMPLE_RESOLUTION, seed=seed, progress=True)
    return root


def sample_faces(num_images: int, seed: int = 1_000_000) -> Path:
    """The root of drawn faces in CelebA's layout with a `test` split, so many of each domain; made at the first call.

    The default seed is far from those of training sets, and gives faces that no training has seen.
    """
    root = cache_dir() / f"faces-sample-{num_images}-{seed}"
    if not (root / "list_attr_celeba.txt").is_file():
        print(f"Drawing {2 * num_images} faces in {root}")
        faces.generate(root, num_train=0, num_test=2 * num_images, seed=seed, progress=True)
    return root
