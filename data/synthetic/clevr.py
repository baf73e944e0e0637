"""Generate CLEVR-like scenes and pictures in the layout of CLEVR v1.0 or CLEVRTex, without Blender and without a download.

Camera, placement rules, visibility check and JSON fields follow the CLEVR generator (Johnson et al. 2017,
clevr-dataset-gen, image_generation/render_images.py); the pictures are ray cast by `data.synthetic.render`.

    python -m igm.data.synthetic.clevr --out DIR --split val --num_images 100 --num_objects 3-5 --resolution 128
    python -m igm.data.synthetic.clevr --out DIR --layout clevrtex --split outd --num_images 100 --num_objects 6-8
    python -m igm.data.synthetic.clevr --out DIR --split trainA --cogent A --num_images 6000
"""

import argparse
import dataclasses
import itertools
import math
import multiprocessing
import os
import sys
import zlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from igm.data.synthetic import render as rendering
from igm.data.synthetic.layouts import COGENT, COLORS, LAYOUTS, ClevrLayout, ClevrTexLayout, Look
from igm.settings import file_count, positive, seed_number
from igm.settings import workers as worker_count

# Blender's default camera, which CLEVR's base scene keeps. Checked on 3,000 scenes of the CLEVR generator by fitting
# each camera to 3d_coords -> pixel_coords: mean (7.47, -6.51, 5.35), aimed at the origin within 0.005, each axis
# spread over +- 0.5 or little more, focal length 1.0938 image widths = 35 mm / 32 mm; 0.2 pixels left, as by rounding.
CAMERA = (7.48113, -6.50764, 5.34367)
CAMERA_JITTER = 0.5
LAMP_JITTER = 1.0

MOST_PIXELS = 2048  # a side; larger pictures would not fit the memory
GROUND_SCALE = (0.4, 1.6)  # cells of the ground's pattern per scene unit

AREA = 3.0  # x and y of the centres are uniform in [-3, 3]
MIN_DISTANCE = 0.25  # between the objects' circles
MARGIN = 0.4  # between centres, along each of left, right, front, behind
MAX_RETRIES = 50  # positions tried for one object before the scene is started again
MAX_RESTARTS = 500
SHADE = 0.7  # by what share a texture's other part is darker, where it has no colour of its own
MIN_VISIBLE = 200 / (320 * 240)  # CLEVR: 200 pixels of 320 x 240
RELATION_MARGIN = 0.2


Layout = ClevrLayout | ClevrTexLayout


class PlacementError(RuntimeError):
    """The number of objects does not fit the placement or visibility rules."""


def _directions() -> dict[str, list[float]]:
    """Unit vectors of the JSON. Like the generator, taken from the camera before its jitter: the same every scene."""
    x, y = (-c / math.hypot(*CAMERA[:2]) for c in CAMERA[:2])
    named = {"behind": (x, y, 0.0), "front": (-x, -y, 0.0), "left": (-y, x, 0.0), "right": (y, -x, 0.0)}
    return {k: list(v) for k, v in named.items()} | {"above": [0.0, 0.0, 1.0], "below": [0.0, 0.0, -1.0]}


DIRECTIONS = _directions()
CARDINAL = ("behind", "front", "left", "right")


def sample_scene(rng: np.random.Generator, num_objects: tuple[int, int] = (3, 5), look: Look | None = None) -> dict:
    """Draw one scene by CLEVR's placement rules; visibility is not checked here.

    Returns:
        dict with `camera` (3,) and `lamps` (3, 3) in scene units and `objects`, a list of dicts with `shape`, `size`,
        `material`, `color`, `rgb`, `texture`, `3d_coords`, `extent` (half the height) and `rotation` in [0, 360), and
        `accent`, the texture's other colour, where it has one; and `ground` where it is not plain.

    Raises:
        PlacementError: if no placement is found after many restarts.
    """
    look = look or Look()
    camera = np.array(CAMERA) + rng.uniform(-CAMERA_JITTER, CAMERA_JITTER, 3)
    lamps = np.array(rendering.LAMP_POSITION) + rng.uniform(-LAMP_JITTER, LAMP_JITTER, (3, 3))
    count = int(rng.integers(num_objects[0], num_objects[1] + 1))
    for _ in range(MAX_RESTARTS):
        objects = _place(rng, count, look)
        if objects is not None:
            scene = {"camera": camera.tolist(), "lamps": lamps.tolist(), "objects": objects}
            return scene if tuple(look.grounds) == ("plain",) else scene | {"ground": _draw_ground(rng, look)}
    raise PlacementError(f"{count} objects found no place in {MAX_RESTARTS} attempts")


