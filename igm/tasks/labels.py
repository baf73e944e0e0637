"""What a person is told of names: which hold, and how sure that is."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from igm.figures.marks import as_png, draw_caption
from igm.inference.types import Inferred
from igm.tasks.task import padded


@dataclass
class Labels:
    """What a picture shows: the names of its classes, or of the attributes that hold; how sure that is of all others.

    image: the picture, made smaller where it is large; in a notebook the labels show themselves below it.
    unlike: whether the picture is unlike all that the model was measured on, so that the rest says little; None: not known.
    alternatives: the names of the best compositions and the denoising error of each, on the same draws; the answer first.
    """

    names: list[str]
    confidence: float | None
    error: float
    unlike: bool | None = None
    image: Image.Image | None = field(default=None, repr=False, compare=False)
    alternatives: list[tuple[list[str], float]] = field(default_factory=list, repr=False, compare=False)

    def draw(self, image: Image.Image | None = None) -> Image.Image:
        """The picture (or another of the same view) with the names, and how sure they are, below it."""
        sure = "" if self.confidence is None else f" ({100 * self.confidence:.0f} %)"
        return draw_caption(image or self.image, (", ".join(self.names) or "none") + sure)

    def to_dict(self) -> dict[str, Any]:
        """All but the picture, as JSON has it."""
        return {"names": self.names, "confidence": self.confidence, "error": self.error, "unlike": self.unlike}

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows."""
        return None if self.image is None else as_png(self.draw())


def as_labels(found: Inferred, row: int, names: Callable[[np.ndarray], list[str]]) -> Labels:
    """What was found in an image, with confidence, error and alternatives.

    Args:
        names: what concepts (K, D) are called.
    """
    confidence = None if found.confidence is None else float(found.confidence[row])
    others = [] if found.alternatives is None else found.alternatives[row]
    return Labels(
        names(padded(found.conds, found.num_concepts, row)),
        confidence,
        float(found.error[row]),
        None if found.unlike is None else found.unlike[row],
        alternatives=[(names(conds.numpy()), error) for conds, error in others],
    )
