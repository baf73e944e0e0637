"""Pictures with the centres of their objects: what every such dataset shares, whatever its files look like."""

from typing import Any

import numpy as np
import torch

from igm import warn
from igm.data import DataError
from igm.data.dataset import Concepts, ImageDataset

MANY_OBJECTS = 100  # of so many, some lie in the lower or the right quarter of their pictures
Index = dict[str, np.ndarray]


class PositionDataset(ImageDataset):
    """Pictures whose concepts are the positions of their objects.

    A subclass sets in its constructor: `max_objects`, the largest number of objects that it takes; `index`, of all pictures
    that its files list, counts (S,), starts (S,) and pixel_coords (sum of counts, 2) in pixels of the upright picture;
    `rows` (N,), which of them were admitted; `listing`, the file; and then calls `check_positions`.
    """

    points_name = "points"  # what the files call the positions
    max_objects: int
    index: Index
    rows: np.ndarray
    listing: Any

    def place_of(self, row: int) -> str:
        """Where picture `row` (of those admitted) is listed, for a message."""
        return f"{self.listing}, picture {self.rows[row] + 1}"

    def concepts(self, row: int, mirrored: bool) -> Concepts:
        """`conds` (K, 2), the centres, and `mask` (K,) of a picture or its mirror image."""
        positions = self.positions(row)  # (count, 2)
        if mirrored:
            positions = np.stack([1 - positions[:, 0], positions[:, 1]], axis=1)
        conds = torch.zeros(self.max_objects, 2)
        conds[: len(positions)] = torch.from_numpy(positions)
        return {"conds": conds, "mask": (torch.arange(self.max_objects) < len(positions)).float()}

    def positions(self, row: int) -> np.ndarray:
        """Centres (count, 2) of a picture's objects, in [0, 1] of the square."""
        pixels = self.index["pixel_coords"][self.objects_of(row)]
        box = np.array(self.box_of(row), dtype=np.float32)
        return (pixels - box[:2]) / box[2:]

    def objects_of(self, row: int) -> slice:
        """The rows of the index that are a picture's objects."""
        start, count = (self.index[name][self.rows[row]] for name in ("starts", "counts"))
        return slice(start, start + count)

    def check_positions(self) -> None:
        """Raise DataError if an object lies outside its picture, or outside the part of it that is shown."""
        counts = self.index["counts"][self.rows]  # (N,)
        scene = np.repeat(np.arange(len(self.rows)), counts)  # (objects,) number of the scene of each object
        within = np.arange(len(scene)) - np.repeat(np.cumsum(counts) - counts, counts)  # its place in the scene
        pixels = self.index["pixel_coords"][self.index["starts"][self.rows][scene] + within]  # (objects, 2)
        outside = np.flatnonzero(((pixels < 0) | (pixels > self.sizes[scene])).any(axis=1))
        if len(outside):
            row = scene[outside[0]]
            x, y = pixels[outside[0]]
            width, height = self.sizes[row]
            raise DataError(
                f"{self.place_of(int(row))}: an object at x = {x:g}, y = {y:g} lies outside its "
                f"picture {self.path_of(int(row))} of {width:g} x {height:g} pixels; give {self.points_name} in pixels of "
                "this size, or the pictures in their first size"
            )
        largest = (pixels / self.sizes[scene]).max(initial=0)
        if len(pixels) >= MANY_OBJECTS and largest < 0.75:
            warn(
                f"{self.listing}: all {len(pixels)} objects lie in the upper left part of their pictures, up to "
                f"{largest:.2f} of the sides; are {self.points_name} those of smaller pictures?"
            )
        if self.fit_of(self.resolution) == "crop":
            for row in range(len(self.rows)):
                shown_part = self.positions(row)
                if ((shown_part < 0) | (shown_part > 1)).any():
                    raise DataError(f"--fit crop cuts an object off {self.path_of(row)}; choose squeeze or pad")

    def facts(self) -> dict[str, Any]:
        """Facts about the positions that inference uses.

        Returns:
            num_objects: [fewest, most]; bounds: [left, top, right, bottom] of all centres, where they differ in x and in
            y; min_separation: how near two centres come in 1 % of the scenes; all in [0, 1] coordinates.
        """
        scenes = [(labels["conds"], labels["mask"] > 0) for labels in map(self.annotation, range(len(self.rows)))]
        points = [conds[real, :2] for conds, real in scenes]
        every = torch.cat(points)
        nearest = torch.tensor([torch.pdist(p).min() for p in points if len(p) > 1] or [0.0])
        counts = [len(p) for p in points]
        left, top, right, bottom = (round(b, 4) for b in torch.cat([every.amin(0), every.amax(0)]).tolist())
        return {
            "num_objects": [min(counts), max(counts)],
            **({"bounds": [left, top, right, bottom]} if left < right and top < bottom else {}),
            "min_separation": round(nearest.quantile(0.01).item(), 4),
        }
