"""Sample data of the project's own, for running without a download."""

from pathlib import Path

from data.clevr import cache_dir
from data.synthetic.clevr import generate

SAMPLE_RESOLUTION = (240, 160)


def sample_root(num_objects: tuple[int, int], num_images: int, seed: int = 0) -> Path:
    """The root of generated CLEVR-like scenes with a `val` split, made at the first call and kept in the cache folder."""
    low, high = num_objects
    root = cache_dir() / f"clevr-sample-{low}-{high}-{num_images}-{seed}"
    if not (root / "scenes" / "CLEVR_val_scenes.json").is_file():
        print(f"Generating {num_images} scenes of {low} to {high} objects in {root}")
        generate(root, "val", num_images, num_objects, resolution=SAMPLE_RESOLUTION, seed=seed, progress=True)
    return root
