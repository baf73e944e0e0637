"""CLEVR (Johnson et al. 2017): images with the 2-D positions of their objects.

Layouts, told apart by what is found:
    <root>/images/<split>/CLEVR_<split>_000000.png      (v1.0, and CoGenT with splits such as valA)
    <root>/scenes/CLEVR_<split>_scenes.json             (or in <root>, as the published code has it, or beside the images)
and what the generator writes, whose split is "new":
    <root>/images/CLEVR_new_000000.png
    <root>/CLEVR_scenes.json
"""

import atexit
import contextlib
import functools
import hashlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from igm.data import DataError, NothingAsked
from igm.data.dataset import locate_file, unique_ids
from igm.data.metadata import is_finite
from igm.data.objects import ObjectDataset, attributes_of
from igm.data.positions import Index
from igm.data.text import parse_json, read_text, shown
from igm.data.vocabulary import FIELDS
from igm.files import replace_file

INDEX_VERSION = 4  # in the name of every cached index: raised when the same JSON gives another index than before
INDEX_TYPES = {
    **{"files": "U", "counts": "i", "starts": "i", "pixel_coords": "f"},
    **{"depths": "f", "coords": "f"},  # from the camera, and in the scene (3,); NaN where a scene does not say
    **{f"{name}_codes": "i" for name in FIELDS},  # of each object, -1 where its scene does not say
    **{f"{name}_values": "U" for name in FIELDS},  # what the codes mean
}
GENERATOR_SPLIT, GENERATOR_FILE = "new", "CLEVR_scenes.json"


def cache_dir() -> Path:
    """Folder for what can be computed again: `$IGM_CACHE`, else `$XDG_CACHE_HOME/igm`, else `~/.cache/igm`.

    Where the user has no home, a folder that lasts as long as this process.
    """
    if root := os.environ.get("IGM_CACHE"):
        return Path(root)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "igm"
    except RuntimeError:  # no HOME, and no entry in passwd
        return passing_folder()


@functools.cache
def passing_folder() -> Path:
    """A new folder that is removed when the process ends."""
    folder = tempfile.mkdtemp(prefix="igm-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


class Clevr(ObjectDataset):
    """CLEVR scenes whose number of objects lies in a range.

    An item is a dict: `pixel_values` (3, resolution, resolution) float32 in [-1, 1]; `conds` (K, D) float32, the
    objects' centres (x, y) in [0, 1] of the square that the image is fitted into (squeezed: of the image's own width and
    height), origin top left, and the blocks of the asked fields (`igm.data.vocabulary`; without any, D = 2); `mask` (K,),
    0 for padding; `image_id` str. K is the largest number of objects in the range.

    Args:
        root: folder of CLEVR v1.0, or of anything in its layout.
        split: "train", "val", or any other that has a scenes file; the test split has none.
        num_objects: smallest and largest number of objects, both included.
        resolution: side of the square.
        max_images: keep the first so many matching scenes (the published code caps training at 50,000).
        flip: append the mirror image of every scene (positions mirrored too); length doubles.
        skip_bad_images: leave out images that are absent or corrupt (every image is decoded once to find them);
            `num_skipped` counts them.
        fit: how the image gets into the square, as in `image_to_tensor`; by default it is squeezed, as published.
        fields: attributes that conditions hold besides the position, of `igm.data.vocabulary.FIELDS`, or "all".

    Raises:
        DataError: files missing or not CLEVR's, an image absent, a position outside its image, an asked field
            that an object lacks, or no scene in the range.
    """

    task = "positions"
    is_default = True
    points_name = "pixel_coords"

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        num_objects: tuple[int, int] = (3, 5),
        resolution: int = 64,
        max_images: int | None = None,
        flip: bool = False,
        skip_bad_images: bool = False,
        fit: str | None = None,
        fields: Sequence[str] = (),
    ):
        super().__init__(resolution, fit, flip)
        self.split, self.max_objects = split, num_objects[1]
        self.scenes_file, self.index = self.open_scenes(Path(root), split)
        self.listing = self.scenes_file
        names, counts = self.index["files"], self.index["counts"]
        rows = np.flatnonzero((counts >= num_objects[0]) & (counts <= num_objects[1]))[:max_images]
        if not len(rows):
            low, high = num_objects
            present = f"{counts.min()} to {counts.max()}"
            raise NothingAsked(
                f"{self.scenes_file}: no scene with {low} to {high} objects (it has {present}); ask for others"
            )
        folder = self.image_folder(Path(root), names[:10].tolist())
        places = [self.place_of_scene(row) for row in rows.tolist()]
        files = [locate_file(folder, *named) for named in zip(names[rows].tolist(), places, strict=True)]
        ids = np.array(unique_ids(names.tolist()))[rows].tolist()
        kept = self.admit(folder, files, ids, skip_bad_images, places)
        self.rows = rows[kept]
        self.check_positions()
        self.choose_fields(fields)

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether a folder holds scenes of any split."""
        return bool(found_splits(root))

    def open_scenes(self, root: Path, split: str) -> tuple[Path, Index]:
        """Where the scenes of a split stand, and all of them, as `load_index` gives them."""
        scenes_file = find_scenes(root, split)
        return scenes_file, load_index(scenes_file)

    def image_folder(self, root: Path, names: Sequence[str]) -> Path:
        """The folder that the images' names are relative to; `names` are the first of them."""
        return find_images(root, self.scenes_file, self.split, names)

    def place_of_scene(self, scene: int) -> str:
        """Where a scene of the index stands, for a message."""
        return f"{self.scenes_file}, scene {scene + 1}"

    def place_of(self, row: int) -> str:
        """Where a scene stands, for a message."""
        return self.place_of_scene(int(self.rows[row]))


