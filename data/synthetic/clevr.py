"""Generate CLEVR-like scenes and pictures in the layout of CLEVR v1.0, without Blender and without a download.

Camera, placement rules, visibility check and JSON fields follow the CLEVR generator (Johnson et al. 2017,
clevr-dataset-gen, image_generation/render_images.py); the pictures are ray cast by `data.synthetic.render`.

    python -m igm.data.synthetic.clevr --out DIR --split val --num_images 100 --num_objects 3-5 --resolution 128
"""

import argparse
import itertools
import json
import math
import multiprocessing
import os
import sys
import zlib
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from igm.data.synthetic import render as rendering
from igm.files import replace_text
from igm.settings import file_count, positive, seed_number
from igm.settings import workers as worker_count

# Blender's default camera, which CLEVR's base scene keeps. Checked on 3,000 scenes of the CLEVR generator by fitting
# each camera to 3d_coords -> pixel_coords: mean (7.47, -6.51, 5.35), aimed at the origin within 0.005, each axis
# spread over +- 0.5 or little more, focal length 1.0938 image widths = 35 mm / 32 mm; 0.2 pixels left, as by rounding.
CAMERA = (7.48113, -6.50764, 5.34367)
CAMERA_JITTER = 0.5
LAMP_JITTER = 1.0

COLORS = {
    "gray": (87, 87, 87), "red": (173, 35, 35), "blue": (42, 75, 215), "green": (29, 105, 20),
    "brown": (129, 74, 25), "purple": (129, 38, 192), "cyan": (41, 208, 208), "yellow": (255, 238, 51),
}  # fmt: skip
SIZES = {"large": 0.7, "small": 0.35}
MOST_PIXELS = 2048  # a side; larger pictures would not fit the memory
MATERIALS = ("rubber", "metal")
DEFAULT_SHAPES = ("cube", "sphere", "cylinder")

AREA = 3.0  # x and y of the centres are uniform in [-3, 3]
MIN_DISTANCE = 0.25  # between the objects' circles
MARGIN = 0.4  # between centres, along each of left, right, front, behind
MAX_RETRIES = 50  # positions tried for one object before the scene is started again
MAX_RESTARTS = 500
MIN_VISIBLE = 200 / (320 * 240)  # CLEVR: 200 pixels of 320 x 240
RELATION_MARGIN = 0.2


class PlacementError(RuntimeError):
    """The number of objects does not fit the placement or visibility rules."""


def _directions() -> dict[str, list[float]]:
    """Unit vectors of the JSON. Like the generator, taken from the camera before its jitter: the same every scene."""
    x, y = (-c / math.hypot(*CAMERA[:2]) for c in CAMERA[:2])
    named = {"behind": (x, y, 0.0), "front": (-x, -y, 0.0), "left": (-y, x, 0.0), "right": (y, -x, 0.0)}
    return {k: list(v) for k, v in named.items()} | {"above": [0.0, 0.0, 1.0], "below": [0.0, 0.0, -1.0]}


DIRECTIONS = _directions()
CARDINAL = ("behind", "front", "left", "right")


def sample_scene(
    rng: np.random.Generator,
    num_objects: tuple[int, int] = (3, 5),
    shapes: Sequence[str] = DEFAULT_SHAPES,
    textures: Sequence[str] = ("plain",),
) -> dict:
    """Draw one scene by CLEVR's placement rules; visibility is not checked here.

    Returns:
        dict with `camera` (3,) and `lamps` (3, 3) in scene units and `objects`, a list of dicts with `shape`, `size`,
        `material`, `color`, `texture`, `3d_coords` and `rotation` in [0, 360).

    Raises:
        PlacementError: if no placement is found after many restarts.
    """
    camera = np.array(CAMERA) + rng.uniform(-CAMERA_JITTER, CAMERA_JITTER, 3)
    lamps = np.array(rendering.LAMP_POSITION) + rng.uniform(-LAMP_JITTER, LAMP_JITTER, (3, 3))
    count = int(rng.integers(num_objects[0], num_objects[1] + 1))
    for _ in range(MAX_RESTARTS):
        objects = _place(rng, count, shapes, textures)
        if objects is not None:
            return {"camera": camera.tolist(), "lamps": lamps.tolist(), "objects": objects}
    raise PlacementError(f"{count} objects found no place in {MAX_RESTARTS} attempts")


