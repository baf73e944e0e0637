"""How far a scene model's pictures of real scenes are from real pictures: the kernel distance (KID) of features.

The objects of half of the pictures are asked for, and the other half is what they are compared with. Beside what the model
generates stand the asked pictures themselves (0 but for chance) and what its codec makes of them. Features are those of a
frozen EfficientNet-Lite0 (extra `imagenet`), averaged over the picture, in units of
their root mean square over real ones.

Example:
    python benchmarks/generation_fidelity.py --dataset_root DIR --checkpoint clevr-scene-mini --num_images 100
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from generation import read_options
from PIL import Image

from igm import UserError
from igm.baselines.imagenet_slots import load_efficientnet
from igm.cli.launch import run
from igm.data.clevr import Clevr
from igm.data.vocabulary import decode_objects
from igm.evaluation.table import align
from igm.figures.style import as_pil
from igm.settings import Settings, int_range, path, positive, setting
from igm.statistics import kernel_distance

SIDE = 224  # pictures are enlarged to what the frozen network was trained on


@dataclass(frozen=True, kw_only=True)
class ComparedScenes(Settings):
    """Which scenes are asked for and compared with."""

    dataset_root: str = setting(None, "folder in CLEVR's layout", kind=path)
    checkpoint: str = setting("clevr-scene-mini", "shipped name, or folder")
    object_counts: tuple[int, int] = setting((3, 5), "objects of a scene", kind=int_range)
    num_images: int = setting(100, "scenes that are asked for, and as many to compare with", kind=positive)


def asked_of(model: Any, item: dict[str, torch.Tensor]) -> list[Any]:
    """The objects of a scene as the model is asked for them."""
    conds = item["conds"][item["mask"] > 0]
    places = [(float(x), float(y)) for x, y in conds[:, :2]]
    vocabulary = model.model.facts.vocabulary
    if not vocabulary:
        return places
    known = decode_objects(conds, vocabulary)
    return [{"position": place, **own} for place, own in zip(places, known, strict=True)]


@torch.no_grad()
def features_of(network: torch.nn.Module, pictures: list[Image.Image]) -> np.ndarray:
    """Features (N, F) of pictures."""
    found = []
    for picture in pictures:
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
        found.append(network(F.interpolate(pixels, size=(SIDE, SIDE), mode="bicubic")).mean((1, 2))[0])
    return torch.stack(found).numpy()


def main() -> None:
    """Print a line for the asked pictures, their codec's, and the generated ones."""
    scenes, sampling, model = read_options(__doc__, ComparedScenes)
    if scenes.dataset_root is None:
        raise UserError("--dataset_root is missing; name a folder in CLEVR's layout")
    network = load_efficientnet()
    fields = ("all",) if model.model.facts.vocabulary else ("position",)
    both = 2 * scenes.num_images
    dataset = Clevr(
        scenes.dataset_root, "val", scenes.object_counts, model.model.resolution, max_images=both, fields=fields
    )
    if len(dataset) < both:
        raise UserError(f"--num_images {scenes.num_images}: {both} scenes are needed, and there are {len(dataset)}")
    items = [dataset[i] for i in range(both)]
    asked, other = items[::2], items[1::2]
    pixels = torch.stack([item["pixel_values"] for item in asked])
    (kind, *_), made = model.asks, []
    for i, item in enumerate(asked):
        made += model.generate(**{kind: asked_of(model, item)}, **{**sampling, "seed": sampling["seed"] + i})
    with torch.no_grad():
        decoded = model.model.decode(model.model.encode(pixels)[0]).clamp(-1, 1)
    compared = features_of(network, [as_pil(item["pixel_values"]) for item in other])
    rows = {"real": map(as_pil, pixels), "codec": map(as_pil, decoded), "generated": made}
    scale = np.sqrt(np.mean(compared**2))
    distances = [kernel_distance(compared / scale, features_of(network, list(own)) / scale) for own in rows.values()]
    print(align([("pictures", list(rows)), ("kernel distance x 1000", [f"{1000 * own:.2f}" for own in distances])]))


if __name__ == "__main__":
    run(main)