def _place(rng: np.random.Generator, count: int, look: Look) -> list | None:
    """Place `count` objects one after another; None if one finds no place in MAX_RETRIES draws."""
    objects: list[dict] = []
    circles: list[tuple[float, float, float]] = []
    for _ in range(count):
        size, shape = str(rng.choice(list(look.sizes))), str(rng.choice(list(look.shapes)))
        extent = look.sizes[size]
        # CLEVR takes the radius of a cube as size / sqrt(2).
        radius = extent / (math.sqrt(2) if shape == "cube" else 1)
        for x, y in rng.uniform(-AREA, AREA, (MAX_RETRIES, 2)).tolist():
            if all(_apart((x, y, radius), other) for other in circles):
                break
        else:
            return None
        circles.append((x, y, radius))
        thing: dict[str, Any] = {
            "shape": shape, "size": size, "material": str(rng.choice(list(look.materials))),
            "3d_coords": [x, y, extent], "rotation": float(rng.uniform(0, 360)),
            "color": str(rng.choice(list(look.palettes.get(shape, COLORS)))),
            "texture": str(rng.choice(list(look.textures))), "extent": extent,
        }  # fmt: skip
        # CLEVR hands these bytes to Blender as linear values, which is why its colours look pale.
        thing["rgb"] = [value / 255 for value in COLORS[thing["color"]]]
        if look.two_colours:
            thing["accent"] = rng.uniform(0.03, 0.95, 3).tolist()
        objects.append(thing)
    return objects


def _draw_ground(rng: np.random.Generator, look: Look) -> dict:
    """Texture, rotation, scale and two colours (factors on the light of CLEVR's ground) of a ground."""
    texture, angle = str(rng.choice(list(look.grounds))), float(rng.uniform(0, 2 * math.pi))
    colours = rng.uniform(0.3, 1.25, (2, 3)) * rng.uniform(0.5, 1.0, (2, 1))
    colours = np.ones((2, 3)) if texture == "plain" else colours
    return {"texture": texture, "angle": angle, "scale": float(rng.uniform(*GROUND_SCALE)), "colours": colours.tolist()}


def _apart(one: tuple[float, float, float], two: tuple[float, float, float]) -> bool:
    """CLEVR's rule for two circles (x, y, radius): a gap between them and between their centres on both axes."""
    dx, dy = one[0] - two[0], one[1] - two[1]
    if math.hypot(dx, dy) - one[2] - two[2] < MIN_DISTANCE:
        return False
    return all(abs(dx * DIRECTIONS[d][0] + dy * DIRECTIONS[d][1]) >= MARGIN for d in ("right", "front"))


def make_ground(scenes: Sequence[dict]) -> rendering.Ground | None:
    """The grounds of scenes as tensors; None where all are plain."""
    plain = {"texture": "plain", "angle": 0.0, "scale": 1.0, "colours": [[1.0] * 3] * 2}
    grounds = [scene.get("ground", plain) for scene in scenes]
    if all(ground["texture"] == "plain" for ground in grounds):
        return None
    angles = np.array([ground["angle"] for ground in grounds])
    return rendering.Ground(
        texture=torch.tensor([rendering.TEXTURES.index(ground["texture"]) for ground in grounds]),
        turn=torch.tensor(np.stack([np.cos(angles), np.sin(angles)]), dtype=torch.float32),
        scale=torch.tensor([ground["scale"] for ground in grounds], dtype=torch.float32),
        colours=torch.tensor([ground["colours"] for ground in grounds], dtype=torch.float32).permute(1, 2, 0),
    )


def make_batch(scenes: Sequence[dict], tan_y: float = rendering.TAN_Y) -> rendering.Batch:
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
    rgb = np.array([o["rgb"] for o in objects])  # (M, 3)
    fading = [
        1 - np.array(o["accent"]) / own if "accent" in o else [SHADE] * 3 for o, own in zip(objects, rgb, strict=True)
    ]

    def index(key: str, names: Sequence[str]) -> torch.Tensor:
        return torch.tensor([names.index(o[key]) for o in objects])

    def floats(values) -> torch.Tensor:
        return torch.tensor(np.ascontiguousarray(values), dtype=torch.float32)

    return rendering.Batch(
        eye=floats(eye),
        axes=floats(axes),
        lamps=floats(np.array([scene["lamps"] for scene in scenes]).transpose(1, 2, 0)),
        position=floats(np.array([o["3d_coords"] for o in objects]).T),
        size=floats([o["extent"] for o in objects]),
        turn=floats(np.stack([np.cos(angle), np.sin(angle)])),
        shape=index("shape", list(rendering.SHAPES)),
        texture=index("texture", rendering.TEXTURES),
        material=index("material", list(rendering.MATERIALS)),
        albedo=floats(rgb.T),
        fading=floats(np.array(fading).T),
        image=image,
        slots=slots,
        ground=make_ground(scenes),
        tan_y=tan_y,
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
    look: Look | None = None,
    seed: int = 0,
) -> list[dict]:
    """Draw the scenes with the given indices, each redrawn until all its objects are visible.

    A scene depends on seed, split and its index alone, not on the other indices.

    Raises:
        PlacementError: if a scene finds no placement, or none with every object visible.
    """
    look = look or Look()
    rngs = {i: np.random.default_rng((seed, zlib.crc32(split.encode()), i)) for i in indices}
    pending = list(indices)
    scenes: dict[int, dict] = {}
    for _ in range(MAX_RESTARTS):
        if not pending:
            return [scenes[i] for i in indices]
        drawn = [sample_scene(rngs[i], num_objects, look) for i in pending]
        good = visible_enough(make_batch(drawn, look.tan_y), *resolution)
        scenes |= {i: scene for i, scene, ok in zip(pending, drawn, good, strict=True) if ok}
        pending = [i for i in pending if i not in scenes]
    raise PlacementError(f"{num_objects[0]}-{num_objects[1]} objects hid one another in {MAX_RESTARTS} scenes")


