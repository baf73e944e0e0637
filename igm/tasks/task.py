"""The contract of a task: one object that knows all about a kind of concept.

Whatever has to know what a concept IS asks the task, which is looked up by its name before any image is inferred.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from igm import UserError
from igm.calibration.settings import CalibrationImages, CalibrationSettings
from igm.facts import Facts
from igm.inference.types import Inferred
from igm.models import ModelError

Record = dict[str, Any]  # of one image; its keys stand in igm.evaluation.records
Groups = Mapping[str, Sequence[Record]]  # result records by the row of the table that they belong to
Scores = tuple[dict[str, Any], dict[str, Any]]  # scores by name, and their 95 % intervals
Column = tuple[str, list[str]]  # title, and a cell for each group


@dataclass(frozen=True)
class Sheet:
    """Records to show, and their pictures by image_id, where these are still there."""

    records: Sequence[Record]
    images: Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """Something found in an image, as other programs are told of it.

    position: (x, y) in [0, 1] of the square, where it has one. names: what it is called. values: further columns by name.
    """

    position: tuple[float, float] | None
    names: tuple[str, ...]
    confidence: float | None
    values: Mapping[str, Any] = field(default_factory=dict)


class Task(ABC):
    """A kind of concept.

    Attributes:
        name: as checkpoints and results spell it. former_names: as earlier versions did.
        refines: the task whose commands also take this one, where the checkpoint was trained for it.
        pipeline_tag, hub_metrics: what the hub calls it, and its scores.
    """

    name: ClassVar[str]
    former_names: ClassVar[tuple[str, ...]] = ()
    refines: ClassVar[str] = ""
    pipeline_tag: ClassVar[str | None] = None
    hub_metrics: ClassVar[tuple[str, ...]] = ()

    def names(self, dataset: Any) -> tuple[str, ...]:
        """Names of what a concept can be, in the order of the conditions; empty where concepts have no names."""
        return ()

    def open(self, facts: Facts, places_only: bool, opener: Callable[..., Any], *place: Any) -> Any:
        """The dataset that `opener` finds at a place, as a checkpoint with these facts needs it.

        Args:
            places_only: of objects, the data say nothing else.
        """
        return opener(*place)

    @abstractmethod
    def cond_size(self, names: Sequence[str]) -> int | None:
        """D of one condition, or None where any will do."""

    def check_facts(self, facts: Facts, names: Sequence[str], checkpoint: str) -> None:
        """Raise ModelError where a checkpoint of this task was trained for other concepts; saying nothing is fine."""

    def conditions(self, conds: torch.Tensor) -> list[list[float]]:
        """An image's conditions (K, D) as its record holds them."""
        return conds.tolist()

    def truth(self, conds: torch.Tensor, names: Sequence[str]) -> Record:
        """What a record holds of an image's true conditions (K, D) besides themselves; nothing by default."""
        return {}

    @abstractmethod
    def record(self, found: Inferred, row: int, names: Sequence[str]) -> Record:
        """What a record holds of an image besides what all tasks record."""

    @abstractmethod
    def answer(self, found: Inferred, row: int, names: Sequence[str]) -> Any:
        """What a person is told of an image."""

    def findings(self, record: Record, options: Mapping[str, Any]) -> list[Finding]:
        """What a record says was found, for other programs; one for each object, or one for the whole image.

        Raises:
            UserError: it cannot be said, for want of names or in general.
        """
        raise UserError(f"results of {self.name} have no form for other programs; read results.jsonl")

    @abstractmethod
    def score(self, records: Iterable[Record]) -> Scores:
        """The scores of records with ground truth."""

    @abstractmethod
    def headline(self, records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
        """The headline score image by image: what is right (B,), of how much (B,); the score is the ratio of the sums."""

    @abstractmethod
    def columns(self, summary: Mapping[str, Any]) -> list[Column]:
        """The columns of the table of a summary, besides group and number of images."""

    @abstractmethod
    def draw(
        self, groups: Groups, sheets: Mapping[str, "Sheet"], folder: Path, options: Mapping[str, Any]
    ) -> list[Path]:
        """Draw the figures of results into a folder; return the files.

        Args:
            groups: all records. sheets: by group, the records to show. options: of the run.
        """

    def calibration_images(self, kind: Callable[..., Any], images: CalibrationImages, facts: Facts) -> Any:
        """The dataset that `calibrate` measures on, in the folder that `images` names.

        Args:
            kind: the class that reads the folder.

        Raises:
            ModelError: there is nothing to measure for this task.
        """
        raise ModelError(f"the checkpoint was trained as {self.name}; there is nothing to measure for that")

    def calibrate(self, denoiser: Any, dataset: Any, settings: CalibrationSettings) -> Facts:
        """The checkpoint's facts, completed by what images of known concepts tell.

        Raises:
            ModelError: there is nothing to measure for this task.
        """
        raise ModelError(f"the checkpoint was trained for {self.name}; there is nothing to measure for that")


def padded(conds: torch.Tensor, num_concepts: torch.Tensor, row: int) -> np.ndarray:
    """An image's own conditions (K, D) out of (B, K_max, D)."""
    return conds[row, : int(num_concepts[row])].cpu().numpy()


def names_of(record: Record, options: Sequence[str] | None) -> list[str]:
    """Names of what a record's concepts can be: its own, or those of the run's options (records of earlier versions).

    Raises:
        UserError: nobody has kept them.
    """
    names = record.get("concept_names") or options
    size = len(record["conds_pred"][0]) if record["conds_pred"] else 0
    if not names or size not in (len(names), 2 * len(names)):
        raise UserError(f"image {record['image_id']}: the names of its concepts were not kept; infer again")
    return list(names)
