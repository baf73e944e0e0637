"""Options for some datasets; the others refuse them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igm.data import DataError, find_dataset
from igm.data.vocabulary import FIELDS
from igm.settings import Settings, setting, share

FOLDERS = "labels of one's own (metadata.jsonl, metadata.csv, COCO)"
OWN = {"val_share": FOLDERS, "coordinates": FOLDERS, "fields": "scenes whose objects have attributes (CLEVR)"}


@dataclass(frozen=True, kw_only=True)
class FolderLabels(Settings):
    """What a folder with labels of one's own can be told."""

    val_share: float | None = setting(
        None, "own labels without a split: share of the pictures for validation (default 0.1)", kind=share
    )

    def find(self, root: str | Path, task: str) -> tuple[Any, dict[str, Any]]:
        """The class that reads a folder, and those of these options that were given, for its constructor.

        Raises:
            DataError: the folder's dataset does not take one of them.
        """
        kind: Any = find_dataset(root, task)
        given = {name: value for name in OWN if (value := getattr(self, name, None)) not in (None, ())}
        for name, value in given.items():
            if name not in kind.options:
                words = " ".join(value) if isinstance(value, tuple) else value
                raise DataError(
                    f"--{name} {words} is for {OWN[name]}; --dataset_root {root} is read as {kind.__name__}: leave it out"
                )
        return kind, given


@dataclass(frozen=True, kw_only=True)
class PointLabels(FolderLabels):
    """What a folder with points of one's own can be told."""

    coordinates: str | None = setting(
        None, "of own labels' points (default: pixels)", choices=("pixels", "normalised"), metavar="pixels|normalised"
    )


@dataclass(frozen=True, kw_only=True)
class ObjectLabels(PointLabels):
    """What scenes whose objects have attributes can be told."""

    fields: tuple[str, ...] = setting((), "of objects, beside the position", choices=("all", *FIELDS), nargs="+")