def _place(rng: np.random.Generator, count: int, shapes: Sequence[str], textures: Sequence[str]) -> list | None:
    """Place `count` objects one after another; None if one finds no place in MAX_RETRIES draws."""
    objects: list[dict] = []
    circles: list[tuple[float, float, float]] = []
    for _ in range(count):
        size, shape = str(rng.choice(list(SIZES))), str(rng.choice(list(shapes)))
        # CLEVR takes the radius of a cube as size / sqrt(2).
        radius = SIZES[size] / (math.sqrt(2) if shape == "cube" else 1)
        for x, y in rng.uniform(-AREA, AREA, (MAX_RETRIES, 2)).tolist():
            if all(_apart((x, y, radius), other) for other in circles):
                break
        else:
            return None
        circles.append((x, y, radius))
        objects.append({
            "shape": shape, "size": size, "material": str(rng.choice(MATERIALS)), "3d_coords": [x, y, SIZES[size]],
            "rotation": float(rng.uniform(0, 360)), "color": str(rng.choice(list(COLORS))),
            "texture": str(rng.choice(list(textures))),
        })  # fmt: skip
    return objects


def _apart(one: tuple[float, float, float], two: tuple[float, float, float]) -> bool:
    """CLEVR's rule for two circles (x, y, radius): a gap between them and between their centres on both axes."""
    dx, dy = one[0] - two[0], one[1] - two[1]
    if math.hypot(dx, dy) - one[2] - two[2] < MIN_DISTANCE:
        return False
    return all(abs(dx * DIRECTIONS[d][0] + dy * DIRECTIONS[d][1]) >= MARGIN for d in ("right", "front"))


def make_batch(scenes: Sequence[dict]) -> rendering.Batch:
    """Turn scenes of `sample_scene` into the tensors the renderer reads."""
    objects = [o for scene in scenes for o in scene["objects"]]
    counts = [len(scene["objects"]) for scene in scenes]
    image = torch.arange(len(scenes)).repeat_interleave(torch.tensor(counts))
    slots = torch.full((len(scenes), max(counts)), -1)
    starts = [0, *itertools.accumulate(counts)]
    for row, start, count in zip(slots, starts, counts, strict=False):
        row[:count] = torch.arange(start, start + count)
    eye = np.array([scene["camera"] for scene in scenes]).T  # (3, B)
    forward = -eye / np.sqrt((eye**2).sum(0))
    right = np.stack([forward[1], -forward[0], np.zeros(len(scenes))]) / np.hypot(forward[0], forward[1])
    axes = np.stack([right, np.cross(right, forward, axis=0), forward])  # (3, 3, B)
    # CLEVR hands its "rotation" of 0 to 360 to Blender unchanged, where it counts as radians: outlines of its cubes
    # agree with this reading (0.95 overlap) and not with degrees (0.86).
    angle = np.array([o["rotation"] for o in objects])

    def index(key: str, names: Sequence[str]) -> torch.Tensor:
        return torch.tensor([names.index(o[key]) for o in objects])

    def floats(values) -> torch.Tensor:
        return torch.tensor(np.ascontiguousarray(values), dtype=torch.float32)

    return rendering.Batch(
        eye=floats(eye),
        axes=floats(axes),
        lamps=floats(np.array([scene["lamps"] for scene in scenes]).transpose(1, 2, 0)),
        position=floats(np.array([o["3d_coords"] for o in objects]).T),
        size=floats([SIZES[o["size"]] for o in objects]),
        turn=floats(np.stack([np.cos(angle), np.sin(angle)])),
        shape=index("shape", list(rendering.SHAPES)),
        texture=index("texture", rendering.TEXTURES),
        metal=index("material", MATERIALS) == 1,
        # CLEVR hands these bytes to Blender as linear values, which is why its colours look pale.
        albedo=floats(np.array([COLORS[o["color"]] for o in objects]).T / 255),
        image=image,
        slots=slots,
    )


def visible_enough(batch: rendering.Batch, width: int, height: int) -> list[bool]:
    """For each scene, whether every object shows at least CLEVR's share of pixels (200 of 320 x 240)."""
    ids = rendering.id_buffer(batch, width, height)
    counts = torch.stack([(ids == k).sum((1, 2)) for k in range(batch.slots.shape[1])], dim=1)  # (B, K)
    enough = (counts >= MIN_VISIBLE * width * height) | (batch.slots < 0)
    return enough.all(1).tolist()


