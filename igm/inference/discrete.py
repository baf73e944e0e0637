"""Discrete concepts: the best composition of a dictionary, read off the error matrix; more noise only where undecided."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from igm import UserError
from igm.error_matrix import ErrorMatrix, subset_weights
from igm.inference.draws import draw_for_images, image_generators
from igm.inference.pricing import confidence_of, price_draws
from igm.inference.settings import DiscreteSettings
from igm.inference.types import Inferred, Posterior
from igm.models.denoiser import Denoiser

MOST_ENUMERATED = 2**20  # compositions priced in closed form; beyond, coordinate search
NUM_RIVALS = 16  # the runners-up that the confidence considers
NUM_RESTARTS = 32
PRUNE_AT = 5.0  # standard errors by which a candidate's best composition must lie behind to leave the dictionary


class OneOfEach:
    """Compositions that take exactly one candidate of each group, as a face has one value of each attribute.

    Args:
        sizes: number of candidates in each group; candidates are numbered group by group.

    Raises:
        UserError: a group without candidates.
    """

    def __init__(self, sizes: list[int]):
        if not sizes or min(sizes) < 1:
            raise UserError(f"every concept needs at least one value, got {sizes}")
        self.sizes = sizes
        self.starts = [sum(sizes[:k]) for k in range(len(sizes))]

    @property
    def num_candidates(self) -> int:
        """M, over all groups."""
        return sum(self.sizes)

    def search(self, A: torch.Tensor) -> list[list[int]]:
        """The compositions of lowest error, best first, from an error matrix (M, M); at most 1 + NUM_RIVALS."""
        if math.prod(self.sizes) <= MOST_ENUMERATED:
            return self.enumerate(A)
        best = self.descend(A)
        return [best, *self.neighbours(A, best)[:NUM_RIVALS]]

    def enumerate(self, A: torch.Tensor) -> list[list[int]]:
        """Every combination's error at once, as an array with one axis per group."""
        blocks = [slice(start, start + size) for start, size in zip(self.starts, self.sizes, strict=True)]
        errors = torch.zeros(self.sizes)
        for k, own in enumerate(blocks):
            shape = [-1 if axis == k else 1 for axis in range(len(blocks))]
            errors += A[own, own].diagonal().view(shape)
            for j in range(k):
                shape = [self.sizes[axis] if axis in (j, k) else 1 for axis in range(len(blocks))]
                errors += 2 * A[blocks[j], own].reshape(shape)
        order = errors.flatten().topk(min(errors.numel(), 1 + NUM_RIVALS), largest=False).indices
        choices = torch.stack(torch.unravel_index(order, errors.shape), dim=1) + torch.tensor(self.starts)  # (S, K)
        return choices.tolist()

    def descend(self, A: torch.Tensor) -> list[int]:
        """The best that coordinate descent finds from several seeded starts."""
        draws = torch.rand(NUM_RESTARTS, len(self.sizes), generator=torch.Generator().manual_seed(0))
        starts = (draws * torch.tensor(self.sizes)).long() + torch.tensor(self.starts)  # (R, K)
        values = [torch.arange(start, start + size) for start, size in zip(self.starts, self.sizes, strict=True)]
        return coordinate_descent(A, starts, values)

    def neighbours(self, A: torch.Tensor, chosen: list[int]) -> list[list[int]]:
        """Every composition that differs in one group, best first."""
        found = [
            [*chosen[:k], value, *chosen[k + 1 :]]
            for k, (start, size) in enumerate(zip(self.starts, self.sizes, strict=True))
            for value in range(start, start + size)
            if value != chosen[k]
        ]
        return sorted(found, key=lambda members: float(A[members][:, members].mean()))

    def restrict(self, members: list[int]) -> "OneOfEach":
        """The same groups with only these candidates, in this order."""
        ends = [start + size for start, size in zip(self.starts, self.sizes, strict=True)]
        return OneOfEach([sum(s <= m < e for m in members) for s, e in zip(self.starts, ends, strict=True)])


