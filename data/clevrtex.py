"""CLEVRTex (Karazija et al. 2021): textured CLEVR scenes with the 2-D positions of their objects.

Layout, at any depth below the folder of the variant, which is --dataset_root or in it:
    clevrtex_<variant>/**/CLEVRTEX_<variant>_000000.png         320x240
    clevrtex_<variant>/**/CLEVRTEX_<variant>_000000.json        its scene; pixel_coords in pixels of the picture
    clevrtex_<variant>/**/CLEVRTEX_<variant>_000000_flat.png    masks and other pictures, not read
Splits are those of the data set's own loader, by the numbers of the pictures: test the first 10 %, val the next 10 %, train
the rest; outd has none: all of it is test.
"""

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from igm import warn
from igm.data import DataError
from igm.data.clevr import Clevr, Index, cached_index, fault_of_objects, make_index
from igm.data.text import parse_json, read_text, shown

VARIANTS = ("full", "pbg", "vbg", "grassbg", "camo", "outd")
SPLITS = {"test": (0, 1), "val": (1, 2), "train": (2, 10)}  # tenths
WITHOUT_SPLITS = "outd"
FOLDER = re.compile(f"clevrtex_({'|'.join(VARIANTS)})")
PICTURE = re.compile(rf"CLEVRTEX_({'|'.join(VARIANTS)})_([0-9]{{6}})\.png")  # not its masks: ..._flat.png
MANY_FILES = 5000


class ClevrTex(Clevr):
    """CLEVRTex scenes whose number of objects lies in a range; items are those of `Clevr`.

    Args:
        root: folder of one variant, or one that holds `clevrtex_<variant>`.
        split: "train", "val" or "test"; the variant outd has "test" alone.
        variant: full, pbg, vbg, grassbg, camo or outd, where the root holds several.
        num_objects, resolution, max_images, flip, skip_bad_images, fit: as `Clevr`.

    Raises:
        DataError: as `Clevr`; or several variants and none named, one picture number twice, or no such split.
    """

    is_default, options = False, ("variant", *Clevr.options)

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        num_objects: tuple[int, int] = (3, 5),
        *args: Any,
        variant: str | None = None,
        **options: Any,
    ):
        self.variant, self.base = find_variant(Path(root), variant)
        super().__init__(root, split, num_objects, *args, **options)

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether a folder is, or holds, a variant."""
        return bool(found_variants(root))

    def open_scenes(self, root: Path, split: str) -> tuple[Path, Index]:
        """The variant's folder, and the scenes of a split."""
        files = list_scenes(self.base, self.variant)
        part = split_rows(len(files), self.base, self.variant, split)
        index = load_scenes(self.base, self.variant, files)
        return self.base, {**index, **{name: index[name][part] for name in ("files", "counts", "starts")}}

    def image_folder(self, root: Path, names: Sequence[str]) -> Path:
        """The variant's folder."""
        return self.base

    def place_of_scene(self, scene: int) -> str:
        """The scene's own file."""
        return str(self.base / scene_of(str(self.index["files"][scene])))


def found_variants(root: Path) -> dict[str, Path]:
    """The variants in a folder, each with its own folder: named as the data set's, or with its pictures in it."""
    if own := FOLDER.fullmatch(root.name):
        return {own[1]: root} if root.is_dir() else {}
    try:
        inside = sorted(os.scandir(root), key=lambda entry: entry.name)
    except OSError:
        return {}
    named = {m[1]: Path(e.path) for e in inside if (m := FOLDER.fullmatch(e.name)) and e.is_dir()}
    if named:
        return named
    names = [entry.name for entry in inside]
    for entry in inside:
        if entry.is_dir() and os.access(entry.path, os.R_OK):
            names += os.listdir(entry.path)
    return {m[1]: root for name in names if (m := PICTURE.fullmatch(name))}


