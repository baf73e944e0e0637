"""Pictures of one or several animals on varied backgrounds, composed from small drawings (`data/animals/sprites`).

Each animal gets a random drawing of its class, place, size, mirror image, rotation and tint; later ones may hide a part
of earlier ones. The same seed gives the same pictures.

Example:
    python -m igm.data.synthetic.animals --out pairs --classes cat dog rabbit --num_objects 2 --num_images 100 --seed 1
"""

import argparse
import csv
import functools
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from igm.settings import file_count, seed_number, side

SPRITES = Path(__file__).resolve().parent.parent / "animals" / "sprites"
SCALE = (0.42, 0.62)  # longer side of a drawing, as a share of the picture's side
MIN_VISIBLE = 0.7  # of the drawn pixels of every animal
MAX_TURN, MAX_HUE, BRIGHTNESS = 15.0, 0.035, (0.85, 1.1)  # degrees, share of the colour circle, factor
MAX_TRIES = 200


class PlacementError(RuntimeError):
    """The animals do not fit into the picture with enough of each to be seen."""


@functools.cache
def sprites() -> dict[str, list[Image.Image]]:
    """The drawings (RGBA) of every class; a file is named `<class>_<number>.png`."""
    found: dict[str, list[Image.Image]] = {}
    for path in sorted(SPRITES.glob("*.png")):
        found.setdefault(path.stem.rpartition("_")[0].replace("_", " "), []).append(Image.open(path).convert("RGBA"))
    return found


def draw_scene(animals: list[str], resolution: int, rng: np.random.Generator) -> Image.Image:
    """One picture (RGB, square) of the named animals, the last one in front.

    Raises:
        KeyError: a class without drawings.
        PlacementError: no arrangement found that shows enough of each.
    """
    for _ in range(MAX_TRIES):
        layers = [place(vary(sprites()[name], resolution, rng), resolution, rng) for name in animals]
        if all(share >= MIN_VISIBLE for share in visible_shares(layers)):
            break
    else:
        raise PlacementError(f"no room for {len(animals)} animals")
    picture = draw_background(resolution, rng).convert("RGBA")
    for layer in layers:
        picture.alpha_composite(layer)
    return picture.convert("RGB")


def vary(drawings: list[Image.Image], resolution: int, rng: np.random.Generator) -> Image.Image:
    """A random one of a class's drawings, mirrored or not, turned, tinted and scaled."""
    sprite = drawings[rng.integers(len(drawings))]
    if rng.random() < 0.5:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    sprite = tint(sprite, rng.uniform(-MAX_HUE, MAX_HUE), rng.uniform(*BRIGHTNESS))
    factor = resolution * rng.uniform(*SCALE) / max(sprite.size)
    sprite = sprite.rotate(rng.uniform(-MAX_TURN, MAX_TURN), Image.Resampling.BICUBIC, expand=True)
    size = [max(1, round(side * factor)) for side in sprite.size]
    return sprite.resize(size, Image.Resampling.LANCZOS)


def tint(sprite: Image.Image, hue: float, brightness: float) -> Image.Image:
    """Turn the hue by a share of the colour circle and scale the brightness; the outline is kept."""
    pixels = np.array(sprite.convert("RGB").convert("HSV"), dtype=np.float32)  # (H, W, 3)
    pixels[..., 0] = (pixels[..., 0] + 255 * hue) % 255
    pixels[..., 2] = np.clip(pixels[..., 2] * brightness, 0, 255)
    coloured = Image.fromarray(pixels.astype(np.uint8), "HSV").convert("RGB")
    coloured.putalpha(sprite.getchannel("A"))
    return coloured


def place(sprite: Image.Image, resolution: int, rng: np.random.Generator) -> Image.Image:
    """A transparent picture with the drawing at a random place inside it."""
    layer = Image.new("RGBA", (resolution, resolution))
    left, top = (int(rng.integers(max(1, resolution - side + 1))) for side in sprite.size)
    layer.paste(sprite, (left, top))
    return layer


def visible_shares(layers: list[Image.Image]) -> list[float]:
    """The share of each layer's pixels that no later layer hides."""
    drawn = [np.asarray(layer.getchannel("A")) > 127 for layer in layers]
    hidden = np.zeros_like(drawn[0])
    shares = []
    for mask in reversed(drawn):
        shares.append(float((mask & ~hidden).sum() / max(1, mask.sum())))
        hidden |= mask
    return shares[::-1]