def draw_scene(
    seed: int, num_objects: tuple[int, int] = (3, 5), resolution: tuple[int, int] = (480, 320)
) -> tuple[Image.Image, int]:
    """One picture of CLEVR's kind (width, height in pixels), and how many objects it shows.

    Raises:
        PlacementError: so many objects hid one another.
    """
    scenes = sample_scenes([0], "page", num_objects, seed=seed)
    pixels = rendering.render(make_batch(scenes), *resolution)[0]  # (H, W, 3)
    return Image.fromarray(pixels.numpy()), len(scenes[0]["objects"])


def relationships(coords: Sequence[Sequence[float]]) -> dict[str, list[list[int]]]:
    """For each direction and object, the objects that lie that way by more than CLEVR's margin of 0.2."""
    points = np.array(coords)  # (K, 3)
    out = {}
    for name in CARDINAL:
        along = points @ np.array(DIRECTIONS[name])  # (K,)
        out[name] = [np.flatnonzero(along - a > RELATION_MARGIN).tolist() for a in along]
    return out


def describe(
    scenes: Sequence[dict], batch: rendering.Batch, names: Mapping[int, str], split: str, resolution: tuple[int, int]
) -> list[dict]:
    """Write scenes as entries of the JSON; objects get the key `texture` only where it is not plain.

    Args:
        batch: of the scenes. names: of their pictures, by index.
    """
    placed = rendering.project(batch, batch.position, batch.image).T.tolist()  # (M, 3)
    entries, start = [], 0
    for (index, name), scene in zip(names.items(), scenes, strict=True):
        objects = []
        for o, (x, y, depth) in zip(scene["objects"], placed[start:], strict=False):
            pixel = [round(x * resolution[0]), round(y * resolution[1]), depth]
            keys = ("shape", "size", "material", "3d_coords", "rotation")
            objects.append({k: o[k] for k in keys} | {"pixel_coords": pixel, "color": o["color"]})
            if o["texture"] != "plain":
                objects[-1]["texture"] = o["texture"]
        start += len(objects)
        entries.append({
            "split": split, "image_index": index, "image_filename": name,
            "objects": objects, "directions": DIRECTIONS,
            "relationships": relationships([o["3d_coords"] for o in objects]),
        })  # fmt: skip
    return entries


def _write_batch(indices: Sequence[int], split: str, layout: Layout, num_objects: tuple, options: dict) -> list[dict]:
    """Draw, render and save the scenes of some indices; returns their JSON entries."""
    # The tensors are small: more threads wait for one another. Several processes are the way to several cores.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        scenes = sample_scenes(indices, split, num_objects, **options)
        batch = make_batch(scenes, options["look"].tan_y)
        names = {index: layout.picture(index).name for index in indices}
        entries = describe(scenes, batch, names, split, options["resolution"])
        pictures = rendering.render(batch, *options["resolution"])
        ids = rendering.id_buffer(batch, *options["resolution"]) if layout.has_masks else [None] * len(scenes)
    finally:
        torch.set_num_threads(threads)
    for entry, scene, pixels, own in zip(entries, scenes, pictures, ids, strict=True):
        layout.save(entry, scene, pixels.numpy(), own)
    return entries


