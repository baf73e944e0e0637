"""The paper's method for attributes: the composition of one value each with the lowest error."""

from typing import Unpack

import torch

from igm.encoding import all_concepts
from igm.inference.discrete import OneOfEach, infer_discrete
from igm.inference.method import Batching, DenoiserMethod, register
from igm.inference.settings import DiscreteSettings
from igm.inference.types import Inferred, Posterior


@register
class AttributeSearch(DenoiserMethod):
    """All combinations of values priced by one error matrix."""

    name, task, run, shipped = "discrete", "attributes", "celeba", "celeba-mini"
    about = "the paper's search over attribute values, every combination priced from one error matrix"
    settings_class = DiscreteSettings
    measured = True

    def infer(
        self,
        posterior: Posterior,
        num_concepts: torch.Tensor | None,
        **batching: Unpack[Batching],
    ) -> Inferred:
        """One value of each attribute; their number is that of the names."""
        k = len(self.names)
        return infer_discrete(
            self.model,
            posterior,
            all_concepts(k),
            OneOfEach([2] * k),
            self.settings,
            **batching,
        )
