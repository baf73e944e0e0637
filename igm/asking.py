"""What callers of the API say of a picture, checked and as tensors: numbers of objects, places, attributes."""

from collections.abc import Mapping
from typing import Any

import torch

from igm import UserError
from igm.data.vocabulary import Vocabulary, text_of
from igm.wording import plain


def as_counts(num_objects: Any, num_pictures: int) -> torch.Tensor:
    """Numbers of objects (B,), of one number for all pictures or of one for each.

    Raises:
        UserError: they are none.
    """
    counts = plain(num_objects)
    counts = counts if isinstance(counts, tuple) else (counts,) * num_pictures
    right = all(isinstance(k, int) and not isinstance(k, bool) and k >= 1 for k in counts)
    if len(counts) != num_pictures or not right:
        raise UserError(f"num_objects={num_objects!r} for {num_pictures} pictures: one positive number for each")
    return torch.tensor(counts)


def as_places(positions: Any) -> torch.Tensor:
    """Positions (K, 2) in [0, 1] of the picture.

    Raises:
        UserError: they are none.
    """
    places = torch.as_tensor(plain(positions), dtype=torch.float32)
    shaped = places.ndim == 2 and places.shape[1] == 2 and len(places) > 0
    if not (shaped and bool(((places >= 0) & (places <= 1)).all())):
        raise UserError(f"positions={plain(positions)}: (x, y) of at least one object, in 0 to 1 of the picture")
    return places


def as_attributes(attributes: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, str]:
    """Attributes as a vocabulary has them.

    Raises:
        UserError: the model does not know such an attribute, or such a value.
    """
    found = {name: text_of(value) or value for name, value in attributes.items()}
    for name, value in found.items():
        if name not in vocabulary:
            raise UserError(f"{name}={value!r}: the model knows {', '.join(vocabulary)}")
        if value not in vocabulary[name]:
            raise UserError(f"{name}={value!r}: the model knows {', '.join(vocabulary[name])}")
    return found