class Subsets:
    """Compositions of any K different candidates with K in a range, as a picture shows K animals.

    Args:
        num_candidates: M. sizes: smallest and largest K.

    Raises:
        UserError: fewer candidates than concepts, or no concept.
    """

    def __init__(self, num_candidates: int, sizes: tuple[int, int]):
        if not 1 <= sizes[0] <= sizes[1] <= num_candidates:
            raise UserError(f"{sizes[0]} to {sizes[1]} concepts asked for, there are {num_candidates} candidates")
        self.num_candidates, self.sizes = num_candidates, sizes

    def search(self, A: torch.Tensor) -> list[list[int]]:
        """The compositions of lowest error, best first, from an error matrix (M, M); at most 1 + NUM_RIVALS."""
        sizes = range(self.sizes[0], self.sizes[1] + 1)
        if sum(math.comb(self.num_candidates, k) for k in sizes) <= MOST_ENUMERATED:
            found = [pair for k in sizes for pair in self.enumerate(A, k)]
        else:
            sets = [self.descend(A, k) for k in sizes]
            found = [(float(A[members][:, members].mean()), members) for members in sets]
            for members in self.neighbours(A, min(found)[1])[:NUM_RIVALS]:
                found.append((float(A[members][:, members].mean()), members))
        return [sorted(members) for _, members in sorted(found)[: 1 + NUM_RIVALS]]

    def enumerate(self, A: torch.Tensor, k: int) -> list[tuple[float, list[int]]]:
        """The best subsets of size K with their errors, out of all."""
        subsets = torch.tensor(list(itertools.combinations(range(self.num_candidates), k)))  # (S, K)
        errors = torch.cat([A[part[:, :, None], part[:, None]].mean((1, 2)) for part in subsets.split(2**16)])
        lowest = errors.topk(min(len(errors), 1 + NUM_RIVALS), largest=False)
        return list(zip(lowest.values.tolist(), subsets[lowest.indices].tolist(), strict=True))

    def descend(self, A: torch.Tensor, k: int) -> list[int]:
        """The best subset of size K that exchanges of one member find from several seeded starts."""
        draws = torch.rand(NUM_RESTARTS, self.num_candidates, generator=torch.Generator().manual_seed(0))
        starts = draws.argsort(1)[:, :k]  # (R, K)
        return coordinate_descent(A, starts, [torch.arange(self.num_candidates)] * k)

    def neighbours(self, A: torch.Tensor, chosen: list[int]) -> list[list[int]]:
        """Every composition that differs in one member, best first."""
        others = [m for m in range(self.num_candidates) if m not in chosen]
        found = []
        for member in chosen:
            rest = [m for m in chosen if m != member]
            errors = (A.diagonal() + 2 * A[rest].sum(0) + A[rest][:, rest].sum())[others]  # (M - K,)
            found += [(error, [*rest, m]) for error, m in zip(errors.tolist(), others, strict=True)]
        return [members for _, members in sorted(found)]

    def restrict(self, members: list[int]) -> "Subsets":
        """The same sizes over only these candidates."""
        return Subsets(len(members), (self.sizes[0], min(self.sizes[1], len(members))))


Space = OneOfEach | Subsets


def coordinate_descent(A: torch.Tensor, chosen: torch.Tensor, values: list[torch.Tensor]) -> list[int]:
    """Change one member at a time, in every start at once, until no change lowers an error; return the best start's end.

    Args:
        A: error matrix (M, M). chosen: starts (R, K). values: K lists of the candidates that each place may take; a
            candidate is never taken twice.
    """
    changed = True
    while changed:
        changed = False
        for k, allowed in enumerate(values):
            others = torch.cat([chosen[:, :k], chosen[:, k + 1 :]], dim=1)  # (R, K - 1)
            errors = A.diagonal() + 2 * A[others].sum(1)  # (R, M), up to what does not depend on the new member
            errors = errors.scatter(1, others, math.inf)
            own = errors.gather(1, chosen[:, k : k + 1])[:, 0]
            lowest, best = errors[:, allowed].min(1)
            better = lowest < own - 1e-6 * own.abs()
            chosen[:, k] = torch.where(better, allowed[best], chosen[:, k])
            changed |= bool(better.any())
    errors = A[chosen[:, :, None], chosen[:, None]].mean((1, 2))  # (R,)
    return chosen[errors.argmin()].tolist()


