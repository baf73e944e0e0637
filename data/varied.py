"""Scenes kept in memory, some of them varied each time they are read: other colours, other framings.

A network that has seen these finds objects in pictures of other cameras and generators, too; see the card of clevr-mini.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from igm.data.dataset import Item
from igm.data.framing import Frame, cut
from igm.data.images import decode_image, squeezed, to_range
from igm.data.objects import ObjectDataset
from igm.data.positions import PositionDataset
from igm.data.vocabulary import Vocabulary, blocks, forget, mistake


@dataclass(frozen=True)
class Variation:
    """How a picture may be varied.

    share: of the pictures. hue: largest rotation of the colours around grey, radians; saturation: least and most factor of
    what distinguishes a colour from the grey of its brightness; gain, offset: standard deviations of each colour channel's
    factor (its logarithm) and addition, in [0, 1] values. frame: least and most width and height of the new frame in units
    of the old one; beyond the border the picture's edge is repeated. margin: least distance of a centre from the new
    frame's border, in units of the frame.
    """

    share: float = 0.25
    hue: float = np.pi
    saturation: tuple[float, float] = (0.3, 1.3)
    gain: float = 0.1
    offset: float = 0.05
    frame: tuple[float, float] = (0.7, 1.2)
    margin: float = 0.06


@dataclass(frozen=True)
class Forgetting:
    """How often the attributes of objects are made unknown: all of a picture's, or, where there are several, each block."""

    whole: float = 0.3
    block: float = 0.25


COLOURS, SIZES = ("color", "colour"), ("size",)  # attributes that a new look takes the names of
ENLARGED = 0.7  # area of a frame, in the picture's, below which a small object may look like a large one
NOTHING = Forgetting(0, 0)  # for networks that are to say what an object is, and are not told


class VariedScenes(torch.utils.data.Dataset):
    """A dataset whose pictures were all decoded once, and can be varied: `varied` draws a variation, indexing gives none.

    Where its conditions hold attributes, `varied` makes some unknown (`Forgetting`), and the colour where it changed it;
    with attributes that are `mistaken`, its items also have `mistaken` (K, D): each object with one wrong value of these.

    Memory: 3 bytes per pixel of the files, and of the resized pictures (520 MB for 6,000 of 192x128).
    """

    def __init__(
        self,
        dataset: PositionDataset,
        variation: Variation,
        forgetting: Forgetting | None = None,
        *,
        mistaken: Sequence[str] = (),
    ):
        self.dataset, self.variation, self.forgetting = dataset, variation, forgetting or Forgetting()
        self.vocabulary: Vocabulary = getattr(dataset, "vocabulary", {})
        self.mistaken = mistaken
        self.occurring = dataset.occurring() if isinstance(dataset, ObjectDataset) and mistaken else None
        self.num_skipped, self.resolution = dataset.num_skipped, dataset.resolution
        paths = [dataset.path_of(i) for i in range(len(dataset.files))]
        self.pictures = [np.array(decode_image(path)) for path in paths]  # (H, W, 3) uint8 each
        self.small = [squeezed(picture, dataset.resolution) for picture in self.pictures]
        self.annotations: dict[int, Item] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def annotation(self, i: int) -> Item:
        """That of the dataset, read once: its tensors are shared by all that is asked of item i."""
        if i not in self.annotations:
            self.annotations[i] = self.dataset.annotation(i)
        return {**self.annotations[i]}

    def path_of(self, i: int) -> Path:
        """File of item i."""
        return self.dataset.path_of(i)

    def size_of(self, i: int) -> tuple[int, int]:
        """Of the picture as it is."""
        return self.dataset.size_of(i)

    def box_of(self, i: int) -> tuple[float, float, float, float]:
        """Of the picture as it is."""
        return self.dataset.box_of(i)

    def fingerprint(self) -> str:
        """That of the scenes: what indexing gives."""
        return self.dataset.fingerprint()

    def facts(self) -> dict[str, Any]:
        """Those of the scenes as they are."""
        return self.dataset.facts()

    def __getitem__(self, i: int) -> Item:
        pixels = to_range(self.small[i % len(self.small)])
        return {"pixel_values": pixels.flip(-1) if i >= len(self.small) else pixels, **self.annotation(i)}

    def varied(self, i: int, rng: np.random.Generator) -> Item:
        """Item i, perhaps varied; what is drawn depends on `rng` alone."""
        item = self.with_new_look(i, rng) if rng.random() < self.variation.share else self[i]
        if self.vocabulary:
            block = self.forgetting.block if len(self.vocabulary) > 1 else 0.0
            item["conds"] = forget(item["conds"], self.vocabulary, rng, self.forgetting.whole, block)
            if self.mistaken:
                item["mistaken"] = mistake(item["conds"], self.vocabulary, rng, self.mistaken, self.occurring)
        return item

    def with_new_look(self, i: int, rng: np.random.Generator) -> Item:
        """Item i with other colours, perhaps framed anew."""
        v = self.variation
        labels, picture = self.annotation(i), self.pictures[i % len(self.pictures)]
        picture = picture[:, ::-1] if i >= len(self.pictures) else picture
        real = labels["mask"] > 0
        points = labels["conds"][real, :2]  # (K, 2)
        frame = draw_frame(rng, points.numpy(), v, *picture.shape[:2]) if rng.random() < 0.5 else Frame()
        pixels = to_range(squeezed(cut(picture, frame), self.resolution))
        conds = labels["conds"].clone()
        conds[: len(points), :2] = frame.inside(points)
        pixels, recoloured = change_colours(pixels, rng, v)
        lost = (COLOURS if recoloured else ()) + (SIZES if frame.width * frame.height < ENLARGED else ())
        for name, block in blocks(self.vocabulary):
            if name in lost:
                conds[:, block] = 0  # nobody knows what it is called now
        return {**labels, "conds": conds, "pixel_values": pixels}


