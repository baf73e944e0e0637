"""Pursuit: a dictionary of positions priced by one error matrix, greedy addition and swaps, then a short refinement."""

import math
from dataclasses import dataclass

import torch

from igm import UserError
from igm.inference import Draws, Inferred, Posterior, draw_for_images, image_generators
from igm.inference.confidence import add_confidence, assess_objects
from igm.inference.gradient import Pairs, clip_norm, composition_gradient
from igm.inference.pricing import base_members, price_candidates
from models.denoiser import Denoiser

GRID_MARGIN = 0.03  # the grid reaches so far beyond the training positions
GAINS = (1.0, 1.15, 1.3, 1.5, 1.75, 2.0)


def settings_of(meta: dict) -> dict:
    """Settings of `infer_pursuit` and `infer_count` that were measured on a checkpoint's training data (its igm.json)."""
    return {
        "min_separation": meta.get("min_separation", 0.05),
        "bounds": meta.get("bounds"),
        "penalty": meta.get("count_penalty", 0.0),
        "confidence_scale": meta.get("confidence_scale", 1.0),
    }


def candidate_grid(num_candidates: int, bounds: list[float] | None = None) -> torch.Tensor:
    """About `num_candidates` positions on a regular grid over `bounds` (left, top, right, bottom): (M, 2)."""
    left, top, right, bottom = bounds or (0.0, 0.0, 1.0, 1.0)
    left, top = max(0.0, left - GRID_MARGIN), max(0.0, top - GRID_MARGIN)
    right, bottom = min(1.0, right + GRID_MARGIN), min(1.0, bottom + GRID_MARGIN)
    columns = max(1, round((num_candidates * (right - left) / (bottom - top)) ** 0.5))
    rows = max(1, round(num_candidates / columns))
    xs = left + (torch.arange(columns) + 0.5) / columns * (right - left)
    ys = top + (torch.arange(rows) + 0.5) / rows * (bottom - top)
    return torch.cartesian_prod(xs, ys)


@dataclass
class Choice:
    """A set of candidates with the gain of their composition, and its denoising error."""

    error: float
    gain: float
    members: list[int]

    def weights(self, base: torch.Tensor, num_candidates: int) -> torch.Tensor:
        """The composition as weights (M,) on the dictionary; `base`: its base members."""
        weights = torch.zeros(num_candidates)
        weights[self.members] = self.gain / len(self.members)
        return weights.index_add(0, base, torch.full((len(base),), (1 - self.gain) / len(base)))


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


def refine(
    denoiser: Denoiser,
    draws: Draws,
    conds: torch.Tensor,
    num_concepts: torch.Tensor,
    *,
    gain: torch.Tensor,
    base: torch.Tensor,
    min_separation: float,
    num_steps: int,
    learning_rate: float,
    batch_size: int,
) -> Inferred:
    """Descend from conds (B, K, D) on the mean error over a fixed bank of draws.

    The composition is base + gain (mean_k f_k - base), with gain (B,) and base (B, N, C, H, W). Objects that come nearer
    than `min_separation` are pushed apart after every step.
    """
    b, n = draws.t.shape
    device = draws.t.device
    conds, gain, k = conds.to(device, copy=True), gain.to(device), conds.shape[1]
    real = torch.arange(k, device=device) < num_concepts.to(device)[:, None]  # (B, K)
    bank = {
        "pairs": Pairs(real[:, None].repeat_interleave(n, dim=0)),  # a draw of an image counts as one image, one start
        "gain": gain.repeat_interleave(n),
        "base": base.flatten(0, 1),
        "batch_size": batch_size,
    }
    flat = draws.x_0.flatten(0, 1), draws.t.flatten(), draws.eps.flatten(0, 1)
    optimizer = torch.optim.AdamW([conds], lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, max(1, num_steps))
    for _ in range(num_steps):
        repeated = conds.repeat_interleave(n, dim=0)[:, None]  # (B N, 1, K, D)
        _, gradient = composition_gradient(denoiser, *flat, repeated, **bank)
        conds.grad = clip_norm(gradient.view(b, 1, n, k, -1).mean(2), 1.0)[:, 0]  # (B, K, D)
        optimizer.step()
        schedule.step()
        conds.add_(separating_push(conds, real, min_separation)).clamp_(0, 1)
    repeated = conds.repeat_interleave(n, dim=0)[:, None]
    errors, _ = composition_gradient(denoiser, *flat, repeated, **bank, with_gradient=False)  # (B N, 1)
    rows = num_concepts.to(device) * n
    return Inferred(
        conds=conds,
        num_concepts=num_concepts,
        error=errors.view(b, n).mean(1),
        forward=rows * (num_steps + 1),
        backward=rows * num_steps,
        extra={"gain": gain},
    )