def sample_scenes(
    indices: Sequence[int],
    split: str,
    num_objects: tuple[int, int] = (3, 5),
    *,
    resolution: tuple[int, int] = (128, 128),
    shapes: Sequence[str] = DEFAULT_SHAPES,
    textures: Sequence[str] = ("plain",),
    seed: int = 0,
) -> list[dict]:
    """Draw the scenes with the given indices, each redrawn until all its objects are visible.

    A scene depends on seed, split and its index alone, not on the other indices.

    Raises:
        PlacementError: if a scene finds no placement, or none with every object visible.
    """
    rngs = {i: np.random.default_rng((seed, zlib.crc32(split.encode()), i)) for i in indices}
    pending = list(indices)
    scenes: dict[int, dict] = {}
    for _ in range(MAX_RESTARTS):
        if not pending:
            return [scenes[i] for i in indices]
        drawn = [sample_scene(rngs[i], num_objects, shapes, textures) for i in pending]
        good = visible_enough(make_batch(drawn), *resolution)
        scenes |= {i: scene for i, scene, ok in zip(pending, drawn, good, strict=True) if ok}
        pending = [i for i in pending if i not in scenes]
    raise PlacementError(f"{num_objects[0]}-{num_objects[1]} objects hid one another in {MAX_RESTARTS} scenes")


def relationships(coords: Sequence[Sequence[float]]) -> dict[str, list[list[int]]]:
    """For each direction and object, the objects that lie that way by more than CLEVR's margin of 0.2."""
    points = np.array(coords)  # (K, 3)
    out = {}
    for name in CARDINAL:
        along = points @ np.array(DIRECTIONS[name])  # (K,)
        out[name] = [np.flatnonzero(along - a > RELATION_MARGIN).tolist() for a in along]
    return out


def describe(scenes: Sequence[dict], indices: Sequence[int], split: str, resolution: tuple[int, int]) -> list[dict]:
    """Write scenes as entries of the JSON; objects get the key `texture` only where it is not plain."""
    batch = make_batch(scenes)
    placed = rendering.project(batch, batch.position, batch.image).T.tolist()  # (M, 3)
    entries, start = [], 0
    for index, scene in zip(indices, scenes, strict=True):
        objects = []
        for o, (x, y, depth) in zip(scene["objects"], placed[start:], strict=False):
            pixel = [round(x * resolution[0]), round(y * resolution[1]), depth]
            keys = ("shape", "size", "material", "3d_coords", "rotation")
            objects.append({k: o[k] for k in keys} | {"pixel_coords": pixel, "color": o["color"]})
            if o["texture"] != "plain":
                objects[-1]["texture"] = o["texture"]
        start += len(objects)
        entries.append({
            "split": split, "image_index": index, "image_filename": f"CLEVR_{split}_{index:06d}.png",
            "objects": objects, "directions": DIRECTIONS,
            "relationships": relationships([o["3d_coords"] for o in objects]),
        })  # fmt: skip
    return entries


def _write_batch(indices: Sequence[int], split: str, folder: Path, num_objects: tuple, options: dict) -> list[dict]:
    """Draw, render and save the scenes of some indices; returns their JSON entries."""
    # The tensors are small: more threads wait for one another. Several processes are the way to several cores.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        scenes = sample_scenes(indices, split, num_objects, **options)
        entries = describe(scenes, indices, split, options["resolution"])
        pictures = rendering.render(make_batch(scenes), *options["resolution"])
    finally:
        torch.set_num_threads(threads)
    for entry, pixels in zip(entries, pictures, strict=True):
        Image.fromarray(pixels.numpy()).save(folder / entry["image_filename"], compress_level=1)
    return entries


def generate(
    out: str | Path,
    split: str,
    num_images: int,
    num_objects: tuple[int, int] = (3, 5),
    *,
    resolution: tuple[int, int] = (128, 128),
    shapes: Sequence[str] = DEFAULT_SHAPES,
    textures: Sequence[str] = ("plain",),
    seed: int = 0,
    batch_size: int = 16,
    workers: int = 0,
    progress: bool = False,
) -> Path:
    """Write OUT/images/SPLIT/CLEVR_SPLIT_<index>.png and OUT/scenes/CLEVR_SPLIT_scenes.json, the layout of CLEVR v1.0.

    The same arguments give the same bytes; `batch_size` and `workers` change the speed only. The JSON is written last.

    Args:
        num_objects: lowest and highest number of objects, both included.
        resolution: width, height in pixels, even; the 3:2 view is squashed into any other shape.
        shapes: names from `render.SHAPES`; each object draws one.
        textures: names from `render.TEXTURES`; each object draws one.
        workers: processes to render in, 0 for this one; more than 0 needs a `__main__` guard in the caller's script.

    Returns:
        The path of the JSON.

    Raises:
        PlacementError: if so many objects cannot be placed.
        OSError: if `out` cannot be written.
        ValueError: if a count, a resolution, a shape or a texture is not possible.
    """
    _check(num_images, num_objects, resolution, shapes, textures, seed, batch_size, workers)
    folder, scene_file = Path(out) / "images" / split, Path(out) / "scenes" / f"CLEVR_{split}_scenes.json"
    folder.mkdir(parents=True, exist_ok=True)
    scene_file.parent.mkdir(parents=True, exist_ok=True)
    options = {"resolution": resolution, "shapes": shapes, "textures": textures, "seed": seed}
    write = partial(_write_batch, split=split, folder=folder, num_objects=num_objects, options=options)
    batches = [range(i, min(i + batch_size, num_images)) for i in range(0, num_images, batch_size)]
    entries = []
    with (
        multiprocessing.get_context("spawn").Pool(workers) if workers else nullcontext() as pool,
        tqdm(total=num_images, unit="image", disable=not progress) as bar,
    ):
        for part in (pool.imap if pool else map)(write, batches):
            entries += part
            bar.update(len(part))
    info = {"split": split, "version": "1.0", "date": "synthetic", "license": "as the generator's"}
    replace_text(scene_file, json.dumps({"info": info, "scenes": entries}))
    return scene_file


