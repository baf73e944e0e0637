"""The paper's method: gradient descent on the concepts through the frozen network."""

import functools
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch

from igm.data.images import decode_image
from igm.figures.animation import convergence_gif
from igm.inference.draws import draw_for_images, image_generators, with_offset_noise
from igm.inference.method import DenoiserMethod, check_counts, encode_images, register
from igm.inference.settings import GradientSettings
from igm.inference.types import Inferred, Posterior
from igm.models.composition import compose
from igm.models.denoiser import Denoiser

START_MEAN, START_STD = 0.5, 0.13  # the published code's start
CLIP_NORM = 1.0
STEPS_PER_DRAW = 50  # noise of so many steps is drawn at once


def infer_gradient(
    denoiser: Denoiser,
    posterior: Posterior,
    num_concepts: torch.Tensor,
    settings: GradientSettings | None = None,
    *,
    batch_size: int = 256,
    image_numbers: list[int] | None = None,
    record_every: int = 0,
) -> Inferred:
    """Infer the positions in each image by gradient descent on its denoising error (published `infer_clevr.py`).

    Minimises E_{t, eps} || y - (1/K) sum_k f(x_t, t | c_k) ||^2 over the c_k with Adam, the network frozen. Every start of
    every image descends in one batch; the starts of an image share its draws, one (t, eps) per step. No unconditional
    pass (it cancels), no encoding per step, no weight decay on the positions. The start with the lowest error on
    `num_draws` fresh draws, shared by all starts, wins. Starts are N(0.5, 0.13^2) in each coordinate.

    Args:
        denoiser: in eval mode; read, never updated.
        posterior: B images.
        num_concepts: (B,), K of each image.
        batch_size: most pairs (start, concept) in the network at once; bounds the memory.
        image_numbers: an image's randomness depends on the seed and its own number only.
        record_every: keep the positions of every so many steps in `trajectory`; 0 keeps none.

    Returns:
        Inferred, with the error of every start.

    Raises:
        FloatingPointError: a prediction is not finite.
    """
    s = settings or GradientSettings()
    real = real_concepts(num_concepts, s.num_inits).to(posterior.mean.device)
    errors = functools.partial(composition_gradient, denoiser, pairs=Pairs(real), batch_size=batch_size)
    rows = num_concepts * s.num_inits
    return infer_by_descent(
        errors, denoiser, posterior, num_concepts, s, rows=rows, image_numbers=image_numbers, record_every=record_every
    )


