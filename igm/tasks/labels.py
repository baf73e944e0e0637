"""What a person is told of names: which hold, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass

from igm.inference.types import Inferred


@dataclass
class Labels:
    """What a picture shows: the names of its classes, or of the attributes that hold; how sure that is of all others."""

    names: list[str]
    confidence: float | None
    error: float


def as_labels(found: Inferred, row: int, names: Sequence[str]) -> Labels:
    """Names found in an image, with confidence and error."""
    confidence = None if found.confidence is None else float(found.confidence[row])
    return Labels(list(names), confidence, float(found.error[row]))