def infer_discrete(
    denoiser: Denoiser,
    posterior: Posterior,
    candidates: torch.Tensor,
    space: Space,
    settings: DiscreteSettings | None = None,
    *,
    labels: torch.Tensor | None = None,
    batch_size: int = 1024,
    image_numbers: list[int] | None = None,
) -> Inferred:
    """Find the composition with the lowest denoising error out of all that a space allows.

    M network rows per draw price every composition exactly (design identity 5), where the published code evaluates each
    composition by itself. Where the settings name a confidence, an image stops after a round of draws when its best
    composition is so sure (`confidence_of`), and candidates far behind leave its dictionary.

    Args:
        candidates: (M, D), or (M, L, D) for text. space: what may stand together.
        labels: (M, D'), what stands for each candidate in the result; default the candidates.
        batch_size: most rows in the network at once.

    Returns:
        Inferred; conds (B, K, D') padded with zeros, the numbers of the candidates chosen, and the draws.

    Raises:
        FloatingPointError: a prediction is not finite.
        ValueError: candidates and space do not agree.
    """
    if space.num_candidates != len(candidates):
        raise ValueError(f"{len(candidates)} candidates, the space is for {space.num_candidates}")
    s = (settings or DiscreteSettings()).for_facts(denoiser.facts)
    numbers = image_numbers or list(range(len(posterior)))
    labels = candidates if labels is None else labels
    candidates = candidates.to(posterior.mean.device)
    found = [
        infer_one(
            denoiser,
            posterior[i : i + 1],
            candidates,
            space,
            rounds=rounds(s),
            confidence=s.stops_at,
            t_range=s.range_of(denoiser.num_timesteps),
            batch_size=batch_size,
            generator=image_generators(s.seed, [number], stream=4)[0],
        )
        for i, number in enumerate(numbers)
    ]
    chosen = [one.chosen for one in found]
    return Inferred(
        conds=stack_chosen(labels, chosen),
        num_concepts=torch.tensor([len(own) for own in chosen]),
        error=torch.tensor([one.error for one in found]),
        forward=torch.tensor([one.forward for one in found]),
        backward=torch.zeros(len(found), dtype=torch.long),
        confidence=torch.tensor([one.confidence for one in found]),
        chosen=chosen,
        num_draws=[one.num_draws for one in found],
        alternatives=[[(labels[own].cpu(), error) for own, error in one.rivals] for one in found],
    )


def stack_chosen(labels: torch.Tensor, chosen: Sequence[Sequence[int]]) -> torch.Tensor:
    """Rows of labels (M, ...) by their numbers, images padded with zeros to one length: (B, K, ...)."""
    conds = torch.zeros(len(chosen), max(map(len, chosen)), *labels.shape[1:])
    for row, own in zip(conds, chosen, strict=True):
        row[: len(own)] = labels[list(own)]
    return conds


def rounds(settings: DiscreteSettings) -> list[int]:
    """Draws of each round; a single round where no confidence ends an image early."""
    total = settings.num_draws
    size = total if settings.stops_at is None else settings.draws_per_round
    return [min(size, total - done) for done in range(0, total, size)]


@dataclass(frozen=True)
class Decision:
    """What was decided of one image: numbers of the candidates, error, confidence, network rows, draws.

    rivals: the best compositions and the error of each, the chosen one first.
    """

    chosen: list[int]
    error: float
    confidence: float
    forward: int
    num_draws: int
    rivals: list[tuple[list[int], float]]


def infer_one(
    denoiser: Denoiser,
    posterior: Posterior,
    candidates: torch.Tensor,
    space: Space,
    *,
    rounds: list[int],
    confidence: float | None,
    t_range: tuple[int, int],
    batch_size: int,
    generator: torch.Generator,
) -> Decision:
    """Rounds of draws for one image until it is decided."""
    matrix = ErrorMatrix(1, len(candidates), posterior.mean.device, keep_draws=True)
    active, forward = list(range(len(candidates))), 0
    for done, number in enumerate(rounds, start=1):
        draws = draw_for_images(posterior, number, t_range, [generator], stratified=True)[0]
        price_draws(denoiser, matrix, 0, draws, candidates[active], batch_size)
        forward += number * len(active)
        A = matrix.A[0].cpu()
        best, *rivals = space.search(A)
        sure = confidence_of(matrix, 0, best, rivals)
        if confidence is not None and sure >= confidence:
            break
        if confidence is not None and done < len(rounds):
            kept = plausible(matrix, space, best)
            best, active = [kept.index(member) for member in best], [active[member] for member in kept]
            space = space.restrict(kept)
            matrix.restrict(kept)
    chosen, error = [active[member] for member in best], float(A[best][:, best].mean())
    others = [([active[member] for member in own], float(A[own][:, own].mean())) for own in rivals]
    return Decision(chosen, error, sure, forward, int(matrix.count[0]), [(chosen, error), *others])


def plausible(matrix: ErrorMatrix, space: Space, best: list[int]) -> list[int]:
    """The candidates whose exchange into the best composition does not clearly raise its error, and its own members."""
    trials: dict[int, list[int]] = {}
    for members in space.neighbours(matrix.A[0].cpu(), best):
        for member in set(members) - set(best):
            trials.setdefault(member, members)
    if not trials:
        return sorted(best)
    weights = subset_weights([best, *trials.values()], space.num_candidates)
    mean, error = matrix.paired(0, weights[0], weights[1:])
    behind = (mean > PRUNE_AT * error).tolist()
    return sorted([*best, *(member for member, out in zip(trials, behind, strict=True) if not out)])
