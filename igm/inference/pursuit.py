"""Pursuit: a dictionary of positions priced by one error matrix, greedy addition and swaps, then a short refinement."""

import torch

from igm import UserError
from igm.inference import Draws, Inferred, Posterior, draw_for_images, image_generators
from igm.inference.gradient import Pairs, clip_norm, composition_gradient
from igm.inference.pricing import price_candidates
from models.denoiser import Denoiser

GRID_MARGIN = 0.03  # the grid reaches so far beyond the training positions
GAINS = (1.0, 1.15, 1.3, 1.5, 1.75, 2.0)


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


def with_gain(A: torch.Tensor, gain: float) -> torch.Tensor:
    """The error matrix (M, M) of the dictionary u + gain (f_i - u), where u is the mean of all f_i; exact, no network.

    A mean of K predictions weighs each object 1 / K; a network that was trained with 3 to 5 objects predicts for such
    weights, so that with more objects each one's part comes out too small. A gain above 1 gives it back. Its weights on
    the original dictionary still sum to 1.
    """
    row = A.mean(1)  # <r_i, r_u>
    return (1 - gain) ** 2 * row.mean() + gain * (1 - gain) * (row[:, None] + row[None, :]) + gain**2 * A


def best_gain(A: torch.Tensor, num_concepts: int, allowed: torch.Tensor) -> tuple[list[int], float]:
    """The set of candidates and the gain of the lowest denoising error; fewer candidates if no more are allowed."""
    found = []
    for gain in GAINS:
        scaled = with_gain(A, gain)
        chosen = pursue(scaled, num_concepts, allowed)[-1]
        found.append((float(scaled[chosen][:, chosen].mean()), gain, chosen))
    _, gain, chosen = min(found)
    return chosen, gain


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
        best, error = best_addition(A, chosen, allowed)
        if error == float("inf"):
            break
        chosen = [*chosen, best]
        for _ in range(max_swaps):
            before = A[chosen][:, chosen].mean()
            trials = [(chosen[:i] + chosen[i + 1 :]) for i in range(len(chosen))]
            found = [best_addition(A, rest, allowed) for rest in trials]
            i = min(range(len(found)), key=lambda j: found[j][1])
            if not found[i][1] < before * (1 - 1e-6):
                break
            chosen = [*trials[i], found[i][0]]
        sets.append(chosen)
    return sets


def best_addition(A: torch.Tensor, chosen: list[int], allowed: torch.Tensor) -> tuple[int, float]:
    """The candidate whose addition to `chosen` gives the lowest error, and that error (inf if none is allowed)."""
    errors = A.diagonal() + 2 * A[chosen].sum(0) + A[chosen][:, chosen].sum()  # (M,)
    errors = errors / (len(chosen) + 1) ** 2
    if chosen:
        errors = errors.masked_fill(~allowed[chosen].all(0), float("inf"))
    best = int(errors.argmin())
    return best, float(errors[best])


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
) -> tuple[torch.Tensor, torch.Tensor]:
    """Descend from conds (B, K, D) on the mean error over a fixed bank of draws; return them and their errors (B,).

    The composition is base + gain (mean_k f_k - base), with gain (B,) and base (B, N, C, H, W). Objects that come nearer
    than `min_separation` are pushed apart after every step.
    """
    b, n = draws.t.shape
    k = conds.shape[1]
    real = torch.arange(k, device=conds.device) < num_concepts.to(conds.device)[:, None]  # (B, K)
    pairs = Pairs(real[:, None].repeat_interleave(n, dim=0))  # a draw of an image counts as an image with one start
    x_0, t, eps = draws.x_0.flatten(0, 1), draws.t.flatten(), draws.eps.flatten(0, 1)
    conds = conds.clone()
    optimizer = torch.optim.AdamW([conds], lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, max(1, num_steps))
    for step in range(num_steps + 1):
        repeated = conds.repeat_interleave(n, dim=0)[:, None]  # (B N, 1, K, D)
        errors, gradient = composition_gradient(
            denoiser,
            x_0,
            t,
            eps,
            repeated,
            pairs,
            batch_size,
            with_gradient=step < num_steps,
            gain=gain.repeat_interleave(n),
            base=base.flatten(0, 1),
        )
        if step < num_steps:
            gradient = gradient.view(b, n, k, -1).mean(1)  # (B, K, D)
            conds.grad = clip_norm(gradient[:, None], 1.0)[:, 0]
            optimizer.step()
            schedule.step()
            conds.add_(separating_push(conds, real, min_separation)).clamp_(0, 1)
    return conds, errors.view(b, n).mean(1)


def separating_push(conds: torch.Tensor, real: torch.Tensor, min_separation: float) -> torch.Tensor:
    """What moves pairs that are nearer than `min_separation` apart to it: conds (B, K, D), real (B, K) -> (B, K, D)."""
    apart = conds[:, :, None] - conds[:, None]  # (B, K, K, D)
    distance = apart.norm(dim=3).clamp(min=1e-6)
    pairs = real[:, :, None] & real[:, None] & ~torch.eye(conds.shape[1], dtype=torch.bool, device=conds.device)
    push = (min_separation - distance).clamp(min=0) / 2 * pairs  # (B, K, K), half for each of the two
    return (push[..., None] * apart / distance[..., None]).sum(2)


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
        batch_size: most pairs in the network at once; bounds the memory.

    Raises:
        UserError: more objects than candidates that may stand together.
        FloatingPointError: a prediction is not finite.
    """
    numbers = image_numbers or list(range(len(posterior)))
    device = posterior.mean.device
    candidates = candidate_grid(num_candidates, bounds)
    draws = draw_for_images(posterior, num_draws, t_range, image_generators(seed, numbers, stream=3), stratified=True)
    matrix, base = price_candidates(denoiser, posterior, candidates, draws, batch_size)
    allowed = torch.cdist(candidates, candidates) >= max(min_separation, 1e-6)  # (M, M)
    conds = torch.zeros(len(posterior), int(num_concepts.max()), candidates.shape[1])
    gain = torch.ones(len(posterior))
    for image, k in enumerate(num_concepts.tolist()):
        chosen, gain[image] = best_gain(matrix.A[image].cpu(), k, allowed)
        if len(chosen) < k:
            raise UserError(
                f"{k} objects asked for, {len(chosen)} of the {len(candidates)} candidates may stand together; "
                "raise --num_candidates or lower --min_separation"
            )
        conds[image, :k] = candidates[chosen]
    conds, error = refine(
        denoiser,
        draws,
        conds.to(device),
        num_concepts,
        gain=gain.to(device),
        base=base,
        min_separation=min_separation,
        num_steps=num_steps,
        learning_rate=learning_rate,
        batch_size=batch_size,
    )
    rows = num_concepts.to(device) * num_draws
    return Inferred(
        conds=conds,
        num_concepts=num_concepts,
        error=error,
        forward=rows * (num_steps + 1) + len(candidates) * num_draws,
        backward=rows * num_steps,
        extra={"gain": gain},
    )
