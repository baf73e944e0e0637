"""Which candidate positions denoise an image best together, read off one error matrix: greedy addition and swaps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

GRID_MARGIN = 0.03  # the grid reaches so far beyond the training positions
GAINS = (1.0, 1.15, 1.3, 1.5, 1.75, 2.0)
FINE = 4  # a chosen cell of the grid becomes FINE x FINE positions


def candidate_grid(num_candidates: int, bounds: Sequence[float] | None = None) -> torch.Tensor:
    """About `num_candidates` positions on a regular grid over `bounds` (left, top, right, bottom): (M, 2)."""
    left, top, right, bottom = bounds or (0.0, 0.0, 1.0, 1.0)
    left, top = max(0.0, left - GRID_MARGIN), max(0.0, top - GRID_MARGIN)
    right, bottom = min(1.0, right + GRID_MARGIN), min(1.0, bottom + GRID_MARGIN)
    columns = max(1, round((num_candidates * (right - left) / (bottom - top)) ** 0.5))
    rows = max(1, round(num_candidates / columns))
    xs = left + (torch.arange(columns) + 0.5) / columns * (right - left)
    ys = top + (torch.arange(rows) + 0.5) / rows * (bottom - top)
    return torch.cartesian_prod(xs, ys)


def divide_cells(grid: torch.Tensor, cells: list[int]) -> torch.Tensor:
    """FINE x FINE positions in each of some cells of a regular grid (M, 2): (cells FINE^2, 2)."""
    spacing = torch.stack([axis.unique().diff().min() if len(axis.unique()) > 1 else axis[0] * 0 for axis in grid.T])
    steps = (torch.arange(FINE) + 0.5) / FINE - 0.5
    return (grid[cells][:, None] + torch.cartesian_prod(steps, steps) * spacing).flatten(0, 1).clamp(0, 1)


def may_stand_together(candidates: torch.Tensor, min_separation: float) -> torch.Tensor:
    """(M, M) bool: whether two candidates are at least `min_separation` apart."""
    return torch.cdist(candidates, candidates) >= max(min_separation, 1e-6)


@dataclass
class Choice:
    """A set of candidates with the gain of their composition, and its denoising error."""

    error: float
    gain: float
    members: list[int]


def with_gain(A: torch.Tensor, gain: float, base: torch.Tensor) -> torch.Tensor:
    """The error matrix (M, M) of the dictionary u + gain (f_i - u), u the mean of the f_i in `base`; exact, no network.

    A mean of K predictions weighs each object 1 / K; a network that was trained with 3 to 5 objects predicts for such
    weights, so that with more objects each one's part comes out too small. A gain above 1 gives it back. Its weights on
    the original dictionary still sum to 1.
    """
    row = A[base].mean(0)  # <r_i, r_u>
    constant = (1 - gain) ** 2 * row[base].mean()
    return constant + gain * (1 - gain) * (row[:, None] + row[None, :]) + gain**2 * A


def choose_sets(A: torch.Tensor, num_concepts: int, allowed: torch.Tensor, base: torch.Tensor) -> list[Choice]:
    """For each K = 1 ... `num_concepts` the set and the gain of the lowest error; fewer if no more are allowed.

    Args:
        A: error matrix of one image (M, M). base: numbers of the base members.
        allowed: (F, F), whether two of the first F candidates may stand together; later ones are never chosen.
    """
    best: list[Choice] = []
    for gain in GAINS:
        scaled = with_gain(A, gain, base)[: len(allowed), : len(allowed)]
        for k, members in enumerate(pursue(scaled, num_concepts, allowed)):
            choice = Choice(float(scaled[members][:, members].mean()), gain, members)
            if k == len(best):
                best.append(choice)
            elif choice.error < best[k].error:
                best[k] = choice
    return best


def pursue(A: torch.Tensor, num_concepts: int, allowed: torch.Tensor, max_swaps: int = 50) -> list[list[int]]:
    """Find, for every K up to `num_concepts`, candidates whose equal-weight composition has a low error.

    Greedy addition, then swaps of one member at a time until none lowers the error (orthogonal-matching-pursuit style),
    using that the error of a set S is sum_{i, j in S} A_ij / |S|^2.

    Args:
        A: error matrix of one image (M, M).
        allowed: (M, M) bool, whether two candidates may stand together; the diagonal is False.

    Returns:
        one list of candidate numbers per K = 1 ... `num_concepts`; fewer if no further candidate is allowed.
    """
    chosen: list[int] = []
    sets = []
    for _ in range(num_concepts):
        sums = addition_sums(A, [chosen], allowed)[0]  # (M,)
        best = int(sums.argmin())
        if sums[best] == math.inf:
            break
        chosen = [*chosen, best]
        now = float(sums[best])
        for _ in range(max_swaps):
            rests = [chosen[:i] + chosen[i + 1 :] for i in range(len(chosen))]
            sums = addition_sums(A, rests, allowed)  # (K, M)
            out, new = divmod(int(sums.argmin()), len(A))
            if not sums[out, new] < now - 1e-6 * abs(now):
                break
            chosen, now = [*rests[out], new], float(sums[out, new])
        sets.append(chosen)
    return sets


def addition_sums(A: torch.Tensor, sets: list[list[int]], allowed: torch.Tensor) -> torch.Tensor:
    """sum_{i, j} A_ij of every set of one size with every candidate added: (S, M), inf where not allowed."""
    members = torch.tensor(sets, dtype=torch.long)  # (S, K)
    rows = A[members].sum(1)  # (S, M)
    own = rows.gather(1, members).sum(1, keepdim=True)  # (S, 1)
    sums = own + 2 * rows + A.diagonal()
    return sums.masked_fill(~allowed[members].all(1), math.inf)
