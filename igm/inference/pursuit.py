"""Pursuit: a dictionary of positions priced by one error matrix, greedy addition and swaps, then a short refinement."""

from typing import Any

import torch

from igm import UserError
from igm.error_matrix import ErrorMatrix
from igm.inference.confidence import add_confidence, assess_objects
from igm.inference.draws import Draws, draw_for_images, image_generators
from igm.inference.gradient import Pairs, clip_norm, composition_gradient
from igm.inference.pricing import base_members, price_candidates, price_draws
from igm.inference.sets import candidate_grid, choose_sets, divide_cells, may_stand_together
from igm.inference.settings import PursuitSettings
from igm.inference.types import Inferred, Posterior
from igm.models.denoiser import Denoiser


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
    bank: dict[str, Any] = {
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
        gain=gain,
    )


def separating_push(conds: torch.Tensor, real: torch.Tensor, min_separation: float) -> torch.Tensor:
    """What moves pairs that are nearer than `min_separation` apart to it: conds (B, K, D), real (B, K) -> (B, K, D)."""
    apart = conds[:, :, None] - conds[:, None]  # (B, K, K, D)
    distance = apart.norm(dim=3).clamp(min=1e-6)
    pairs = real[:, :, None] & real[:, None] & ~torch.eye(conds.shape[1], dtype=torch.bool, device=conds.device)
    push = (min_separation - distance).clamp(min=0) / 2 * pairs  # (B, K, K), half for each of the two
    return (push[..., None] * apart / distance[..., None]).sum(2)


class Pursuit:
    """The search in one batch of images: a grid of candidates, its draws and error matrices; then finer positions.

    Raises:
        FloatingPointError: a prediction is not finite.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        posterior: Posterior,
        settings: PursuitSettings,
        image_numbers: list[int] | None = None,
        batch_size: int = 1024,
    ):
        s = self.settings = settings.for_facts(denoiser.facts).for_network(separable=False)
        self.denoiser, self.posterior, self.batch_size = denoiser, posterior, batch_size
        self.numbers = image_numbers or list(range(len(posterior)))
        self.candidates = candidate_grid(s.num_candidates, s.bounds)  # (M, 2)
        generators = image_generators(s.seed, self.numbers, stream=3)
        self.draws = draw_for_images(
            posterior, s.num_draws, s.range_of(denoiser.num_timesteps), generators, stratified=True
        )
        self.matrix, self.base = price_candidates(denoiser, posterior, self.candidates, self.draws, batch_size)
        self.forward = torch.full((len(posterior),), len(self.candidates) * s.num_draws)  # (B,), network rows so far

    def best_sets(self, image: int, num_concepts: int) -> list[tuple[torch.Tensor, float]]:
        """The best set of every size up to `num_concepts`, coarse to fine.

        The cells of the grid that any size chooses are divided, their parts priced on the same draws, and the sets read
        off that second matrix; where the search there ends higher, or early, the set on the grid stays.

        Returns:
            positions (K, 2) and gain for K = 1, 2, ...; fewer if no more may stand together.
        """
        grid, separation, draws = self.candidates, self.settings.min_separation, self.draws[image]
        base = base_members(len(grid))
        coarse = choose_sets(self.matrix.A[image].cpu(), num_concepts, may_stand_together(grid, separation), base)
        fine = divide_cells(grid, sorted({member for choice in coarse for member in choice.members}))
        dictionary = torch.cat([fine, grid[base]]).to(draws.x_0)
        matrix = ErrorMatrix(1, len(dictionary), draws.x_0.device)
        price_draws(self.denoiser, matrix, 0, draws, dictionary, self.batch_size)
        self.forward[image] += len(draws.t) * len(dictionary)
        rest = torch.arange(len(fine), len(dictionary))
        finer = choose_sets(matrix.A[0].cpu(), len(coarse), may_stand_together(fine, separation), rest)
        sets = [(choice.error, grid[choice.members], choice.gain) for choice in coarse]
        for k, choice in enumerate(finer):
            if choice.error < sets[k][0]:
                sets[k] = (choice.error, fine[choice.members], choice.gain)
        return [(positions, gain) for _, positions, gain in sets]

    def finish(self, conds: list[torch.Tensor], gains: list[float]) -> Inferred:
        """Refine one set (K, 2) per image, whose composition has a gain, and say how sure each object is."""
        s = self.settings
        found = refine(
            self.denoiser,
            self.draws,
            torch.nn.utils.rnn.pad_sequence(conds, batch_first=True),  # (B, K, 2), zeros beyond an image's own number
            torch.tensor([len(own) for own in conds]),
            gain=torch.tensor(gains),
            base=self.base,
            min_separation=s.min_separation,
            num_steps=s.num_steps,
            learning_rate=s.learning_rate,
            batch_size=self.batch_size,
        )
        found.forward += self.forward.to(found.forward)
        contributions = assess_objects(
            self.denoiser,
            self.posterior,
            found,
            self.candidates,
            num_draws=s.confidence_draws,
            t_range=s.range_of(self.denoiser.num_timesteps),
            seed=s.seed,
            numbers=self.numbers,
            batch_size=self.batch_size,
        )
        add_confidence(found, contributions, s.count_penalty, s.confidence_scale)
        return found


def infer_pursuit(
    denoiser: Denoiser,
    posterior: Posterior,
    num_concepts: torch.Tensor,
    settings: PursuitSettings | None = None,
    *,
    image_numbers: list[int] | None = None,
    batch_size: int = 1024,
) -> Inferred:
    """Infer positions from error matrices over candidates, then leave the grid by a short gradient descent.

    Args:
        denoiser: in eval mode. posterior: B images. num_concepts: (B,), K of each image.
        settings: what is None there comes from the checkpoint's facts.
        image_numbers: seed an image's draws, so that they do not depend on the batch.
        batch_size: most pairs in the network at once; bounds the memory.

    Returns:
        Inferred; the confidence is that every object is right.

    Raises:
        UserError: more objects than candidates that may stand together.
        FloatingPointError: a prediction is not finite.
    """
    pursuit = Pursuit(denoiser, posterior, settings or PursuitSettings(), image_numbers, batch_size)
    best = []
    for image, k in enumerate(num_concepts.tolist()):
        sets = pursuit.best_sets(image, k)
        if len(sets) < k:
            raise UserError(
                f"{k} objects asked for, {len(sets)} of the {len(pursuit.candidates)} candidates may stand together; "
                "raise --num_candidates or lower --min_separation"
            )
        best.append(sets[-1])
    conds, gains = zip(*best, strict=True)
    return pursuit.finish(list(conds), list(gains))