def generate(
    out: str | Path,
    split: str,
    num_images: int,
    num_objects: tuple[int, int] = (3, 5),
    *,
    layout: str = "clevr",
    resolution: tuple[int, int] | None = None,
    seed: int = 0,
    batch_size: int = 16,
    workers: int = 0,
    progress: bool = False,
    **look: Any,
) -> Path:
    """Write pictures and their scenes in the layout of CLEVR v1.0 or of CLEVRTex (`data.synthetic.layouts`).

    The same arguments give the same bytes; `batch_size` and `workers` change the speed only. CLEVR's JSON is written last.

    Args:
        split: of CLEVRTex, the variant. num_objects: lowest and highest number of objects, both included.
        layout: clevr or clevrtex; it also says what `look` and `resolution` are where nothing else does.
        resolution: width, height in pixels, even; the view is squashed into any other shape than its own.
        workers: processes to render in, 0 for this one; more than 0 needs a `__main__` guard in the caller's script.
        look: fields of `layouts.Look`: shapes, textures, materials, grounds, two_colours, palettes.

    Returns:
        The path of CLEVR's JSON, or CLEVRTex's folder.

    Raises:
        PlacementError: if so many objects cannot be placed.
        OSError: if `out` cannot be written.
        ValueError: if a count, a resolution, a shape, a texture, ... is not possible.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout}")
    place = LAYOUTS[layout](out, split)
    resolution = resolution or place.resolution
    _check(num_images, num_objects, resolution, seed, batch_size, workers)
    options = {"resolution": resolution, "look": dataclasses.replace(place.look, **look), "seed": seed}
    place.folder.mkdir(parents=True, exist_ok=True)
    write = partial(_write_batch, split=split, layout=place, num_objects=num_objects, options=options)
    batches = [range(i, min(i + batch_size, num_images)) for i in range(0, num_images, batch_size)]
    entries = []
    with (
        multiprocessing.get_context("spawn").Pool(workers) if workers else nullcontext() as pool,
        tqdm(total=num_images, unit="image", disable=not progress) as bar,
    ):
        for part in (pool.imap if pool else map)(write, batches):
            entries += part
            bar.update(len(part))
    return place.finish(entries)


def _check(num_images, num_objects, resolution, seed, batch_size, workers) -> None:
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


def _palettes(text: str) -> Mapping[str, Sequence[str]]:
    if text not in COGENT:
        raise argparse.ArgumentTypeError(f"expected {' or '.join(COGENT)}, got '{text}'")
    return COGENT[text]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m igm.data.synthetic.clevr",
        description="Generate CLEVR-like scenes and pictures in the layout of CLEVR v1.0 or of CLEVRTex.",
    )
    add = parser.add_argument
    add("--out", required=True, default=argparse.SUPPRESS, metavar="DIR", help="dataset root to write")
    add("--layout", default="clevr", choices=list(LAYOUTS), help="of the files, and what scenes look like by default")
    add("--split", help="name of the split (default: val), or variant of CLEVRTex (full); they hold different scenes")
    add("--num_images", type=file_count, default=100, help="number of scenes (default: 100)")
    add("--num_objects", type=_range, default="3-5", metavar="LOW-HIGH", help="objects per scene (default: 3-5)")
    add("--resolution", type=_resolution, metavar="WxH", help="pixels; one number for a square (default: 128; 320x240)")
    for name, known, words in (
        ("shapes", rendering.SHAPES, "of objects"),
        ("textures", rendering.TEXTURES, "of objects"),
        ("materials", rendering.MATERIALS, "of objects"),
        ("grounds", rendering.TEXTURES, "textures of the ground"),
    ):
        defaults = (" ".join(getattr(kind.look, name)) for kind in LAYOUTS.values())
        choices = f"some of {', '.join(known)} (default: {'; '.join(defaults)})"
        add(f"--{name}", nargs="+", default=argparse.SUPPRESS, metavar="NAME", help=f"{words}: {choices}")
    colours = "a texture's other part has a colour of its own, not a darker shade (CLEVRTex: always)"
    add("--two_colours", action="store_true", default=argparse.SUPPRESS, help=colours)
    condition = "colours of cubes and cylinders as in condition A or B of CLEVR-CoGenT (default: any)"
    add("--cogent", dest="palettes", type=_palettes, default=argparse.SUPPRESS, metavar="A|B", help=condition)
    add("--seed", type=seed_number, default=0, help="same seed, same files (default: 0)")
    add(
        "--batch_size", type=positive, default=16, help="scenes rendered together; changes the speed only (default: 16)"
    )
    add("--workers", type=worker_count, help="processes, 0 for this one alone (default: one a core from 200 images on)")
    return parser


def main() -> None:
    """The command line: see --help."""
    parser = _parser()
    # One line for a mistake, without the usage text above it.
    parser.error = lambda message: parser.exit(2, f"error: {message}\n")  # type: ignore[method-assign]
    args = parser.parse_args()
    args.split = LAYOUTS[args.layout].split if args.split is None else args.split
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
