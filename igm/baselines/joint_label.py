"""GC, the generative classifier: one label for all attributes together, nothing composed."""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import torch

from igm import UserError
from igm.encoding import all_concepts
from igm.inference.discrete import MOST_ENUMERATED, OneOfEach, infer_discrete
from igm.inference.method import Batching, DenoiserMethod, register
from igm.inference.settings import DiscreteSettings
from igm.inference.types import Inferred, Posterior
from igm.models.denoiser import Denoiser
from igm.training.compositional import CompositionalLearner


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


def infer_joint(
    denoiser: Denoiser,
    posterior: Posterior,
    values: torch.Tensor,
    sizes: Sequence[int],
    settings: DiscreteSettings | None = None,
    *,
    batch_size: int = 1024,
    image_numbers: list[int] | None = None,
) -> Inferred:
    """Generative classifier: the joint label with the lowest denoising error (diffusion classifier, Li et al. 2023).

    Args:
        values: (M, D) rows of all concepts' values, concept by concept; a joint label is the sum of one of each.
        sizes: values per concept. settings, ...: as in `infer_discrete`.

    Returns:
        Inferred with the K rows of each image's label: conds (B, K, D).
    """
    choices = joint_choices(sizes)  # (L, K)
    space, labels = OneOfEach([len(choices)]), values[choices].sum(1)  # (L, D)
    found = infer_discrete(
        denoiser, posterior, labels, space, settings, batch_size=batch_size, image_numbers=image_numbers
    )
    chosen = torch.tensor(found.chosen)[:, 0]  # (B,)
    found.conds, found.num_concepts = values[choices[chosen]], torch.full((len(chosen),), len(sizes))
    found.chosen = choices[chosen].tolist()
    return found


@register
class JointLabel(DenoiserMethod):
    """The paper's GC row."""

    name, task, run, learner = "gc", "attributes", "celeba-gc", "joint_label"
    about = "GC, the generative classifier: every joint label priced by itself"
    settings_class = DiscreteSettings
    measured = True

    def infer(
        self,
        posterior: Posterior,
        num_concepts: torch.Tensor | None,
        **batching: Unpack[Batching],
    ) -> Inferred:
        """The joint label of lowest error."""
        k = len(self.names)
        return infer_joint(
            self.model,
            posterior,
            all_concepts(k),
            [2] * k,
            self.settings,
            **batching,
        )


# Training: one network on the joint label.


class JointLabelLearner(CompositionalLearner):
    """Generative classifier (GC): the same network and loss, conditioned on all concepts together; nothing composed."""

    name, task = "joint_label", "attributes"
    suffix = "gc"
    idle_options = frozenset({"contrast"})  # one prediction for all concepts

    @staticmethod
    def collate(items: Sequence[Mapping[str, Any]], static_shapes: bool = False) -> dict[str, torch.Tensor]:
        """As that of the compositional learner, of items with one concept each."""
        return CompositionalLearner.collate([with_joint_label(item) for item in items], static_shapes)

    def pictures(self, items: Sequence[Mapping[str, Any]], **sampling: Any) -> list[list[torch.Tensor]]:
        """The input, and the generation from its joint label."""
        return super().pictures([with_joint_label(item) for item in items], **sampling)


def with_joint_label(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item whose K concepts (K, D) are one, (1, D): their sum, the rows of a one-hot label together."""
    joint = (item["conds"] * item["mask"][:, None]).sum(0, keepdim=True)  # (1, D)
    return {**item, "conds": joint, "mask": torch.ones(1)}
