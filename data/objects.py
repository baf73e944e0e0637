"""Pictures with the places and the attributes of their objects: what every such dataset shares."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from igm.data import DataError
from igm.data.dataset import Concepts
from igm.data.looks import diameters, hidden_shares
from igm.data.positions import Index, PositionDataset
from igm.data.text import shown
from igm.data.vocabulary import FIELDS, LONGEST, Vocabulary, encode_object

MOST_COMBINATIONS = 2000  # of values of an object's attributes, which inference prices all


class ObjectDataset(PositionDataset):
    """Pictures whose concepts are positions, or objects with some of their attributes.

    A subclass's index also has, for each of `field_names`, `<field>_codes` of all objects and `<field>_values`, what they
    mean (`attributes_of` makes them), and, where scenes say it, depths and coords of all objects (`igm.data.looks`), NaN
    where unknown; it calls `choose_fields` last in its constructor.

    Attributes:
        vocabulary: the values of each asked field, sorted: of all pictures listed, or of a checkpoint (`speak`).
    """

    options: ClassVar[tuple[str, ...]] = ("fields",)
    vocabulary: Vocabulary = {}

    def field_names(self) -> Sequence[str]:
        """What the files say of objects besides their places, in the order of the blocks."""
        return FIELDS

    def said_of_objects(self) -> str:
        """What there is to choose, for a message."""
        names = ", ".join(self.field_names())
        return (
            f"{names} of its objects; name one" if names else "nothing of its objects but where they are; leave it out"
        )

    def choose_fields(self, fields: Sequence[str]) -> None:
        """Let conditions hold these of `field_names`, or "all".

        Raises:
            DataError: there is no such field, an object lacks one, or their values combine in too many ways.
        """
        known = self.field_names()
        if unknown := [name for name in fields if name not in known and (name != "all" or not known)]:
            raise DataError(f"--fields {unknown[0]}: {self.listing} says {self.said_of_objects()}")
        asked = [name for name in known if name in fields or "all" in fields]
        self.vocabulary = {name: tuple(self.index[f"{name}_values"].tolist()) for name in asked}
        self.check_fields()
        if (ways := math.prod(map(len, self.vocabulary.values()))) > MOST_COMBINATIONS:
            sizes = ", ".join(f"{name} {len(own):,}" for name, own in self.vocabulary.items())
            raise DataError(
                f"{self.listing}: attributes of so many values ({sizes}) combine in {ways:,} ways, "
                f"{MOST_COMBINATIONS:,} are the most; name fewer by --fields, or join rare values"
            )

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

    def occurring(self) -> np.ndarray | None:
        """What objects there are, each kind once, as blocks (N, D - 2); None where every combination of values occurs."""
        objects = np.concatenate(
            [np.arange(own.start, own.stop) for own in map(self.objects_of, range(len(self.rows)))]
        )
        kinds = np.unique(np.stack([self.codes(name)[objects] for name in self.vocabulary], axis=1), axis=0)  # (N, F)
        every = math.prod(map(len, self.vocabulary.values()))
        return encode_object(kinds, self.vocabulary) if len(kinds) < every else None

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
                raise DataError(f"{place}: it has no {name}; write it, or {self.mend_of(name)}")
            value = str(self.index[f"{name}_values"][code])
            raise DataError(
                f"{place}: {name} is {shown(value)}, which {source} does not know (it knows "
                f"{', '.join(self.vocabulary[name])}); train on scenes with it, or {self.mend_of(name)}"
            )

    def looks_of(self, i: int) -> dict[str, list]:
        """How large each object is in the picture, how much of it is hidden (`igm.data.looks`), and where it is in 3-D.

        Nothing for places alone, where the scene does not say all of it, and, in 3-D, for mirror images.
        """
        if not self.vocabulary or "depths" not in self.index:
            return {}
        row = self.row_of(i)
        depths, coords, centres = (self.index[n][self.objects_of(row)] for n in ("depths", "coords", "pixel_coords"))
        if not (np.isfinite(depths) & np.isfinite(coords).all(1)).all():
            return {}
        shapes = ["", *self.index["shape_values"].tolist()]
        shapes = [shapes[code + 1] for code in self.index["shape_codes"][self.objects_of(row)]]
        sizes = diameters(coords[:, 2].astype(float), depths.astype(float), shapes, self.size_of(i)[0])
        hidden = hidden_shares(centres, sizes, depths)
        looks = {"sizes_true": np.round(sizes, 2).tolist(), "hidden_true": np.round(hidden, 4).tolist()}
        return looks if i >= len(self.files) else {**looks, "coords_true": np.round(coords.astype(float), 4).tolist()}

    @staticmethod
    def mend_of(name: str) -> str:
        """How to do without an attribute, for a message."""
        return f"leave {name} out of --fields (an evaluation: --places_only)"

    def facts(self) -> dict[str, Any]:
        """Those of the positions, and the vocabulary where there is one."""
        return super().facts() | ({"vocabulary": dict(self.vocabulary)} if self.vocabulary else {})


def attributes_of(things: Sequence[Mapping[str, Any]], names: Sequence[str] = FIELDS) -> Index:
    """Codes and values of every field of all objects; a value that is no short text counts as absent."""
    found: Index = {}
    for name in names:
        own = [thing.get(name) for thing in things]
        texts = [value if isinstance(value, str) and 0 < len(value) <= LONGEST else None for value in own]
        values = sorted({value for value in texts if value is not None}, key=in_order)
        numbers = {value: number for number, value in enumerate(values)}
        found[f"{name}_codes"] = np.array([-1 if v is None else numbers[v] for v in texts], dtype=np.int64)
        found[f"{name}_values"] = np.array(values, dtype=str).reshape(len(values))
    return found


def in_order(value: str) -> tuple[bool, int, str]:
    """A key that sorts whole numbers by size, before texts."""
    number = value.isdecimal()
    return not number, int(value) if number else 0, value