def find_variant(root: Path, variant: str | None) -> tuple[str, Path]:
    """The variant that is asked for, or the only one, and its folder.

    Raises:
        DataError: there is none, or not this one, or there are several and none is named.
    """
    found = found_variants(root)
    if not found:
        raise DataError(
            f"--dataset_root {root} holds no clevrtex_<variant>; give the folder that CLEVRTex is unpacked in"
        )
    if variant is None and len(found) > 1:
        raise DataError(f"--dataset_root {root} holds the variants {', '.join(found)}; choose one by --variant")
    if variant is not None and variant not in found:
        raise DataError(f"--variant {variant}: {root} holds {', '.join(found)}; choose one of them")
    return next(item for item in found.items() if variant in (None, item[0]))


def list_scenes(base: Path, variant: str) -> list[str]:
    """The pictures of a variant at any depth, as names in its folder, by their numbers.

    Raises:
        DataError: none, or one number twice.
    """
    found: dict[int, str] = {}
    for folder, folders, names in os.walk(base, followlinks=True):
        folders.sort()
        for name in names:
            if (match := PICTURE.fullmatch(name)) is None or match[1] != variant:
                continue
            own = os.path.relpath(os.path.join(folder, name), base)
            if (other := found.setdefault(int(match[2]), own)) != own:
                raise DataError(f"{base}: {other} and {own} are both picture {int(match[2])}; keep one of them")
    if not found:
        raise DataError(f"{base} holds no CLEVRTEX_{variant}_000000.png, at any depth; unpack CLEVRTex there")
    if len(found) <= max(found):
        warn(
            f"{base}: {max(found) + 1 - len(found):,} of the numbers to {max(found)} are missing; splits are of the others"
        )
    return [found[number] for number in sorted(found)]


def split_rows(total: int, base: Path, variant: str, split: str) -> slice:
    """Which of the pictures, in the order of their numbers, a split has.

    Raises:
        DataError: the variant has no such split, or too few pictures for it.
    """
    if variant == WITHOUT_SPLITS:
        if split != "test":
            raise DataError(f"{base} has no split {shown(split)}: all of {variant} is test; choose --split test")
        return slice(0, total)
    if split not in SPLITS:
        raise DataError(f"{base} has no split {shown(split)}; it has {', '.join(SPLITS)}: choose one by --split")
    first, last = (tenths * total // 10 for tenths in SPLITS[split])
    if first == last:
        raise DataError(f"{base} holds {total} pictures, too few for a split {split} of a tenth; unpack the others")
    return slice(first, last)


def scene_of(picture: str) -> str:
    """The name of a picture's scene file."""
    return picture.removesuffix(".png") + ".json"


def load_scenes(base: Path, variant: str, files: Sequence[str]) -> Index:
    """The objects of all pictures; from a cache where their scene files are unchanged.

    Raises:
        DataError: a scene file is missing or at fault.
    """
    stamps = [str(base.resolve())]
    for name in map(scene_of, files):
        try:
            status = os.stat(base / name)
        except OSError as error:
            raise DataError(f"scene {base / name} cannot be read ({error.strerror}); restore it") from None
        stamps.append(f"{name}:{status.st_size}:{status.st_mtime_ns}")
    return cached_index(f"CLEVRTEX_{variant}", "\n".join(stamps), lambda: parse_scenes(base, files))


def parse_scenes(base: Path, files: Sequence[str]) -> Index:
    """Read the scene file of every picture."""
    paths = [base / scene_of(name) for name in files]
    with ThreadPoolExecutor(8) as pool:
        read = pool.map(read_objects, paths)
        objects = list(tqdm(read, "reading scenes", len(paths), disable=len(paths) < MANY_FILES, leave=False))
    return make_index(files, objects)


def read_objects(path: Path) -> list[dict[str, Any]]:
    """The objects of a scene file.

    Raises:
        DataError: it is cut short, or is none.
    """
    scene = parse_json(read_text(path), path)
    if not isinstance(scene, dict) or "objects" not in scene:
        raise DataError(f"{path} has no list 'objects'; it is not a scene of CLEVRTex")
    if fault := fault_of_objects(scene["objects"]):
        raise DataError(f"{path}: {fault}")
    return scene["objects"]
