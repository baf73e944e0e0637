"""Options for some datasets alone, such as folders with labels of one's own; any other dataset refuses them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igm import warn
from igm.data import DataError, find_dataset
from igm.facts import Facts
from igm.settings import Settings, setting, share

OWN_LABELS = "labels of one's own (metadata.jsonl, metadata.csv, COCO)"
MEANT_FOR = {
    "val_share": OWN_LABELS,
    "coordinates": OWN_LABELS,
    "variant": "CLEVRTex",
    "fields": "scenes whose objects have attributes (CLEVR, labels of one's own)",
}


@dataclass(frozen=True, kw_only=True)
class FolderLabels(Settings):
    """What a folder with labels of one's own can be told."""

    val_share: float | None = setting(
        None, "own labels without a split: share of the pictures for validation (default 0.1)", kind=share
    )

    def given(self) -> dict[str, Any]:
        """These options by the names of a constructor's arguments; None where they are not given."""
        return {"val_share": self.val_share}

    def find(self, root: str | Path, task: str) -> tuple[Any, dict[str, Any]]:
        """The class that reads a folder, and those of these options that were given, for its constructor.

        Raises:
            DataError: the folder's dataset does not take one of them.
        """
        kind: Any = find_dataset(root, task)
        given = {name: value for name, value in self.given().items() if value not in (None, ())}
        for name, value in given.items():
            if name not in kind.options:
                words = " ".join(value) if isinstance(value, tuple) else value
                read_as = f"--dataset_root {root} is read as {kind.__name__}"
                raise DataError(f"--{name} {words} is for {MEANT_FOR[name]}; {read_as}: leave it out")
        return kind, given


@dataclass(frozen=True, kw_only=True)
class PointLabels(FolderLabels):
    """What a folder with points can be told."""

    coordinates: str | None = setting(
        None, "of own labels' points (default: pixels)", choices=("pixels", "normalised"), metavar="pixels|normalised"
    )
    dataset_variant: str | None = setting(None, "of CLEVRTex: full, camo, outd, ...", option="variant")

    def given(self) -> dict[str, Any]:
        """Also those of points."""
        return {**super().given(), "coordinates": self.coordinates, "variant": self.dataset_variant}


@dataclass(frozen=True, kw_only=True)
class ObjectLabels(PointLabels):
    """What scenes whose objects have attributes can be told."""

    fields: tuple[str, ...] = setting((), "attributes of objects beside the position, or all", nargs="+")

    def given(self) -> dict[str, Any]:
        """Also the fields."""
        return {**super().given(), "fields": self.fields}


@dataclass(frozen=True, kw_only=True)
class TrainingLabels(ObjectLabels):
    """What a training on such scenes can be told."""

    vary: float | None = setting(None, "share of the pictures with other colours and framings", kind=share)
    contrast_fields: tuple[str, ...] = setting((), "attributes that --contrast mistakes (default: all)", nargs="+")

    def mistaken(self, facts: Facts, contrasts: bool) -> tuple[str, ...]:
        """The attributes that are mistaken in training; none where it has no contrast.

        Raises:
            DataError: one is asked for that objects are not learnt with.
        """
        if self.contrast_fields and not contrasts:
            warn("--contrast_fields has no effect without --contrast")
        known = tuple(facts.vocabulary or ()) if contrasts else ()
        if contrasts and (unknown := [name for name in self.contrast_fields if name not in known]):
            mend = f"name some of {', '.join(known)}" if known else "there are no --fields"
            raise DataError(f"--contrast_fields {unknown[0]}: objects are not learnt with it; {mend}")
        return (self.contrast_fields or known) if contrasts else ()
