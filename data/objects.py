"""Pictures with the places and the attributes of their objects: what every such dataset shares."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from igm.data import DataError
from igm.data.dataset import Concepts
from igm.data.looks import diameters, hidden_shares
from igm.data.positions import Index, PositionDataset
from igm.data.text import shown
from igm.data.vocabulary import FIELDS, Vocabulary, encode_object


class ObjectDataset(PositionDataset):
    """Pictures whose concepts are positions, or objects with some of their attributes.

    A subclass's index also has depths and coords of all objects (`igm.data.looks`), NaN where unknown, and, for each of
    FIELDS, `<field>_codes` of all objects and `<field>_values`, what they mean (`attributes_of` makes them);
    it calls `choose_fields` last in its constructor.

    Attributes:
        vocabulary: the values of each asked field, sorted: of all pictures listed, or of a checkpoint (`speak`).
    """

    options: ClassVar[tuple[str, ...]] = ("fields",)
    vocabulary: Vocabulary = {}

    def choose_fields(self, fields: Sequence[str]) -> None:
        """Let conditions hold these of FIELDS, or "all".

        Raises:
            DataError: an object lacks one.
        """
        asked = [name for name in FIELDS if name in fields or "all" in fields]
        self.vocabulary = {name: tuple(self.index[f"{name}_values"].tolist()) for name in asked}
        self.check_fields()

    def speak(self, vocabulary: Vocabulary, source: str) -> None:
        """Number the attributes as a checkpoint does; fields that it does not know are left out.

        Raises:
            DataError: an object has a value that the vocabulary lacks, or none of a field.
        """
        self.vocabulary = dict(vocabulary)
        self.check_fields(source)

    def concepts(self, row: int, mirrored: bool) -> Concepts:
        """`conds` (K, D), of centres and attributes, and `mask` (K,) of a picture or its mirror image."""
        found = super().concepts(row, mirrored)
        if self.vocabulary:
            codes = np.stack([self.codes(name)[self.objects_of(row)] for name in self.vocabulary], axis=1)
            what = torch.zeros(self.max_objects, sum(map(len, self.vocabulary.values())))
            what[: len(codes)] = torch.from_numpy(encode_object(codes, self.vocabulary))
            found["conds"] = torch.cat([found["conds"], what], dim=1)  # (K, D)
        return found

    def codes(self, name: str) -> np.ndarray:
        """The number in the vocabulary of every object's value of a field."""
        own = self.index[f"{name}_values"].tolist()
        if tuple(own) == self.vocabulary[name]:
            return self.index[f"{name}_codes"]
        known = {value: number for number, value in enumerate(self.vocabulary[name])}
        return np.array([known.get(value, -1) for value in own] + [-1])[self.index[f"{name}_codes"]]

    def check_fields(self, source: str = "") -> None:
        """Raise DataError if an object of these pictures lacks an asked field, or a value is not in the vocabulary."""
        for name in self.vocabulary:
            codes = self.codes(name)
            unknown = next((row for row in range(len(self.rows)) if (codes[self.objects_of(row)] < 0).any()), None)
            if unknown is None:
                continue
            objects = self.objects_of(unknown)
            number = int((codes[objects] < 0).argmax())
            place = f"{self.place_of(unknown)}, object {number + 1}"
            code = int(self.index[f"{name}_codes"][objects][number])
            if code < 0:
                raise DataError(f"{place}: it has no {name}; write it, or leave {name} out of --fields")
            value = str(self.index[f"{name}_values"][code])
            raise DataError(
                f"{place}: {name} is {shown(value)}, which {source} does not know (it knows "
                f"{', '.join(self.vocabulary[name])}); train on scenes with it, or leave {name} out of --fields"
            )

    def looks_of(self, i: int) -> dict[str, list]:
        """How large each object is in the picture, how much of it is hidden (`igm.data.looks`), and where it is in 3-D.

        Nothing for places alone, where the scene does not say all of it, and, in 3-D, for mirror images.
        """
        row = self.row_of(i)
        depths, coords, centres = (self.index[n][self.objects_of(row)] for n in ("depths", "coords", "pixel_coords"))
        if not self.vocabulary or not (np.isfinite(depths) & np.isfinite(coords).all(1)).all():
            return {}
        shapes = ["", *self.index["shape_values"].tolist()]
        shapes = [shapes[code + 1] for code in self.index["shape_codes"][self.objects_of(row)]]
        sizes = diameters(coords[:, 2].astype(float), depths.astype(float), shapes, self.size_of(i)[0])
        hidden = hidden_shares(centres, sizes, depths)
        looks = {"sizes_true": np.round(sizes, 2).tolist(), "hidden_true": np.round(hidden, 4).tolist()}
        return looks if i >= len(self.files) else {**looks, "coords_true": np.round(coords.astype(float), 4).tolist()}

    def facts(self) -> dict[str, Any]:
        """Those of the positions, and the vocabulary where there is one."""
        return super().facts() | ({"vocabulary": dict(self.vocabulary)} if self.vocabulary else {})


def attributes_of(things: Sequence[dict[str, Any]]) -> Index:
    """Codes and values of every field of all objects; a value that is no short text counts as absent."""
    found: Index = {}
    for name in FIELDS:
        own = [thing.get(name) for thing in things]
        texts = [value if isinstance(value, str) and 0 < len(value) <= 100 else None for value in own]
        values = sorted({value for value in texts if value is not None})
        numbers = {value: number for number, value in enumerate(values)}
        found[f"{name}_codes"] = np.array([-1 if v is None else numbers[v] for v in texts], dtype=np.int64)
        found[f"{name}_values"] = np.array(values, dtype=str).reshape(len(values))
    return found
