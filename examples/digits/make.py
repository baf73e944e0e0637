"""Pictures of handwritten digits, where they are and which: one to three to train on, four and five to be understood.

Examples:
    python examples/digits/make.py --out digits
    python examples/digits/make.py --out digits --num_train 100 --num_val 10 --num_test 10 --seed 1

The digits are those of scikit-learn (8x8 pixels, UCI's "Optical recognition of handwritten digits"); train, val and test
draw from different ones. Each folder's `metadata.jsonl` has a row for each picture.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

SIDE, SIZE = 64, 16  # of a picture, and of a digit in it, in pixels
COUNTS = {"train": (1, 3), "val": (1, 3), "test": (4, 5)}
SHARES = {"train": (0.0, 0.8), "val": (0.8, 0.9), "test": (0.9, 1.0)}  # of scikit-learn's digits
APART = 14  # least distance of two centres in x or in y, in pixels: digits may touch
TRIES = 1000  # places drawn before a picture is begun again


def draw_places(rng: np.random.Generator, count: int) -> np.ndarray:
    """Upper left corners (count, 2) of digits that lie in the picture, apart from each other."""
    while True:
        corners: list[np.ndarray] = []
        for _ in range(TRIES):
            corner = rng.integers(0, SIDE - SIZE + 1, 2)
            if all(np.abs(corner - other).max() >= APART for other in corners):
                corners.append(corner)
            if len(corners) == count:
                return np.array(corners)


def draw_picture(rng: np.random.Generator, digits: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """A picture (SIDE, SIDE, 3) of digits (K, 8, 8) in [0, 16], light ink of a shade of its own on dark paper."""
    picture = np.full((SIDE, SIDE, 3), rng.uniform(10, 60))
    for digit, (x, y) in zip(digits, corners, strict=True):
        ink = np.asarray(
            Image.fromarray((digit * 15.9).astype(np.uint8)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        )
        share = ink[..., None] / 255
        place = picture[y : y + SIZE, x : x + SIZE]
        place[:] = (1 - share) * place + share * rng.uniform(150, 255)
    return picture.round().astype(np.uint8)


def write_split(folder: Path, number: int, split: str, images: np.ndarray, names: np.ndarray, seed: int) -> None:
    """Write pictures of one split, and the rows that say where their digits are."""
    folder.mkdir(parents=True)
    first, last = (int(share * len(images)) for share in SHARES[split])
    rows = []
    for i in range(number):
        rng = np.random.default_rng([seed, list(COUNTS).index(split), i])
        chosen = rng.integers(first, last, rng.integers(COUNTS[split][0], COUNTS[split][1] + 1))
        corners = draw_places(rng, len(chosen))
        Image.fromarray(draw_picture(rng, images[chosen], corners)).save(folder / f"{i:05d}.png")
        points = (corners + SIZE / 2).tolist()
        rows.append({"file_name": f"{i:05d}.png", "points": points, "digit": names[chosen].tolist()})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def main() -> None:
    """Write the three splits."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write; it must not exist")
    for split, number in {"train": 6000, "val": 200, "test": 200}.items():
        parser.add_argument(f"--num_{split}", type=int, default=number, help="pictures (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same pictures")
    options = parser.parse_args()
    if options.out.exists():
        parser.exit(2, f"error: --out {options.out} exists; choose another\n")
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        parser.exit(2, "error: the digits are scikit-learn's; pip install scikit-learn\n")
    digits = load_digits()
    for split in COUNTS:
        number = getattr(options, f"num_{split}")
        write_split(options.out / split, number, split, digits.images, digits.target, options.seed)
    print(
        f"{options.out}: {options.num_train} pictures to train on, {options.num_val} and {options.num_test} to test on"
    )


if __name__ == "__main__":
    main()
