"""CLEVR v1.0 (Johnson et al. 2017): images with the 2-D positions of their objects.

Layout:
    <root>/images/<split>/CLEVR_<split>_000000.png
    <root>/scenes/CLEVR_<split>_scenes.json        (or in <root>, as the published code has it, or beside the images)
"""

import contextlib
import hashlib
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import torch

from igm.data import DataError
from igm.data.images import check_images, decode_image, files_fingerprint, image_to_tensor


def cache_dir() -> Path:
    """Folder for what can be computed again: `$IGM_CACHE`, else `$XDG_CACHE_HOME/igm`, else `~/.cache/igm`."""
    root = os.environ.get("IGM_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "igm"
    return Path(root)


class Clevr(torch.utils.data.Dataset):
    """CLEVR scenes whose number of objects lies in a range.

    An item is a dict: `pixel_values` (3, resolution, resolution) float32 in [-1, 1]; `conds` (K, 2) float32, the
    objects' centres (x, y) in [0, 1] of the image's own width and height, origin top left; `mask` (K,), 0 for padding;
    `image_id` str. K is the largest number of objects in the range.

    Args:
        root: folder of CLEVR v1.0, or of anything in its layout.
        split: "train" or "val"; the test split has no scenes.
        num_objects: smallest and largest number of objects, both included.
        resolution: side of the square that the whole image is resized to.
        max_images: keep the first so many matching scenes (the published code caps training at 50,000).
        flip: append the mirror image of every scene (positions mirrored too); length doubles.
        skip_bad_images: leave out images that are absent or corrupt (every image is decoded once to find them);
            `num_skipped` counts them.

    Raises:
        DataError: files missing or not CLEVR's, an image absent, or no scene in the range.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        num_objects: tuple[int, int] = (3, 5),
        resolution: int = 64,
        max_images: int | None = None,
        flip: bool = False,
        skip_bad_images: bool = False,
    ):
        self.split, self.resolution, self.flip, self.max_objects = split, resolution, flip, num_objects[1]
        scenes_file = find_scenes(Path(root), split)
        self.index = load_index(scenes_file)
        self.image_dir = find_images(Path(root), scenes_file, split, str(self.index["files"][0]))
        counts = self.index["counts"]
        rows = np.flatnonzero((counts >= num_objects[0]) & (counts <= num_objects[1]))[:max_images]
        if not len(rows):
            present = f"{counts.min()} to {counts.max()}"
            low, high = num_objects
            raise DataError(f"{scenes_file}: no scene with {low} to {high} objects (it has {present}); ask for others")
        self.sizes, bad = check_images([self.image_path(row) for row in rows], skip_bad_images)
        self.rows, self.sizes, self.num_skipped = rows[~bad], self.sizes[~bad], int(bad.sum())
        if not len(self.rows):
            raise DataError(f"{self.image_dir}: none of the {len(rows)} images can be read; restore them")

    def __len__(self) -> int:
        return len(self.rows) * (2 if self.flip else 1)

    def __getitem__(self, i: int) -> dict:
        pixels = image_to_tensor(decode_image(self.path_of(i)), self.resolution)
        if i >= len(self.rows):
            pixels = pixels.flip(-1)
        return {"pixel_values": pixels, **self.annotation(i)}

    def annotation(self, i: int) -> dict:
        """Everything of item i but its pixels, without touching the image file."""
        j = i % len(self.rows)
        mirrored = i >= len(self.rows)
        start = self.index["starts"][self.rows[j]]
        count = self.index["counts"][self.rows[j]]
        positions = self.index["pixel_coords"][start : start + count] / self.sizes[j]  # (count, 2)
        if mirrored:
            positions = np.stack([1 - positions[:, 0], positions[:, 1]], axis=1)
        conds = torch.zeros(self.max_objects, 2)
        conds[:count] = torch.from_numpy(positions)
        mask = (torch.arange(self.max_objects) < int(count)).float()
        image_id = Path(str(self.index["files"][self.rows[j]])).stem + ("_mirrored" if mirrored else "")
        return {"conds": conds, "mask": mask, "image_id": image_id}

    def statistics(self) -> dict:
        """Facts about the positions that inference uses.

        Returns:
            num_objects: [fewest, most]; bounds: [left, top, right, bottom] of all centres; min_separation: how near two
            centres come in 1 % of the scenes; all in [0, 1] coordinates.
        """
        scenes = [(labels["conds"], labels["mask"] > 0) for labels in map(self.annotation, range(len(self.rows)))]
        points = [conds[real] for conds, real in scenes]
        every = torch.cat(points)
        nearest = torch.tensor([torch.pdist(p).min() for p in points if len(p) > 1] or [0.0])
        counts = [len(p) for p in points]
        bounds = torch.cat([every.amin(0), every.amax(0)]).tolist()
        return {
            "num_objects": [min(counts), max(counts)],
            "bounds": [round(b, 4) for b in bounds],
            "min_separation": round(nearest.quantile(0.01).item(), 4),
        }

    def image_path(self, row: int) -> Path:
        """File of scene `row` of the scenes JSON."""
        return self.image_dir / str(self.index["files"][row])

    def path_of(self, i: int) -> Path:
        """File of item i; IndexError beyond the end, which also ends `for item in dataset`."""
        if not 0 <= i < len(self):
            raise IndexError(f"item {i} of {len(self)}")
        return self.image_path(self.rows[i % len(self.rows)])

    def fingerprint(self) -> str:
        """A short name for exactly these images in this order at this resolution; keys caches of what they yield."""
        paths = [self.image_path(row) for row in self.rows]
        return files_fingerprint(paths, self.image_dir.resolve(), self.resolution, self.flip)


def find_scenes(root: Path, split: str) -> Path:
    """The scenes file of a split, in any of the three places where it is found in practice.

    Raises:
        DataError: the root or the file does not exist.
    """
    if not root.is_dir():
        raise DataError(f"--dataset_root {root} is not a folder; give the folder of CLEVR_v1.0")
    name = f"CLEVR_{split}_scenes.json"
    places = [root / "scenes" / name, root / name, root / "images" / split / name, root / "images" / name]
    for place in places:
        if place.is_file():
            return place
    raise DataError(f"{places[0]} is missing (also looked in {root}); unpack CLEVR_v1.0.zip there, or choose --split")


def find_images(root: Path, scenes_file: Path, split: str, first: str) -> Path:
    """The folder that holds a split's images."""
    for place in (root / "images" / split, root / "images", root / split, scenes_file.parent):
        if (place / first).is_file():
            return place
    return root / "images" / split


def load_index(scenes_file: Path) -> dict[str, np.ndarray]:
    """Read file names, counts and pixel positions of all scenes; from a cache where the JSON is unchanged.

    Returns:
        files (S,) str, counts (S,) int, starts (S,) first row of each scene in `pixel_coords` (sum of counts, 2).
    """
    stat = scenes_file.stat()
    key = hashlib.sha256(f"{scenes_file.resolve()}:{stat.st_size}:{stat.st_mtime_ns}".encode()).hexdigest()[:16]
    cached = cache_dir() / f"{scenes_file.stem}-{key}.npz"
    try:
        with np.load(cached, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        pass  # absent, or torn by a crash: parse again
    index = parse_scenes(scenes_file)
    save_index(cached, index)
    return index


def save_index(path: Path, index: dict[str, np.ndarray]) -> None:
    """Write the index under a temporary name, then rename; a folder that cannot be written is no error."""
    temporary = path.with_name(f"{path.stem}.{os.getpid()}.tmp.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(temporary, **index)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def parse_scenes(scenes_file: Path) -> dict[str, np.ndarray]:
    """Parse a CLEVR scenes JSON into the arrays of `load_index`.

    Raises:
        DataError: the file is cut short, or is not a CLEVR scenes file.
    """
    try:
        scenes = json.loads(scenes_file.read_text())["scenes"]
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise DataError(f"{scenes_file} is not complete JSON; unpack it again") from None
    except (KeyError, TypeError):
        raise DataError(f"{scenes_file} has no list 'scenes'; it is not a CLEVR scenes file") from None
    try:
        files = np.array([scene["image_filename"] for scene in scenes], dtype=str)
        counts = np.array([len(scene["objects"]) for scene in scenes], dtype=np.int64)
        coords = [o["pixel_coords"][:2] for scene in scenes for o in scene["objects"]]
        coords = np.array(coords, dtype=np.float32).reshape(-1, 2)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{scenes_file}: a scene without {error}; it is not a CLEVR scenes file") from None
    if not len(files):
        raise DataError(f"{scenes_file} lists no scene; unpack it again")
    return {"files": files, "counts": counts, "starts": np.cumsum(counts) - counts, "pixel_coords": coords}
