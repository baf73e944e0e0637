"""How many concepts: the best set of every size is chosen on one set of noise draws and judged on fresh ones."""

import math
from dataclasses import dataclass
from typing import Unpack

import torch

from igm.error_matrix import ErrorMatrix
from igm.inference.confidence import confidence_of_choice, most_likely_scale
from igm.inference.draws import draw_for_images, image_generators
from igm.inference.method import Batching, DenoiserMethod, check_counts, register
from igm.inference.pricing import base_members, price_draws
from igm.inference.pursuit import Pursuit, infer_pursuit
from igm.inference.separable import infer_known, infer_number
from igm.inference.settings import PursuitSettings
from igm.inference.types import Inferred, Posterior
from igm.models.denoiser import Denoiser

DRAWS_PER_ROUND = 16
FITTED_GAINS = torch.linspace(0.8, 2.4, 33)
MOST = 4  # with a confidence asked for, at most so many times the usual draws


@dataclass
class Judgement:
    """What fresh draws say about sets: errors (N, S) and gains (S,), the number of the best, how sure, rows evaluated."""

    errors: torch.Tensor
    gains: torch.Tensor
    best: int
    confidence: float
    forward: int


def infer_count(
    denoiser: Denoiser,
    posterior: Posterior,
    settings: PursuitSettings | None = None,
    *,
    image_numbers: list[int] | None = None,
    batch_size: int = 1024,
) -> Inferred:
    """Infer how many objects there are, and where: error matrices find the best set of every size, fresh draws choose.

    K minimises the error on fresh draws plus `count_penalty` per object, so that every object has to earn its place, by a
    margin that is calibrated on training images. The fresh draws have the timesteps of `count_range` (nearly clean images
    say little about the number); with a `confidence` they come in rounds until the count is so sure, up to four times as
    many. The positions are then refined as in `infer_pursuit`.

    Args:
        settings, image_numbers, batch_size: as in `infer_pursuit`.

    Returns:
        Inferred; confidence (B,) that K is right; `count_errors`, the error of every K on every fresh draw.

    Raises:
        FloatingPointError: a prediction is not finite.
    """
    pursuit = Pursuit(denoiser, posterior, settings or PursuitSettings(), image_numbers, batch_size)
    s, conds, judged = pursuit.settings, [], []
    for image, generator in enumerate(image_generators(s.seed, pursuit.numbers, stream=5)):
        sets = [positions for positions, _ in pursuit.best_sets(image, s.max_objects)]
        judgement = judge(
            denoiser,
            posterior[image : image + 1],
            sets,
            pursuit.candidates,
            penalty=s.count_penalty or 0.0,
            num_draws=s.count_draws,
            t_range=s.count_range,
            confidence=s.confidence,
            scale=1.0 if s.count_scale is None else s.count_scale,
            generator=generator,
            batch_size=batch_size,
        )
        conds.append(sets[judgement.best])
        judged.append(judgement)
        pursuit.forward[image] += judgement.forward
    found = pursuit.finish(conds, [float(judgement.gains[judgement.best]) for judgement in judged])
    found.confidence = torch.tensor([judgement.confidence for judgement in judged])
    found.count_errors = [judgement.errors for judgement in judged]
    return found