def draw_background(resolution: int, rng: np.random.Generator) -> Image.Image:
    """A plain colour, a gradient, stripes, checks or soft noise, between two random colours."""
    first, second = rng.uniform(60, 255, (2, 3))
    x, y = np.meshgrid(np.linspace(0, 1, resolution), np.linspace(0, 1, resolution))
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * x + np.sin(angle) * y  # (R, R)
    kind = rng.integers(5)
    if kind == 0:
        share = np.zeros_like(along)
    elif kind == 1:
        share = (along - along.min()) / np.ptp(along)
    elif kind == 2:
        share = 0.25 + 0.25 * np.sin(2 * np.pi * rng.uniform(2, 5) * along)
    elif kind == 3:
        cells = rng.integers(3, 8)
        share = 0.4 * ((np.floor(x * cells) + np.floor(y * cells)) % 2)
    else:
        coarse = Image.fromarray(rng.uniform(0, 255, (5, 5)).astype(np.uint8))
        share = np.asarray(coarse.resize((resolution, resolution), Image.Resampling.BICUBIC)) / 255
    share = np.clip(share, 0, 1)[..., None]
    grain = rng.normal(0, rng.uniform(0, 6), (resolution, resolution, 1))
    pixels = first * (1 - share) + second * share + grain  # (R, R, 3)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def scenes(num_images: int, classes: list[str], num_objects: tuple[int, int], resolution: int, seed: int):
    """Yield (picture, its animals); the classes of a picture differ, and picture i does not depend on `num_images`."""
    for number in range(num_images):
        rng = np.random.default_rng((seed, number))
        count = int(rng.integers(num_objects[0], num_objects[1] + 1))
        animals = [classes[i] for i in rng.permutation(len(classes))[:count]]
        yield draw_scene(animals, resolution, rng), animals


def generate(
    out: str | Path, num_images: int, classes: list[str], num_objects: tuple[int, int], resolution: int, seed: int = 0
) -> Path:
    """Write pictures (JPEG) and `metadata.csv` (file_name, labels) into a folder; return the folder.

    Raises:
        ValueError: a class without drawings, a class twice, or more animals than classes.
        PlacementError: the animals do not fit.
    """
    unknown = [name for name in classes if name not in sprites()]
    if unknown:
        raise ValueError(f"classes: there is no drawing of {', '.join(unknown)}; choose from {', '.join(sprites())}")
    if len(set(classes)) < len(classes):
        raise ValueError("classes: a class is named twice; name each once")
    if not 1 <= num_objects[0] <= num_objects[1] <= len(classes):
        low, high = num_objects
        raise ValueError(f"num_objects {low}-{high}: must lie between 1 and the {len(classes)} classes")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["file_name", "labels"])
        for number, (picture, animals) in enumerate(scenes(num_images, classes, num_objects, resolution, seed)):
            name = "_".join([*(a.replace(" ", "-") for a in sorted(animals)), f"{number:03d}.jpg"])
            picture.save(out / name, quality=92)
            table.writerow([name, ";".join(sorted(animals))])
    return out


def _range(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    try:
        return int(low), int(high or low)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a count such as 2 or a range such as 1-3, got '{text}'") from None


def main() -> None:
    """The command line: see --help."""
    parser = argparse.ArgumentParser(
        prog="python -m igm.data.synthetic.animals",
        description="Generate pictures of animals with their labels.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--out", required=True, default=argparse.SUPPRESS, metavar="DIR", help="folder to write")
    add("--num_images", type=file_count, default=100, help="number of pictures")
    add("--classes", nargs="+", default=["cat", "dog", "rabbit"], help=f"some of {', '.join(sprites())}")
    add(
        "--num_objects", type=_range, default="2", metavar="LOW-HIGH", help="animals per picture, each of another class"
    )
    add("--resolution", type=side, default=96, help="side in pixels")
    add("--seed", type=seed_number, default=0, help="same seed, same files")
    # One line for a mistake, without the usage text above it.
    parser.error = lambda message: parser.exit(2, f"error: {message}\n")  # type: ignore[method-assign]
    args = parser.parse_args()
    if args.num_images < 1 or args.resolution < 16:
        parser.error("--num_images must be at least 1 and --resolution at least 16")
    try:
        folder = generate(**vars(args))
    except ValueError as error:
        parser.error(f"--{error}")
    except PlacementError as error:
        parser.error(f"--num_objects: {error}; ask for fewer")
    except OSError as error:
        parser.error(f"--out {args.out} cannot be written ({error.strerror}); name a folder you may write to")
    print(f"{args.num_images} pictures in {folder}", file=sys.stderr)


if __name__ == "__main__":
    main()
