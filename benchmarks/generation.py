"""How much of what is asked for is found again in what a scene model generates, by its own inference or its partner's.

Places are drawn within the bounds of the training scenes and at their separation, attributes evenly. `elsewhere` looks for
other places in the same pictures: what would be found by chance.

Example:
    python benchmarks/generation.py --checkpoint clevr-scene-mini --num_images 16
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from igm import UserError
from igm.api import PictureModel, load_model
from igm.cli.launch import run
from igm.cli.options import Parser, take
from igm.facts import Facts
from igm.figures.grid import save_image_grid
from igm.generation import SamplingSettings
from igm.kinds import KINDS
from igm.settings import Settings, int_range, path, positive, setting

SEED = 7  # of what is asked for


@dataclass(frozen=True, kw_only=True)
class AskedScenes(Settings):
    """Which scenes are asked for."""

    checkpoint: str = setting("clevr-scene-mini", "shipped name, or folder")
    object_counts: tuple = setting(((3, 5), (6, 8)), "a group each", kind=int_range, nargs="+")
    num_images: int = setting(16, "scenes of a group, a picture each", kind=positive)
    out: str | None = setting(None, "folder of the grids", kind=path)


def draw_places(rng: np.random.Generator, number: int, facts: Facts) -> list[tuple[float, float]]:
    """Places (K, 2) as training scenes have them."""
    left, top, right, bottom = facts.bounds or (0.1, 0.1, 0.9, 0.9)
    while True:
        places = rng.uniform((left, top), (right, bottom), (number, 2))
        apart = np.linalg.norm(places[:, None] - places[None], axis=2) + np.eye(number)
        if apart.min() >= (facts.min_separation or 0):
            return [(float(x), float(y)) for x, y in places]


def draw_concepts(rng: np.random.Generator, places: list[tuple[float, float]], facts: Facts) -> list[Any]:
    """Objects at places, with attributes where the model knows any."""
    vocabulary = facts.vocabulary
    if not vocabulary:
        return list(places)
    return [
        {"position": place, **{name: own[rng.integers(len(own))] for name, own in vocabulary.items()}}
        for place in places
    ]


def measure(model: Any, counts: tuple[int, int], number: int, sampling: dict[str, Any]) -> tuple[str, list[Any]]:
    """A line for a group, and its pictures."""
    facts, kind = model.model.facts, model.asks[0]
    rng, pictures, (low, high) = np.random.default_rng(SEED), [], counts
    found, whole, elsewhere, of, right = 0, 0, 0, 0, 0
    for i in range(number):
        k = low + i % (high - low + 1)
        concepts = draw_concepts(rng, draw_places(rng, k, facts), facts)
        other = draw_places(rng, k, facts)
        pictures += model.generate(**{kind: concepts}, **{**sampling, "seed": sampling["seed"] + i})
        again = model.find_again(pictures[-1:], **{kind: concepts})
        elsewhere += KINDS["positions"].find_again(model.reader, pictures[-1:], other).found
        found, whole, of = found + again.found, whole + (again.whole or 0), of + again.of
        right += model.reader(pictures[-1]).count == k
    attributes = f", all attributes {100 * whole / of:.1f} %" if facts.vocabulary else ""
    line = f"{low}-{high}: found again {100 * found / of:.1f} % of {of}{attributes}, elsewhere {100 * elsewhere / of:.1f} %"
    return f"{line}, number right {right} of {number}", pictures


def read_options(doc: str | None, kind: type[Settings]) -> tuple[Any, dict[str, Any], PictureModel]:
    """What a command says of scenes, as `kind` has it, and of sampling, and the model that it names."""
    parser = Parser(doc)
    parser.add("scenes", kind)
    parser.add("sampling", SamplingSettings)
    options = parser.read()
    asked: Any = take(options, kind)
    model = load_model(asked.checkpoint)
    if "positions" not in model.asks:
        raise UserError(f"--checkpoint {asked.checkpoint} is for {model.task}; name one for scenes")
    return asked, dataclasses.asdict(take(options, SamplingSettings)), model


def main() -> None:
    """Print a line for each group."""
    asked, sampling, model = read_options(__doc__, AskedScenes)
    for counts in asked.object_counts:
        line, pictures = measure(model, counts, asked.num_images, sampling)
        print(line, flush=True)
        if asked.out:
            rows = [pictures[k : k + 8] for k in range(0, len(pictures), 8)]
            save_image_grid(rows, Path(asked.out) / f"{counts[0]}-{counts[1]}.png")


if __name__ == "__main__":
    run(main)