def draw_frame(rng: np.random.Generator, points: np.ndarray, v: Variation, height: int, width: int) -> Frame:
    """A frame of whole pixels of a picture that holds all points (K, 2), by a margin."""
    starts, sizes = [], []
    for low, high in zip(points.min(0), points.max(0), strict=True):
        size = max(rng.uniform(*v.frame), (high - low) / (1 - 2 * v.margin))
        first, last = high - (1 - v.margin) * size, low - v.margin * size  # bounds of the frame's start
        starts.append(first + rng.random() * max(0.0, last - first))
        sizes.append(size)
    box = zip((*starts, *sizes), (width, height, width, height), strict=True)
    return Frame(*(round(float(part) * pixels) / pixels for part, pixels in box))


def change_colours(pixels: torch.Tensor, rng: np.random.Generator, v: Variation) -> tuple[torch.Tensor, bool]:
    """Rotate the colours (3, R, R) in [-1, 1] around grey and make them paler or stronger, half of the time; then scale
    and shift each channel. Also returns whether the colours are others now."""
    recoloured = rng.random() < 0.5
    angle, saturation = (rng.uniform(-v.hue, v.hue), rng.uniform(*v.saturation)) if recoloured else (0.0, 1.0)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)  # rotation about (1, 1, 1): Rodrigues' formula
    rotation = np.eye(3) * np.cos(angle) + cross * np.sin(angle) + (1 - np.cos(angle)) / 3
    turned = saturation * rotation + (1 - saturation) / 3  # grey, the mean of the channels, stays as it is
    factors = np.exp(v.gain * rng.standard_normal(3))
    matrix = torch.from_numpy((factors[:, None] * turned).astype(np.float32))
    shift = torch.from_numpy((2 * v.offset * rng.standard_normal(3)).astype(np.float32))
    mixed = torch.einsum("ij,jhw->ihw", matrix, pixels + 1) - 1 + shift[:, None, None]
    return mixed.clamp_(-1, 1), recoloured