class ErrorsOf(Protocol):
    """What a descent minimises: as `composition_gradient`, of the starts of every image on one draw each."""

    def __call__(
        self,
        x_0: torch.Tensor,
        t: torch.Tensor,
        eps: torch.Tensor,
        conds: torch.Tensor,
        *,
        with_gradient: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Errors (B, R), and their gradient as conds (B, R, K, D)."""


def infer_by_descent(
    errors_of: ErrorsOf,
    denoiser: Denoiser,
    posterior: Posterior,
    num_concepts: torch.Tensor,
    settings: GradientSettings,
    *,
    rows: torch.Tensor,
    image_numbers: list[int] | None = None,
    record_every: int = 0,
) -> Inferred:
    """`infer_gradient` for any denoising error of a set of concepts; the composition's is one.

    Args:
        errors_of: the error. denoiser: says the size of a condition and the noise schedule.
        rows: (B,), network rows that one draw costs for all starts of each image.
    """
    s, numbers = settings, image_numbers or list(range(len(posterior)))
    r, device = s.num_inits, posterior.mean.device
    conds = first_positions(num_concepts, r, denoiser.cond_size, image_generators(s.seed, numbers, stream=0))
    conds = conds.to(device)
    t_range = s.range_of(denoiser.num_timesteps)
    trajectory = descend(
        errors_of,
        posterior,
        conds,
        s,
        t_range=t_range,
        generators=image_generators(s.seed, numbers, stream=1),
        record_every=record_every,
    )
    fresh = image_generators(s.seed, numbers, stream=2)
    errors = score_starts(errors_of, posterior, conds, s, t_range, fresh)  # (B, R)
    best = errors.argmin(1)  # (B,)
    rows = rows.to(device)
    return Inferred(
        conds=conds[torch.arange(len(conds), device=device), best],
        num_concepts=num_concepts,
        error=errors.gather(1, best[:, None])[:, 0],
        forward=rows * (s.num_steps + s.num_draws),
        backward=rows * s.num_steps,
        trajectory=torch.stack(trajectory) if trajectory else None,
        start_errors=errors,
        best_start=best,
    )


def first_positions(
    num_concepts: torch.Tensor, num_inits: int, cond_size: int, generators: list[torch.Generator]
) -> torch.Tensor:
    """Starts (B, R, K, D): normal around the middle, each image's from its own generator, padding at the middle."""
    conds = torch.full((len(num_concepts), num_inits, int(num_concepts.max()), cond_size), START_MEAN)
    for row, generator, k in zip(conds, generators, num_concepts.tolist(), strict=True):
        row[:, :k] += START_STD * torch.stack(
            [torch.randn(k, cond_size, generator=generator) for _ in range(num_inits)]
        )
    return conds.clamp(0, 1)


def real_concepts(num_concepts: torch.Tensor, num_inits: int) -> torch.Tensor:
    """Which of the padded concepts of every start are there: (B, R, K) bool, for num_concepts (B,)."""
    real = torch.arange(int(num_concepts.max()), device=num_concepts.device) < num_concepts[:, None]  # (B, K)
    return real[:, None].expand(-1, num_inits, -1)


def descend(
    errors_of: ErrorsOf,
    posterior: Posterior,
    conds: torch.Tensor,
    settings: GradientSettings,
    *,
    t_range: tuple[int, int],
    generators: list[torch.Generator],
    record_every: int,
) -> list[torch.Tensor]:
    """Adam on conds (B, R, K, D), in place, one draw per image and step; returns the recorded positions."""
    s = settings
    optimizer = torch.optim.AdamW(  # elementwise: rows never mix
        [conds], s.learning_rate, (s.adam_beta1, s.adam_beta2), s.adam_epsilon, s.adam_weight_decay
    )
    trajectory = [conds.to("cpu", copy=True)] if record_every else []
    for step in range(s.num_steps):
        now = step % STEPS_PER_DRAW
        if now == 0:
            steps = min(STEPS_PER_DRAW, s.num_steps - step)
            draws = draw_for_images(posterior, steps, t_range, generators, stratified=False)
            if s.offset_noise:
                draws = with_offset_noise(draws, generators)
        _, gradient = errors_of(draws.x_0[:, now], draws.t[:, now], draws.eps[:, now], conds)
        conds.grad = clip_norm(gradient, CLIP_NORM)
        optimizer.step()
        conds.clamp_(0, 1)
        if record_every and (step + 1) % record_every == 0:
            trajectory.append(conds.to("cpu", copy=True))
    return trajectory


class Pairs:
    """The real (image, start, concept) triples of a mask (B, R, K), in order.

    image (P,): row of the noisy images; start (P,): row of the B R compositions; weights (P,): 1 / K.
    """

    def __init__(self, real: torch.Tensor):
        self.shape = real.shape
        self.image, start, self.slot = real.nonzero(as_tuple=True)
        self.start = self.image * real.shape[1] + start
        self.weights = (1.0 / real.sum(2))[self.image, start]

    def pick(self, conds: torch.Tensor) -> torch.Tensor:
        """The pairs' conditions (P, D) of conds (B, R, K, D)."""
        return conds.flatten(0, 1)[self.start, self.slot]

    def chunks(self, size: int) -> list[torch.Tensor]:
        """Pair numbers in parts of about `size`, never cutting a composition in two."""
        per_start = torch.bincount(self.start, minlength=self.shape[0] * self.shape[1])
        ends = per_start.cumsum(0)
        parts, first = [], 0
        while first < int(ends[-1]):
            fits = ends[(ends > first) & (ends <= first + size)]
            last = int(fits[-1]) if len(fits) else int(ends[ends > first][0])
            parts.append(torch.arange(first, last, device=self.start.device))
            first = last
        return parts


def composition_gradient(
    denoiser: Denoiser,
    x_0: torch.Tensor,
    t: torch.Tensor,
    eps: torch.Tensor,
    conds: torch.Tensor,
    pairs: Pairs,
    batch_size: int,
    *,
    with_gradient: bool = True,
    gain: torch.Tensor | None = None,
    base: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Denoising error of every start's composition on one draw per image, and its gradient in the conditions.

    Args:
        x_0, eps: (B, C, H, W). t: (B,). conds: (B, R, K, D).
        gain, base: (B,) and (B, C, H, W); the composition is then base + gain (mean_k f_k - base).

    Returns:
        errors (B, R), mean over C, H, W; gradient as conds, each start's own (zeros without `with_gradient`).

    Raises:
        FloatingPointError: a prediction is not finite.
    """
    b, r = conds.shape[:2]
    target = denoiser.target(x_0, eps, t)
    weights = pairs.weights
    if gain is not None and base is not None:  # y - base - gain (f - base) = (y - (1 - gain) base) - gain f
        target = target - (1 - gain)[:, None, None, None] * base
        weights = weights * gain[pairs.image]
    with torch.no_grad():
        shared = denoiser.share(denoiser.add_noise(x_0, eps, t), t)
    errors = torch.zeros(b * r, device=x_0.device)
    gradient = torch.zeros_like(conds.flatten(0, 1))  # (B R, K, D)
    for part in pairs.chunks(batch_size):
        first, last = int(pairs.start[part[0]]), int(pairs.start[part[-1]]) + 1  # whole compositions
        with torch.set_grad_enabled(with_gradient):
            picked = pairs.pick(conds)[part].requires_grad_(with_gradient)  # (P, D)
            predictions = denoiser.predict_shared(shared, picked, pairs.image[part])  # (P, C, H, W)
            composed = compose(predictions, weights[part], pairs.start[part] - first, last - first)
            image = torch.arange(first, last, device=x_0.device) // r
            error = (target[image] - composed).square().flatten(1).mean(1)  # (compositions,)
        check_finite(error, t)
        errors[first:last] = error.detach()
        if with_gradient:
            gradient[pairs.start[part], pairs.slot[part]] = torch.autograd.grad(error.sum(), picked)[0]
    return errors.view(b, r), gradient.view_as(conds)


def check_finite(error: torch.Tensor, t: torch.Tensor) -> None:
    """Raise FloatingPointError where an error is not finite; names the timesteps t."""
    if not bool(error.isfinite().all()):
        raise FloatingPointError(f"a prediction is not finite at timesteps {t.tolist()}; use --mixed_precision no")


@torch.no_grad()
def score_starts(
    errors_of: ErrorsOf,
    posterior: Posterior,
    conds: torch.Tensor,
    settings: GradientSettings,
    t_range: tuple[int, int],
    generators: list[torch.Generator],
) -> torch.Tensor:
    """Denoising error (B, R) of every start on `num_draws` fresh stratified draws that an image's starts share."""
    num_draws = settings.num_draws
    draws = draw_for_images(posterior, num_draws, t_range, generators, stratified=True)
    total = torch.zeros(conds.shape[:2], device=conds.device)
    for n in range(num_draws):
        errors, _ = errors_of(draws.x_0[:, n], draws.t[:, n], draws.eps[:, n], conds, with_gradient=False)
        total += errors
    return total / num_draws


def clip_norm(gradient: torch.Tensor, limit: float) -> torch.Tensor:
    """Scale each start's gradient (B, R, K, D) down to a norm of at most `limit`, as if it ran alone."""
    norm = gradient.flatten(2).norm(dim=2)[:, :, None, None]
    return gradient * (limit / (norm + 1e-6)).clamp(max=1)


@register
class Gradient(DenoiserMethod):
    """The paper's method."""

    name, task, run = "gradient", "positions", "clevr"
    shipped: ClassVar[str | None] = "clevr-mini"
    about = "gradient descent on the positions, as the paper; starts descend together and the best is taken"
    settings_class = GradientSettings

    @classmethod
    def seeks_count(cls, settings: GradientSettings) -> bool:
        """It needs the number of objects."""
        return False

    def infer(
        self,
        posterior: Posterior,
        num_concepts: torch.Tensor | None,
        *,
        image_numbers: list[int] | None,
        batch_size: int,
        record_every: int = 0,
    ) -> Inferred:
        """Positions of known numbers of objects; see `infer_gradient`."""
        return infer_gradient(
            self.model,
            posterior,
            check_counts(num_concepts),
            self.settings,
            batch_size=batch_size,
            image_numbers=image_numbers,
            record_every=record_every,
        )

    def illustrate(self, dataset: Any, group: str, folder: Path) -> list[Path]:
        """An animation of the descent for each of the first `animate` images."""
        return [
            self.animate(dataset, number, folder / f"animation_{group}_{number}.gif")
            for number in range(min(self.settings.animate, len(dataset)))
        ]

    def animate(self, dataset: Any, number: int, path: Path) -> Path:
        """Write an animation of one image's positions converging."""
        item = dataset[number]
        posterior = encode_images(self.model, item["pixel_values"][None])
        count = item["mask"].sum().long()[None]
        found = self.infer(posterior, count, image_numbers=[number], batch_size=1024, record_every=20)
        if found.trajectory is None or found.best_start is None:
            raise ValueError("the descent recorded no steps")
        steps, best = found.trajectory, int(found.best_start[0])
        true = item["conds"][item["mask"] > 0]
        picture = decode_image(dataset.path_of(number))
        convergence_gif(picture, steps[:, 0].numpy(), true.numpy(), path, best=best)
        return path