def separating_push(conds: torch.Tensor, real: torch.Tensor, min_separation: float) -> torch.Tensor:
    """What moves pairs that are nearer than `min_separation` apart to it: conds (B, K, D), real (B, K) -> (B, K, D)."""
    apart = conds[:, :, None] - conds[:, None]  # (B, K, K, D)
    distance = apart.norm(dim=3).clamp(min=1e-6)
    pairs = real[:, :, None] & real[:, None] & ~torch.eye(conds.shape[1], dtype=torch.bool, device=conds.device)
    push = (min_separation - distance).clamp(min=0) / 2 * pairs  # (B, K, K), half for each of the two
    return (push[..., None] * apart / distance[..., None]).sum(2)


def choose_known(A: torch.Tensor, k: int, candidates: torch.Tensor, min_separation: float) -> Choice:
    """The best set of K candidates, none nearer to each other than `min_separation`.

    Raises:
        UserError: so many may not stand together.
    """
    found = choose_sets(A, k, may_stand_together(candidates, min_separation), base_members(len(candidates)))
    if len(found) < k:
        raise UserError(
            f"{k} objects asked for, {len(found)} of the {len(candidates)} candidates may stand together; "
            "raise --num_candidates or lower --min_separation"
        )
    return found[-1]


def may_stand_together(candidates: torch.Tensor, min_separation: float) -> torch.Tensor:
    """(M, M) bool: whether two candidates are at least `min_separation` apart."""
    return torch.cdist(candidates, candidates) >= max(min_separation, 1e-6)


def infer_pursuit(
    denoiser: Denoiser,
    posterior: Posterior,
    num_concepts: torch.Tensor,
    *,
    num_candidates: int = 256,
    num_draws: int = 16,
    t_range: tuple[int, int] = (0, 500),
    min_separation: float = 0.05,
    bounds: list[float] | None = None,
    num_steps: int = 40,
    learning_rate: float = 4e-3,
    penalty: float = 0.0,
    confidence_draws: int = 16,
    confidence_scale: float = 1.0,
    batch_size: int = 1024,
    seed: int = 0,
    image_numbers: list[int] | None = None,
) -> Inferred:
    """Infer positions from one error matrix over a grid of candidates, then leave the grid by a short gradient descent.

    Args:
        denoiser: in eval mode. posterior: B images. num_concepts: (B,), K of each image.
        num_candidates: M, about; num_draws: N noise draws, stratified over `t_range`; N M network rows per image.
        min_separation: candidates nearer than this exclude each other (objects are never nearer in training data).
        bounds: left, top, right, bottom of the positions in training data; None: the whole image.
        num_steps: refinement steps on the same N draws; learning_rate: theirs, falling to a tenth.
        penalty, confidence_draws, confidence_scale: see `igm.inference.confidence`.
        batch_size: most pairs in the network at once; bounds the memory.

    Returns:
        Inferred; confidence (B,) that every object is right, `extra["records"]["object_confidence"]` that each is.

    Raises:
        UserError: more objects than candidates that may stand together.
        FloatingPointError: a prediction is not finite.
    """
    numbers = image_numbers or list(range(len(posterior)))
    candidates = candidate_grid(num_candidates, bounds)
    draws = draw_for_images(posterior, num_draws, t_range, image_generators(seed, numbers, stream=3), stratified=True)
    matrix, base = price_candidates(denoiser, posterior, candidates, draws, batch_size)
    choices = [
        choose_known(matrix.A[i].cpu(), k, candidates, min_separation) for i, k in enumerate(num_concepts.tolist())
    ]
    found = refine(
        denoiser,
        draws,
        pad([candidates[choice.members] for choice in choices]),
        num_concepts,
        gain=torch.tensor([choice.gain for choice in choices]),
        base=base,
        min_separation=min_separation,
        num_steps=num_steps,
        learning_rate=learning_rate,
        batch_size=batch_size,
    )
    found.forward += len(candidates) * num_draws
    contributions = assess_objects(
        denoiser,
        posterior,
        found,
        candidates,
        num_draws=confidence_draws,
        t_range=t_range,
        seed=seed,
        numbers=numbers,
        batch_size=batch_size,
    )
    add_confidence(found, contributions, penalty, confidence_scale)
    return found


def pad(rows: list[torch.Tensor]) -> torch.Tensor:
    """Lists of positions (K_i, D) as one tensor (B, K, D), zeros beyond an image's own number."""
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