def judge(
    denoiser: Denoiser,
    posterior: Posterior,
    sets: list[torch.Tensor],
    candidates: torch.Tensor,
    *,
    penalty: float,
    num_draws: int,
    t_range: tuple[int, int],
    confidence: float | None,
    scale: float,
    generator: torch.Generator,
    batch_size: int,
) -> Judgement:
    """Price one image's sets on fresh draws and take the one with the lowest error plus `penalty` per object.

    The gain of every set is fitted again on these draws. Without a confidence, `num_draws` draws; else rounds of draws
    until the choice is so sure, `MOST` times as many at most.

    Args:
        sets: positions (K, 2) each.
    """
    positions = torch.cat(sets).unique(dim=0)  # sets share many
    dictionary = torch.cat([positions, candidates[base_members(len(candidates))]])
    weights = torch.stack([weights_with_gains(one, positions, len(dictionary)) for one in sets])  # (S, gains, M)
    price = penalty * torch.tensor([len(one) for one in sets])  # (S,)
    matrix = ErrorMatrix(1, len(dictionary), posterior.mean.device, keep_draws=True)
    rounds = [num_draws] if confidence is None else [DRAWS_PER_ROUND] * -(-MOST * num_draws // DRAWS_PER_ROUND)
    for number in rounds:
        draws = draw_for_images(posterior, number, t_range, [generator], stratified=True)[0]
        price_draws(denoiser, matrix, 0, draws, dictionary.to(posterior.mean.device), batch_size)
        fits = matrix.error(weights.flatten(0, 1)[None].to(matrix.gram)).view(weights.shape[:2]).argmin(1).cpu()  # (S,)
        errors = matrix.errors_per_draw(0, weights[torch.arange(len(sets)), fits]).cpu()  # (N, S)
        best = int((errors.mean(0) + price).argmin())
        sure = confidence_of_choice(errors + price, best, scale)
        if confidence is not None and sure >= confidence < 1:
            break
    return Judgement(errors, FITTED_GAINS[fits], best, sure, len(errors) * len(dictionary))


def weights_with_gains(conds: torch.Tensor, positions: torch.Tensor, size: int) -> torch.Tensor:
    """A set (K, 2) under every gain, as weights (gains, M) on the positions and, after them, the base candidates."""
    own = (positions[:, None] == conds).all(2).any(1) / len(conds)  # (P,)
    base = torch.full((size - len(positions),), 1 / (size - len(positions)))
    gains = FITTED_GAINS[:, None]
    return torch.cat([gains * own, (1 - gains) * base], dim=1)


def fit_penalty(
    errors: list[torch.Tensor], counts: list[int], prices: list[torch.Tensor] | None = None
) -> tuple[float, float]:
    """The penalty per object under which most counts are right, and their share.

    Of all penalties that are as good within a standard error the middle one, as far as possible from counting too many and
    too few.

    Args:
        errors: per image, the error of every K (K_max,). counts: the true K.
        prices: per image, how many penalties every K pays (K_max,); one an object where they are None.
    """
    penalties = torch.linspace(0, 0.01, 201)
    prices = prices or [torch.arange(len(own)) for own in errors]
    right = torch.stack(
        [
            (own + penalties[:, None] * price).argmin(1) + 1 == k
            for own, price, k in zip(errors, prices, counts, strict=True)
        ]
    )  # (images, penalties)
    share = right.float().mean(0)
    most = float(share.max())
    best = penalties[share >= most - math.sqrt(most * (1 - most) / len(counts))]
    return round(float(best[len(best) // 2]), 5), most


def fit_count_scale(
    errors: list[torch.Tensor], counts: list[int], penalty: float, prices: list[torch.Tensor] | None = None
) -> float:
    """The `scale` under which the confidences of the chosen counts best predict which are right.

    Args:
        errors: per image, the error of every K on every draw (N, K_max). counts: the true K. prices: as in `fit_penalty`.
    """
    prices = prices or [torch.arange(own.shape[1]) for own in errors]
    costs = [own + penalty * price for own, price in zip(errors, prices, strict=True)]
    best = [int(own.mean(0).argmin()) for own in costs]
    right = torch.tensor([b + 1 == k for b, k in zip(best, counts, strict=True)])

    def confidences(scale: float) -> torch.Tensor:
        return torch.tensor([confidence_of_choice(own, b, scale) for own, b in zip(costs, best, strict=True)])

    return most_likely_scale(confidences, right)


@register
class PursuitMethod(DenoiserMethod):
    """Positions from error matrices; their number given, or sought too."""

    name, task, run, shipped = "pursuit", "positions", "clevr", "clevr-scene-mini"
    about = "pursuit: candidates priced by one error matrix, then refined"
    paper = "the paper's own: --config configs/paper/clevr_gradient.yaml"
    settings_class = PursuitSettings
    measured = True

    @classmethod
    def seeks_count(cls, settings: PursuitSettings) -> bool:
        """Whether the number of objects is sought."""
        return settings.count == "infer"

    @classmethod
    def variant(cls, settings: PursuitSettings) -> str:
        """Results with a count that was sought have a folder of their own."""
        return "-count" if settings.count == "infer" else ""

    def infer(
        self,
        posterior: Posterior,
        num_concepts: torch.Tensor | None,
        **batching: Unpack[Batching],
    ) -> Inferred:
        """Positions; see `infer_pursuit` and `infer_count`, for a separable network `infer_known` and `infer_number`."""
        s, separable = self.settings, self.model.is_separable
        if self.seeks_count(s):
            sought = infer_number if separable else infer_count
            return sought(self.model, posterior, s, **batching)
        counts, known = check_counts(num_concepts), infer_known if separable else infer_pursuit
        return known(self.model, posterior, counts, s, **batching)
