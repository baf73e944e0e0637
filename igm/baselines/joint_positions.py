"""GC, the generative classifier, on positions: one prediction for all positions together, nothing composed.

The network is the published kind, whose cross-attention sees K tokens, one a position, instead of one. Attention has no
order, so that the prediction is a function of the SET of positions; padded ones are masked out.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from igm.inference.gradient import Gradient, check_finite, infer_by_descent, real_concepts
from igm.inference.method import check_counts, register
from igm.inference.settings import GradientSettings
from igm.inference.types import Inferred, Posterior
from igm.models.denoiser import Denoiser
from igm.models.precision import autocast
from igm.models.unet import JointPositionUNet
from igm.objective import Noise
from igm.resources import CONFIGS
from igm.training.compositional import CompositionalLearner, stacked
from igm.training.learner import Batch, Item


def predict_joint(
    denoiser: Denoiser, x_t: torch.Tensor, t: torch.Tensor, conds: torch.Tensor, real: torch.Tensor
) -> torch.Tensor:
    """The prediction (B, C, H, W), float32, for the positions conds (B, K, 2) together; real (B, K), 0 for padding."""
    with autocast(denoiser.device, denoiser.precision):
        return denoiser.network(x_t, t, encoder_hidden_states=conds, encoder_attention_mask=real).sample.float()


# Training: the compositional learner's loss, with one prediction in place of a composition.


class JointPositionsLearner(CompositionalLearner):
    """Generative classifier (GC): the same loss, data and schedule, conditioned on all positions together."""

    name, task = "joint_label", "positions"
    suffix = "gc"
    idle_options = frozenset({"contrast"})  # one prediction for all concepts
    defaults = {"unet_config": str(CONFIGS / "clevr-gc" / "config.json")}
    network_class = JointPositionUNet

    @staticmethod
    def collate(items: Sequence[Item], static_shapes: bool = False) -> Batch:
        """Images as the items hold them (B, ...), `conds` (B, K, 2) and `mask` (B, K); all batches have one shape."""
        return stacked(items)

    def error(self, x_0: torch.Tensor, noise: Noise, batch: Batch) -> torch.Tensor:
        """Denoising error (B,) of the prediction for all positions of an image."""
        x_t = self.denoiser.add_noise(x_0, noise.eps, noise.t)
        prediction = predict_joint(self.denoiser, x_t, noise.t, batch["conds"], batch["mask"])
        return (self.denoiser.target(x_0, noise.eps, noise.t) - prediction).square().flatten(1).mean(1)

    def idle_parameters(self, item: Item) -> tuple[nn.Parameter, ...]:
        """None: queries and keys choose among several positions."""
        return ()

    def trial_pass(self, network: nn.Module, rows: int, images: int) -> torch.Tensor:
        """All concepts of an image are one row."""
        x_t, t = torch.empty(images, *self.denoiser.latent_shape), torch.empty(images, dtype=torch.long)
        conds = torch.empty(images, max(1, rows // images), self.denoiser.cond_size)
        return network(x_t, t, conds, torch.ones(conds.shape[:2])).sample

    def pictures(self, items: Sequence[Item], **sampling: Any) -> list[list[torch.Tensor]]:
        """The input, and the generation from all of its positions."""
        return super().pictures([with_one_set(item) for item in items], **sampling)


def with_one_set(item: Item) -> Mapping[str, Any]:
    """An item whose positions (K, 2) are one concept of K tokens, (1, K, 2), as text is."""
    return {**item, "conds": item["conds"][item["mask"] > 0][None], "mask": torch.ones(1)}


# Inference: the paper's descent, on the error of the one prediction.


def joint_gradient(
    denoiser: Denoiser,
    x_0: torch.Tensor,
    t: torch.Tensor,
    eps: torch.Tensor,
    conds: torch.Tensor,
    *,
    real: torch.Tensor,
    batch_size: int,
    with_gradient: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Denoising error of every start's prediction on one draw per image, and its gradient in the positions.

    Args:
        x_0, eps: (B, C, H, W). t: (B,). conds: (B, R, K, 2). real: (B, R, K), False for padding.
        batch_size: most network rows at once; a start is one.

    Returns:
        errors (B, R), mean over C, H, W; gradient as conds, each start's own (zeros without `with_gradient`).

    Raises:
        FloatingPointError: a prediction is not finite.
    """
    target, x_t = denoiser.target(x_0, eps, t), denoiser.add_noise(x_0, eps, t)
    image = torch.arange(len(conds), device=x_0.device).repeat_interleave(conds.shape[1])  # (B R,)
    flat, mask = conds.flatten(0, 1), real.flatten(0, 1)  # (B R, K, 2), (B R, K)
    errors, gradient = torch.zeros(len(flat), device=x_0.device), torch.zeros_like(flat)
    for part in torch.arange(len(flat), device=x_0.device).split(batch_size):
        own = image[part]
        with torch.set_grad_enabled(with_gradient):
            picked = flat[part].requires_grad_(with_gradient)  # (P, K, 2)
            prediction = predict_joint(denoiser, x_t[own], t[own], picked, mask[part])  # (P, C, H, W)
            error = (target[own] - prediction).square().flatten(1).mean(1)  # (P,)
        check_finite(error, t)
        errors[part] = error.detach()
        if with_gradient:
            gradient[part] = torch.autograd.grad(error.sum(), picked)[0]
    return errors.view(conds.shape[:2]), gradient.view_as(conds)


def infer_joint_positions(
    denoiser: Denoiser,
    posterior: Posterior,
    num_concepts: torch.Tensor,
    settings: GradientSettings | None = None,
    *,
    batch_size: int = 1024,
    image_numbers: list[int] | None = None,
    record_every: int = 0,
) -> Inferred:
    """Infer positions by the descent of `infer_gradient`, with the same starts and draws, through a `JointPositionUNet`.

    Args:
        denoiser, posterior, ...: as in `infer_gradient`; a network row is one start under one draw, whatever its K.
    """
    s = settings or GradientSettings()
    real = real_concepts(num_concepts, s.num_inits).to(posterior.mean.device)
    errors = functools.partial(joint_gradient, denoiser, real=real, batch_size=batch_size)
    rows = torch.full_like(num_concepts, s.num_inits)
    return infer_by_descent(
        errors, denoiser, posterior, num_concepts, s, rows=rows, image_numbers=image_numbers, record_every=record_every
    )


@register
class JointPositions(Gradient):
    """The GC row of the CLEVR table."""

    name, task, run, shipped, learner = "gc", "positions", "clevr-gc", None, "joint_label"
    about = "GC, the generative classifier: gradient descent on all positions of one joint prediction"

    def infer(
        self,
        posterior: Posterior,
        num_concepts: torch.Tensor | None,
        *,
        image_numbers: list[int] | None,
        batch_size: int,
        record_every: int = 0,
    ) -> Inferred:
        """Positions of known numbers of objects; see `infer_joint_positions`."""
        return infer_joint_positions(
            self.model,
            posterior,
            check_counts(num_concepts),
            self.settings,
            batch_size=batch_size,
            image_numbers=image_numbers,
            record_every=record_every,
        )
