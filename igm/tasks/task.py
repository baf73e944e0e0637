"""The contract of a task: one object that knows all about a kind of concept.

Whatever has to know what a concept IS asks the task, which is looked up by its name before any image is inferred.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

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


class Task(ABC):
    """A kind of concept.

    Attributes:
        name: as checkpoints and results spell it. former_names: as earlier versions did.
        refines: the task whose commands also take this one, where the checkpoint was trained for it.
    """

    name: ClassVar[str]
    former_names: ClassVar[tuple[str, ...]] = ()
    refines: ClassVar[str] = ""

    def names(self, dataset: Any) -> tuple[str, ...]:
        """Names of what a concept can be, in the order of the conditions; empty where concepts have no names."""
        return ()

    def open(self, facts: Facts, fields: str | None, opener: Callable[..., Any], *place: Any) -> Any:
        """The dataset that `opener` finds at a place, as a checkpoint with these facts needs it.

        Args:
            fields: what the data say of a concept, where the task knows several things; None: all.
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
