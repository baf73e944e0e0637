"""How values of attributes become conditions, and back: attribute k of K is 1 at 2 k + value of a row of 2 K numbers."""

import numpy as np
import torch
from numpy.typing import ArrayLike


def attribute_values(conds: ArrayLike) -> np.ndarray:
    """Values (K,) in {0, 1} of one-hot concepts (K, 2 K).

    Raises:
        ValueError: another shape, or a row whose 1 is not at one of its own two places.
    """
    conds = np.asarray(conds, dtype=float)
    if conds.ndim != 2 or conds.shape[1] != 2 * len(conds):
        raise ValueError(f"attributes must be one-hot rows (K, 2 K), got shape {conds.shape}")
    values = conds.argmax(1) - 2 * np.arange(len(conds))
    if not ((values == 0) | (values == 1)).all():
        raise ValueError(f"rows must be one-hot within their own attribute, got {conds.tolist()}")
    return values


def one_hot(values: torch.Tensor) -> torch.Tensor:
    """Concepts (..., K, 2 K) of attribute values (..., K) in {0, 1}: row k is 1 at 2 k + value."""
    k = values.shape[-1]
    return torch.eye(2 * k)[2 * torch.arange(k) + values]


def all_concepts(num_attributes: int) -> torch.Tensor:
    """The 2 K candidate concepts (2 K, 2 K), the two values of each attribute side by side."""
    return torch.eye(2 * num_attributes)


def numbers_of(conds: ArrayLike) -> set[int]:
    """Which rows' ones stand where: the class numbers of one-hot conditions (K, M)."""
    return {int(np.argmax(row)) for row in np.asarray(conds, dtype=float)}
