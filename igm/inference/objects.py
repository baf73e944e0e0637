"""What each object of a scene is, under a separable network: every combination of attributes is priced by the error form.

Places are found first, with unknown attributes. Then the objects are asked one after the other, the others standing as
they are: all combinations of one object's attributes (CLEVR: 96) enter the composition in its place, and the one of the
lowest error at the best gain stays. Rounds go on until nothing changes, so that each object's attributes are the best given
those of all others: neighbours explain the same pixels, and no object is judged alone.
"""

import itertools
from collections.abc import Sequence
from typing import Any, Unpack

import torch

from igm.data.vocabulary import Vocabulary, names_of
from igm.error_form import ErrorForm, gain_score
from igm.inference.closed_form_refine import Sets, refine
from igm.inference.counting import PursuitMethod
from igm.inference.method import Batching, check_counts, register
from igm.inference.phi import Phi
from igm.inference.separable import Judged, SeparableSearch, infer_known, infer_number
from igm.inference.types import Inferred, Posterior
from igm.models.denoiser import Denoiser

ROUNDS = 4  # of all objects one after the other; most scenes need two
SETTLE = 4  # steps of the places once the attributes are known


def combinations(vocabulary: Vocabulary) -> torch.Tensor:
    """All values of all attributes: one-hot blocks (M, D - 2), M the product of the numbers of values."""
    eyes = [torch.eye(len(values)) for values in vocabulary.values()]
    return torch.stack([torch.cat(rows) for rows in itertools.product(*eyes)])


class Describer:
    """The prices of one image's objects at fixed places.

    Args:
        form: its error form (B = 1). phi: of the network. places: (K, 2). blocks: combinations (M, D - 2).
    """

    def __init__(self, form: ErrorForm, phi: Phi, places: torch.Tensor, values: torch.Tensor):
        self.form, self.values = form, values
        k, m = len(places), len(values)
        conds = torch.cat([places[:, None].expand(-1, m, -1), values.expand(k, -1, -1)], dim=2)  # (K, M, D)
        self.phi = phi(conds.flatten(0, 1)).unflatten(0, (k, m))  # (K, M, P, R)
        self.b = (form.g[0] * self.phi).sum((2, 3))  # (K, M)
        curved = torch.stack([form.times(own[None])[0] for own in self.phi])  # (K, M, P, R)
        self.own = (curved * self.phi).sum((2, 3))  # (K, M): <phi, H phi>

    def scores(self, k: int, rest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """L and Q (M,) of each combination of object k beside the others, whose m is `rest` (P, R)."""
        linear, quadratic = self.form.parts(rest[None, None])
        cross = (self.form.times(rest[None, None])[0, 0] * self.phi[k]).sum((1, 2))  # (M,)
        return linear[0, 0] + self.b[k], quadratic[0, 0] + 2 * cross + self.own[k]

    def descend(self, chosen: torch.Tensor, m: torch.Tensor, rounds: int) -> torch.Tensor:
        """The combination of each object (K,), after rounds of one object after the other from `chosen`, whose sum is m."""
        for _ in range(rounds):
            before = chosen.clone()
            for k in range(len(chosen)):
                rest = m - self.phi[k, chosen[k]]
                chosen[k] = gain_score(*self.scores(k, rest)).argmax()
                m = rest + self.phi[k, chosen[k]]
            if bool((chosen == before).all()):
                break
        return chosen


def describe(form: ErrorForm, phi: Phi, places: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The objects (K, D) of one image at `places` (K, 2): each with the combination that is best given all others'.

    Args:
        values: the combinations there are (M, D - 2).
    """
    asked = Describer(form, phi, places, values)
    unknown = phi(places)  # (K, P, R)
    chosen = torch.zeros(len(places), dtype=torch.long, device=places.device)
    m = unknown.sum(0)
    for k in range(len(places)):  # the first values: the others unknown, or as already chosen
        rest = m - unknown[k]
        chosen[k] = gain_score(*asked.scores(k, rest)).argmax()
        m = rest + asked.phi[k, chosen[k]]
    return torch.cat([places, values[asked.descend(chosen, m, ROUNDS)]], dim=1)


def evidence(form: ErrorForm, phi: Phi, conds: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """By how much each combination of each object lowers the error, the others standing as in conds (K, D): (K, M).

    In units of one latent's share of the error, so that sets of any resolution compare.
    """
    asked, each = Describer(form, phi, conds[:, :2], values), phi(conds)  # each: (K, P, R)
    lower = torch.stack([gain_score(*asked.scores(k, each.sum(0) - each[k])) for k in range(len(conds))])
    return lower * each.shape[1] * phi.network.config.in_channels


def marginals(lower: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
    """How likely each value of each object is: (K, D - 2), the values of an attribute summing to 1.

    Args:
        lower: (K, M), of `evidence`. values: the combinations (M, D - 2). scale: calibrated; 0 makes all alike.
    """
    return torch.softmax(scale * lower, dim=1) @ values


class SceneSearch(SeparableSearch):
    """Places and numbers as `SeparableSearch` finds them; then what stands there, which moves the places a little."""

    def told(self, image: int, sets: list[Sets]) -> list[Sets]:
        """An image's sets (each S = 1, conds (1, 1, K, 2)) with attributes."""
        form = self.form[slice(image, image + 1)]
        return [self.with_attributes(form, own) for own in sets]

    def with_attributes(self, form: ErrorForm, sets: Sets) -> Sets:
        """A set with the attributes that are best, at the places that are best for them."""
        values = self.values.to(sets.conds)
        conds = describe(form, self.phi, sets.conds[0, 0, :, :2], values)
        settled = refine(form, self.phi, conds[None, None], sets.real, min_separation=self.separation, num_steps=SETTLE)
        return settled

    def answer(self, sets: list[list[Sets]], judged: list[Judged]) -> Inferred:
        """Also how likely each value of each object is."""
        found, values, scale = super().answer(sets, judged), self.values.to(self.form.g), self.settings.attribute_scale
        each = [own[verdict.best].conds[0, 0] for own, verdict in zip(sets, judged, strict=True)]  # (K, D)
        found.marginals = [marginals(self.evidence(i, conds), values, scale).cpu() for i, conds in enumerate(each)]
        return found

    def evidence(self, image: int, conds: torch.Tensor) -> torch.Tensor:
        """`evidence` (K, M) of an image's objects (K, D)."""
        return evidence(self.form[slice(image, image + 1)], self.phi, conds, self.values.to(conds))

    @property
    def values(self) -> torch.Tensor:
        """All combinations of attributes (M, D - 2)."""
        vocabulary = self.denoiser.facts.vocabulary
        if vocabulary is None:
            raise ValueError("the checkpoint's facts have no vocabulary")
        return combinations(vocabulary)


@register
class ObjectsMethod(PursuitMethod):
    """Places, number and attributes of objects, by the error forms of a separable network that knows whole objects."""

    task = "objects"
    about = "pursuit: places, then every combination of attributes, priced by one error form"
    paper = ""

    def __init__(self, model: Denoiser, settings: Any, names: Sequence[str] = (), precision: str = "no"):
        super().__init__(model, settings, names or names_of(model.facts.vocabulary or {}), precision)

    def infer(self, posterior: Posterior, num_concepts: torch.Tensor | None, **batching: Unpack[Batching]) -> Inferred:
        """Objects; see `SceneSearch`."""
        if self.seeks_count(self.settings):
            return infer_number(self.model, posterior, self.settings, search_class=SceneSearch, **batching)
        counts = check_counts(num_concepts)
        return infer_known(self.model, posterior, counts, self.settings, search_class=SceneSearch, **batching)
