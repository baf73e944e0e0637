"""Pictures with the values of binary attributes: what every such dataset shares, whatever its files look like."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from igm.data import DataError
from igm.data.dataset import Concepts, ImageDataset
from igm.encoding import one_hot

DOMAINS = {"female": -1, "male": 1}  # the value of Male


class AttributeDataset(ImageDataset):
    """Pictures whose concepts are the values of attributes.

    A subclass sets in its constructor: `attributes`, K names; `values` (N, K), 0 or 1, of the pictures that were admitted;
    `joint`, whether all are one concept.
    """

    attributes: tuple[str, ...]
    values: np.ndarray
    joint: bool = False

    def concepts(self, row: int, mirrored: bool) -> Concepts:
        """`conds` (K, 2 K), or (1, 2 K) where they are joint, and `mask` of a picture or its mirror image."""
        conds = one_hot(torch.from_numpy(self.values[row]))  # (K, 2 K)
        if self.joint:
            conds = conds.sum(0, keepdim=True)  # (1, 2 K)
        return {"conds": conds, "mask": torch.ones(len(conds))}

    def facts(self) -> dict[str, Any]:
        """Facts about the training data that inference uses: names of the attributes and how often each is 1."""
        shares = [round(float(share), 4) for share in self.values.mean(0)]
        return {"attributes": list(self.attributes), "frequencies": shares}

    def constant_attributes(self) -> list[str]:
        """Attributes that have one value only in these rows: nothing can be learnt about the other."""
        varies = self.values.min(0) != self.values.max(0)
        return [name for name, v in zip(self.attributes, varies, strict=True) if not v]

    def doubts(self) -> list[str]:
        """Attributes about which nothing can be learnt here."""
        where = f"one value only in the {len(self):,} training rows; nothing can be learnt about it"
        return [f"attribute {name} has {where}" for name in self.constant_attributes()]


def choose_columns(attributes: Sequence[str] | str, names: Sequence[str], path: Path) -> list[int]:
    """Columns of the attributes asked for.

    Raises:
        DataError: one is unknown or named twice; the nearest name is suggested.
    """
    if attributes == "all" or list(attributes) == ["all"]:
        return list(range(len(names)))
    for name in attributes:
        if name not in names:
            near = difflib.get_close_matches(name.lower(), [n.lower() for n in names], 1, cutoff=0.0)
            suggestion = next(n for n in names if n.lower() == near[0])
            raise DataError(f"--attributes {name} is not in {path}; did you mean {suggestion}?")
    if len(set(attributes)) != len(attributes):
        raise DataError(f"--attributes {' '.join(attributes)} names one twice; name each once")
    return [names.index(name) for name in attributes]