def _check(num_images, num_objects, resolution, shapes, textures, seed, batch_size, workers) -> None:
    """Raise ValueError for impossible arguments, naming the argument and the value received."""
    low, high = num_objects
    if not 1 <= low <= high:
        raise ValueError(f"num_objects must be a range LOW-HIGH with 1 <= LOW <= HIGH, got {low}-{high}")
    for name, value in (("num_images", num_images), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    for name, value in (("seed", seed), ("workers", workers)):
        if value < 0:
            raise ValueError(f"{name} must be 0 or more, got {value}")
    if not 16 <= min(resolution) <= max(resolution) <= MOST_PIXELS or any(side % 2 for side in resolution):
        bounds = f"even and 16 to {MOST_PIXELS} each way"
        raise ValueError(f"resolution must be {bounds}, got {resolution[0]}x{resolution[1]}")
    for name, values, known in (("shapes", shapes, rendering.SHAPES), ("textures", textures, rendering.TEXTURES)):
        wrong = [v for v in values if v not in known]
        if wrong or not values:
            raise ValueError(f"{name} must be some of {', '.join(known)}, got {', '.join(wrong) or 'none'}")


def _range(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    try:
        return int(low), int(high or low)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a count such as 4 or a range such as 3-5, got '{text}'") from None


def _resolution(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    try:
        return int(width), int(height or width)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected pixels such as 128 or 192x128, got '{text}'") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m igm.data.synthetic.clevr",
        description="Generate CLEVR-like scenes and pictures in the layout of CLEVR v1.0.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--out", required=True, default=argparse.SUPPRESS, metavar="DIR", help="dataset root to write")
    add("--split", default="val", help="name of the split; splits of one seed hold different scenes")
    add("--num_images", type=file_count, default=100, help="number of scenes")
    add("--num_objects", type=_range, default="3-5", metavar="LOW-HIGH", help="objects per scene")
    add("--resolution", type=_resolution, default="128", metavar="WxH", help="pixels; one number for a square")
    add("--shapes", nargs="+", default=DEFAULT_SHAPES, metavar="NAME", help=f"some of {', '.join(rendering.SHAPES)}")
    add("--textures", nargs="+", default=("plain",), metavar="NAME", help=f"some of {', '.join(rendering.TEXTURES)}")
    add("--seed", type=seed_number, default=0, help="same seed, same files")
    add("--batch_size", type=positive, default=16, help="scenes rendered together; changes the speed only")
    add("--workers", type=worker_count, help="processes, 0 for this one alone (default: one a core from 200 images on)")
    return parser


def main() -> None:
    """The command line: see --help."""
    parser = _parser()
    # One line for a mistake, without the usage text above it.
    parser.error = lambda message: parser.exit(2, f"error: {message}\n")  # type: ignore[method-assign]
    args = parser.parse_args()
    if not args.split or Path(args.split).name != args.split or args.split == "..":
        parser.error(f"--split must be a plain name such as train or val, got '{args.split}'")
    if args.workers is None:  # below that, starting processes takes longer than it saves
        args.workers = (os.cpu_count() or 1) if args.num_images >= 200 else 0
    try:
        path = generate(progress=True, **vars(args))
    except ValueError as error:
        parser.error(f"--{error}")
    except PlacementError as error:
        parser.error(f"--num_objects: {error}; ask for fewer objects")
    except OSError as error:
        parser.error(f"--out {args.out} cannot be written ({error.strerror}); name a folder you may write to")
    print(f"{args.num_images} scenes in {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
