"""Pictures of compositions: concepts as people say them become conditions, and the sampler denoises under all of them.

Weights are those of composable diffusion (Liu et al. 2022): 1 each by default, below 0 for what shall not be there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from igm import UserError
from igm.composition import entering_weights, guided_predictor, weighted_predictor
from igm.facts import Facts
from igm.figures.style import as_pil
from igm.inference.draws import image_generators
from igm.kinds import Kind
from igm.models.denoiser import Denoiser
from igm.models.sampling import SCHEDULERS, CompositionPipeline
from igm.models.stable_diffusion import StableDiffusion
from igm.settings import SettingError, Settings, not_negative_float, positive, seed_number, setting

GENERATING = 11  # stream of random numbers
NEGATIVE = -0.5  # weight of a concept that shall not be there
STEERED = 1.5  # guidance of separable networks: at 1 their objects are faint (docs/generation.md)
SHAPED = 2.0  # of networks that draw: at 1 fewer shapes are as asked
TEXT_GUIDANCE = 7.5  # of Stable Diffusion, as diffusers has it


@dataclass(frozen=True, kw_only=True)
class SamplingSettings(Settings):
    """How pictures are sampled."""

    num_steps: int = setting(50, "denoising steps", kind=positive)
    scheduler: str = setting("DDPMScheduler", "sampler; DDIM and DPM-Solver add no noise", choices=tuple(SCHEDULERS))
    guidance: float | None = setting(
        None, "factor on what concepts add to no concept (default: the model's)", kind=not_negative_float
    )
    sample_batch: int = setting(16, "pictures sampled at once", kind=positive, determines=False)
    seed: int = setting(0, "of the noise", kind=seed_number)


def own_guidance(denoiser: Denoiser) -> float:
    """The guidance that a model takes where none is given.

    A pipeline whose facts name its classes was trained on their prompts alone: it does not know the empty one.
    """
    if isinstance(denoiser, StableDiffusion):
        return TEXT_GUIDANCE if denoiser.facts.classes is None else 1.0
    if denoiser.facts.draws and denoiser.facts.vocabulary:
        return SHAPED
    return STEERED if denoiser.is_separable else 1.0


@dataclass(frozen=True)
class Composition:
    """Concepts of one kind, those that shall not be there, and the weights of both in this order (default 1 and -0.5).

    Raises:
        UserError: numbers that do not fit.
    """

    kind: Kind
    concepts: Sequence[Any]
    negative: Sequence[Any] = ()
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        for name, own in ((self.kind.name, self.concepts), ("negative", self.negative)):
            if isinstance(own, str | Mapping) or not hasattr(own, "__len__"):
                raise UserError(f"{name}={own!r}: must be a list")
        if not len(self.concepts):
            raise UserError(f"{self.kind.name}: at least one is needed")
        both, given = len(self.concepts) + len(self.negative), self.weights
        if given is not None and len(given) not in (len(self.concepts), both):
            raise UserError(f"weights: {len(given)} for {both} concepts; give one for each")
        if not np.isfinite(self.all_weights).all():
            raise UserError(f"weights {given}: must be finite numbers")
        if any(w > 0 for w in self.all_weights[len(self.concepts) :]):
            raise UserError(f"weights {given}: those of negative concepts must not be above 0")
        if not any(w > 0 for w in self.all_weights):
            raise UserError(f"weights {given}: at least one must be above 0")

    @property
    def all_weights(self) -> list[float]:
        """A weight for each concept, then for each negative one."""
        given = [1.0] * len(self.concepts) if self.weights is None else [float(w) for w in self.weights]
        return given + [NEGATIVE] * (len(self.concepts) + len(self.negative) - len(given))

    def check(self, facts: Facts) -> None:
        """Raise UserError where a model of these facts does not know a concept, or cannot weigh it."""
        self.kind.check([*self.concepts, *self.negative], facts)
        if facts.draws and not {0.0, 1.0}.issuperset(self.all_weights):
            raise UserError(
                "weights and negative concepts: the model draws the objects of a scene together and weighs none; "
                "leave them out, or name one that weighs them (clevr-scene-mini)"
            )

    def predictor(self, denoiser: Denoiser, guidance: float | None) -> Callable[[int], Any]:
        """A function of the number of pictures that gives the composed prediction; see `weighted_predictor`.

        Raises:
            UserError: weights or a guidance that the network cannot follow.
        """
        conds = self.kind.conds([*self.concepts, *self.negative], denoiser).to(denoiser.device)
        reads = isinstance(denoiser, StableDiffusion)
        guidance = own_guidance(denoiser) if guidance is None else guidance
        if denoiser.facts.draws:
            return self.drawn(denoiser, conds, guidance)
        if guidance != 1 and not (denoiser.is_separable or reads):
            raise UserError(f"guidance {guidance:g}: the network knows no picture without concepts; leave it out")
        try:
            weights = entering_weights(torch.tensor(self.all_weights), denoiser.composition, guidance)
        except ValueError:
            raise UserError(
                f"weights {self.all_weights}: must have a sum above 0, as the network takes a mean"
            ) from None
        if reads and guidance != 1:  # u + g (f - u), where u is the prediction of the empty prompt
            conds = torch.cat([conds, self.kind.conds([""], denoiser).to(conds)])
            weights = torch.cat([weights, weights.new_tensor([1 - guidance])])
        return lambda number: weighted_predictor(denoiser, conds, weights.to(conds.device), number)

    def drawn(self, denoiser: Denoiser, conds: torch.Tensor, guidance: float) -> Callable[[int], Any]:
        """As `predictor`, of a network that draws: guidance leads away from the same places with unknown attributes.

        Raises:
            UserError: the network knows no attributes, and is to be guided.
        """
        weights = torch.tensor(self.all_weights, device=conds.device)
        if guidance == 1:
            return lambda number: weighted_predictor(denoiser, conds, weights, number)
        if conds.shape[1] == 2:
            raise UserError(f"guidance {guidance:g}: the model draws places alone, and has nothing to lead away from")
        unknown = torch.cat([conds[:, :2], torch.zeros_like(conds[:, 2:])], dim=1)  # (K, D)
        return lambda number: guided_predictor(denoiser, conds, unknown, weights, guidance, number)


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    composition: Composition,
    num_images: int,
    settings: SamplingSettings,
    *,
    start: torch.Tensor | None = None,
    strength: float = 1.0,
) -> torch.Tensor:
    """Pictures (B, 3, R, R) in [-1, 1] of a composition; each has noise of its own, whatever the batches.

    Args:
        start: clean latents (1, C, H, W) that are noised and denoised again instead of pure noise.
        strength: to what share of the steps; see `CompositionPipeline`.

    Raises:
        UserError: concepts, weights or a guidance that the model does not know.
    """
    composition.check(denoiser.facts)
    predictor = composition.predictor(denoiser, settings.guidance)
    pipeline: Any = CompositionPipeline(denoiser, settings.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    pictures = []
    for part in torch.arange(num_images).split(settings.sample_batch):
        own = {} if start is None else {"start": start.expand(len(part), -1, -1, -1), "strength": strength}
        generators = image_generators(settings.seed, part.tolist(), GENERATING)
        options = {"num_inference_steps": settings.num_steps, "generator": generators, **own}
        pictures.append(pipeline(predictor(len(part)), len(part), **options).float().clamp(-1, 1).cpu())
    return torch.cat(pictures)


def as_pictures(pixels: torch.Tensor) -> list[Image.Image]:
    """PIL pictures of (B, 3, R, R) in [-1, 1]."""
    return [as_pil(own) for own in pixels]


def settings_of(values: Mapping[str, Any]) -> SamplingSettings:
    """Sampling settings of keywords.

    Raises:
        UserError: one that there is not, or a value without sense.
    """
    try:
        return SamplingSettings(**values)
    except SettingError as error:
        raise UserError(error.in_words) from None
    except TypeError as error:
        raise UserError(f"{str(error).split('.')[-1]}; see SamplingSettings") from None
