"""The two baselines of discrete attributes: one label for all of them together, and a classifier."""

from collections.abc import Sequence

import torch

from igm import UserError
from igm.baselines.resnet50 import Classifier
from igm.inference.discrete import MOST_ENUMERATED, OneOfEach, infer_discrete
from igm.inference.types import Inferred, Posterior
from igm.models.denoiser import Denoiser


def joint_choices(sizes: Sequence[int]) -> torch.Tensor:
    """Every combination of one value per concept, as candidate numbers (2^K, K) counted over all concepts.

    Raises:
        UserError: too many to give each its own network row.
    """
    total = int(torch.tensor(sizes, dtype=torch.float64).prod())
    if total > min(4096, MOST_ENUMERATED):
        raise UserError(f"{total:,} combinations are too many to price each by itself; name fewer --attributes")
    starts = torch.tensor([sum(sizes[:k]) for k in range(len(sizes))])
    return torch.cartesian_prod(*[torch.arange(size) for size in sizes]).view(total, len(sizes)) + starts


def infer_joint(denoiser: Denoiser, posterior: Posterior, values: torch.Tensor, sizes: Sequence[int], **settings):
    """Generative classifier: the joint label with the lowest denoising error (diffusion classifier, Li et al. 2023).

    Args:
        values: (M, D) rows of all concepts' values, concept by concept; a joint label is the sum of one of each.
        sizes: values per concept. settings: of `infer_discrete`.

    Returns:
        Inferred with the K rows of each image's label: conds (B, K, D).
    """
    choices = joint_choices(sizes)  # (L, K)
    found = infer_discrete(denoiser, posterior, values[choices].sum(1), OneOfEach([len(choices)]), **settings)
    chosen = torch.tensor(found.extra["chosen"])[:, 0]  # (B,)
    found.conds, found.num_concepts = values[choices[chosen]], torch.full((len(chosen),), len(sizes))
    found.extra["chosen"] = choices[chosen].tolist()
    return found


@torch.no_grad()
def infer_classifier(model: Classifier, posterior: Posterior, values: torch.Tensor) -> Inferred:
    """The attribute values that a classifier finds likelier: pixels in, conds (B, K, D) out.

    Args:
        posterior: of the classifier's own codec: its mean is the images. values: (2 K, D), as in `infer_joint`.

    Returns:
        Inferred; error is the cross-entropy of the chosen values, confidence the probability of all of them together.
    """
    logits = model.network(posterior.mean).float().cpu()  # (B, K)
    b, k = logits.shape
    chosen = 2 * torch.arange(k) + (logits > 0)  # (B, K)
    likelihood = torch.nn.functional.logsigmoid(logits.abs())  # (B, K)
    return Inferred(
        conds=values[chosen],
        num_concepts=torch.full((b,), k),
        error=-likelihood.mean(1),
        forward=torch.ones(b, dtype=torch.long),
        backward=torch.zeros(b, dtype=torch.long),
        confidence=likelihood.sum(1).exp(),
        extra={"chosen": chosen.tolist()},
    )