def scenes_places(root: Path, split: str) -> list[Path]:
    """Where the scenes file of a split is found in practice."""
    name = f"CLEVR_{split}_scenes.json"
    return [root / "scenes" / name, root / name, root / "images" / split / name, root / "images" / name]


def found_splits(root: Path) -> list[str]:
    """The splits whose scenes file is in a folder."""
    files = itertools.chain(
        *(root.glob(f"{place}CLEVR_*_scenes.json") for place in ("scenes/", "", "images/", "images/*/"))
    )
    splits = {file.name.removeprefix("CLEVR_").removesuffix("_scenes.json") for file in files}
    return sorted(splits | ({GENERATOR_SPLIT} if (root / GENERATOR_FILE).is_file() else set()))


def find_scenes(root: Path, split: str) -> Path:
    """The scenes file of a split; where a folder holds nothing but the generator's own output, that of any split.

    Raises:
        DataError: the root or the file does not exist.
    """
    if not os.path.isdir(root):
        raise DataError(f"--dataset_root {root} is not a folder; give the folder of CLEVR_v1.0")
    places = scenes_places(root, split) if Path(split).name == split else []
    for place in places:
        if place.is_file():
            return place
    splits = found_splits(root)
    if (split == GENERATOR_SPLIT or splits == [GENERATOR_SPLIT]) and (root / GENERATOR_FILE).is_file():
        return root / GENERATOR_FILE
    missing = f"{root / 'scenes' / f'CLEVR_{split}_scenes.json'} is missing"
    if splits:
        raise DataError(f"{missing}; {root} has the splits {', '.join(splits)}: choose one by --split")
    raise DataError(f"{missing} (also looked in {root}); unpack CLEVR_v1.0.zip there, or choose --split")


def find_images(root: Path, scenes_file: Path, split: str, names: Sequence[str]) -> Path:
    """The folder that holds a split's images: the first of the usual ones with any of the first scenes' images."""
    own = [root / "images" / split] if Path(split).name == split else []
    listed = [(name, f"{scenes_file}, scene {number}") for number, name in enumerate(names, 1)]
    for place in (*own, root / "images", root / split, scenes_file.parent):
        if any(os.path.isfile(place / locate_file(place, *named)) for named in listed):
            return place
    return root / "images" / split


def load_index(scenes_file: Path) -> Index:
    """Read file names, counts and pixel positions of all scenes; from a cache where the JSON is unchanged.

    Returns:
        files (S,) str, counts (S,) int, starts (S,) first row of each scene in `pixel_coords` (sum of counts, 2).
    """
    stat = scenes_file.stat()
    stamp = f"{scenes_file.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
    return cached_index(scenes_file.stem, stamp, lambda: parse_scenes(scenes_file))


def cached_index(name: str, stamp: str, parse: Callable[[], Index]) -> Index:
    """An index from the cache, or else what `parse` gives.

    Args:
        name: of the cached file, for a person. stamp: of the files that the index is made from.
    """
    key = hashlib.sha256(f"{INDEX_VERSION}:{stamp}".encode(errors="surrogateescape")).hexdigest()[:16]
    cached = cache_dir() / f"{name}-{key}.npz"
    index = read_index(cached)
    if index is None:
        index = parse()
        save_index(cached, index)
    return index


def read_index(path: Path) -> Index | None:
    """A cached index; None where it is absent, or torn by a crash."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            index = dict(arrays)
    except Exception:  # a damaged archive raises anything from KeyError to zlib.error
        return None
    sound = index.keys() == INDEX_TYPES.keys() and all(
        index[name].dtype.kind == kind for name, kind in INDEX_TYPES.items()
    )
    return index if sound else None


def save_index(path: Path, index: Index) -> None:
    """Write the index; a folder that cannot be written is no error."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda temporary: np.savez(temporary, allow_pickle=False, **index))


def parse_scenes(scenes_file: Path) -> Index:
    """Parse a CLEVR scenes JSON into the arrays of `load_index`.

    Raises:
        DataError: the file is cut short, or is not a CLEVR scenes file, or a scene in it is at fault.
    """
    contents = parse_json(read_text(scenes_file), scenes_file)
    scenes = contents.get("scenes") if isinstance(contents, dict) else None
    if not isinstance(scenes, list):
        raise DataError(f"{scenes_file} has no list 'scenes'; it is not a CLEVR scenes file")
    if not scenes:
        raise DataError(f"{scenes_file} lists no scene; unpack or write it again")
    for number, scene in enumerate(scenes, 1):
        if fault := fault_of_scene(scene):
            raise DataError(f"{scenes_file}, scene {number}{name_of(scene)}: {fault}")
    check_names(scenes_file, [scene["image_filename"] for scene in scenes])
    return make_index([scene["image_filename"] for scene in scenes], [scene["objects"] for scene in scenes])


def make_index(names: Sequence[str], objects: Sequence[list[dict[str, Any]]]) -> Index:
    """The arrays of `load_index`, of images' names and their sound objects."""
    files = np.array(names, dtype=str)
    counts = np.array([len(own) for own in objects], dtype=np.int64)
    things = [thing for own in objects for thing in own]
    centres = [thing["pixel_coords"][:2] for thing in things]
    pixel_coords = np.array(centres, dtype=np.float32).reshape(len(things), 2)
    starts = np.cumsum(counts) - counts
    named = {"files": files, "counts": counts, "starts": starts, "pixel_coords": pixel_coords}
    triples = {key: [triple_of(thing.get(key)) for thing in things] for key in ("pixel_coords", "3d_coords")}
    pixels, coords = (np.array(own, dtype=np.float32).reshape(len(things), 3) for own in triples.values())
    return named | {"depths": pixels[:, 2], "coords": coords} | attributes_of(things)


def triple_of(coords: object) -> list[float]:
    """Three finite numbers, the last above 0; NaN three times where they are something else."""
    sound = type(coords) is list and len(coords) == 3 and all(map(is_finite, coords)) and coords[2] > 0
    return coords if sound else [np.nan] * 3  # type: ignore[return-value]


def name_of(scene: object) -> str:
    """A scene's image in brackets, for a message; nothing where it has none."""
    name = scene.get("image_filename") if isinstance(scene, dict) else None
    return f" ({shown(name)})" if isinstance(name, str) else ""


def fault_of_scene(scene: object) -> str:
    """What is wrong with a scene of the JSON, and the mend; empty if nothing is."""
    if not isinstance(scene, dict):
        return f"it is {shown(scene)}, expected image_filename and objects; mend it"
    name, objects = scene.get("image_filename"), scene.get("objects")
    if not isinstance(name, str) or not name or len(name) > 1000:
        return f"image_filename is {shown(name)}, expected the name of its image; write it"
    return fault_of_objects(objects)


def fault_of_objects(objects: object) -> str:
    """What is wrong with the objects of a scene, and the mend; empty if nothing is."""
    if not isinstance(objects, list):
        return f"objects is {shown(objects)}, expected a list of its objects ([] for none); write it"
    seen: dict[tuple[float, ...], int] = {}
    for number, thing in enumerate(objects, 1):
        coords = thing.get("pixel_coords") if isinstance(thing, dict) else None
        if type(coords) is not list or not 2 <= len(coords) <= 3 or not all(map(is_finite, coords)):
            return (
                f"pixel_coords of object {number} is {shown(coords)}, expected two or three finite numbers "
                "(x, y, depth); write them, or take the scene out"
            )
        if (other := seen.setdefault(tuple(coords), number)) != number and objects[other - 1] == thing:
            return f"objects {other} and {number} are the same; keep one of them"
    return ""


def check_names(scenes_file: Path, names: Sequence[str]) -> None:
    """Raise DataError if two scenes name one image."""
    if len(set(names)) < len(names):
        first: dict[str, int] = {}
        for number, name in enumerate(names, 1):
            if (other := first.setdefault(name, number)) != number:
                raise DataError(
                    f"{scenes_file}: scenes {other} and {number} are both of {shown(name)}; keep one of them"
                )
