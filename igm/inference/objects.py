"""Whole scenes under a separable network: places and their number first, then what each object is, which changes both.

With their attributes, objects explain their pixels so well that what is left over tells of others.
"""

import functools
from collections.abc import Sequence
from typing import Any, Unpack

import torch

from igm.data.vocabulary import Vocabulary, blocks, names_of
from igm.error_form import ErrorForm
from igm.inference.closed_form import Search
from igm.inference.closed_form_refine import Sets, refine
from igm.inference.counting import PursuitMethod
from igm.inference.describing import combinations, describe, evidence, marginals, omissions
from igm.inference.method import Batching, check_counts, register
from igm.inference.separable import SAME, Judged, SeparableSearch, infer_known, infer_number
from igm.inference.settings import PursuitSettings
from igm.inference.types import Inferred, Posterior
from igm.models.denoiser import Denoiser

SETTLE = 4  # steps of the places once the attributes are known
SAME_PLACE = 0.05  # what was found so near to a place that is asked for is what stands there
AROUND = 0.25  # where an object comes or goes, what stands nearer is asked again what it is
MOVES = 3  # of objects with attributes, at most
HOPEFUL = 0.3  # of an object's worth: an error that is higher by more is not tried with attributes


def changed_place(start: Sets, other: Sets) -> torch.Tensor:
    """Where the object stands (1, 2) that one of two sets (each B = S = 1) has, and the other lacks."""
    one, two = sorted((own.conds[0, 0, :, :2] for own in (start, other)), key=len)
    return two[torch.cdist(two, one).amin(1).argmax()][None]


class SceneSearch(SeparableSearch):
    """Places and numbers as `SeparableSearch` finds them; then what stands there (`igm.inference.describing`).

    Sets are tried again with the object taken out that is missed least, and with one more where the error is lowered most.
    """

    objects = True
    near = 0  # sets of other numbers are sought once the likely one has attributes
    first_penalty = 1e-3  # lower than for places: sets of more objects than there are get attributes, too

    def first_look(self) -> Inferred:
        """Also what the objects are."""
        found = list(self.begun[0].values())
        looked = self.seen(self.named(0, found[self.likely(found)]))
        looked.marginals = [self.marginals(0, looked.conds[0])]
        return looked

    @functools.cached_property
    def begun(self) -> list[dict[int, Sets]]:
        """Each image's likely set with attributes, and those of an object less and one more, by the number less 1."""
        found = []
        for i, sets in enumerate(self.every):
            best, search = self.likely(sets), self.alone(i)
            found.append({best: self.with_attributes(search.form, sets[best])})
            self.extend(found[i], best, search, sets)
        return found

    def told(self, image: int) -> list[Sets]:
        """An image's sets of every number, those near the likely one with attributes."""
        sets, search, found = self.every[image], self.alone(image), dict(self.begun[image])
        new, best = list(found)[1:], next(iter(found))
        while new:
            for i in new:
                if i > best:  # what the best set takes for one object may be two: a larger one is also sought anew
                    found[i] = min(found[i], self.anew(image, search, sets[i]), key=lambda own: float(own.error))
            for i in new:
                found[best] = self.exchanged(search, found[i], found[best])
            best = list(found)[self.likely(list(found.values()))]
            new = self.extend(found, best, search, sets)
        return [found.get(i, own) for i, own in enumerate(sets)]

    def anew(self, image: int, search: Search, sets: Sets) -> Sets:
        """A set of places alone after moves, with attributes."""
        return self.with_attributes(search.form, self.improved(torch.tensor([image], device=self.form.g.device), sets))

    def alone(self, image: int) -> Search:
        """The search in one of the images."""
        return self.whole.among(torch.tensor([image], device=self.form.g.device))

    def extend(self, found: dict[int, Sets], best: int, search: Search, sets: list[Sets]) -> list[int]:
        """Add the sets of an object less and of one more than the best to those found; their numbers, less 1."""
        new = [i for i in (best - 1, best + 1) if 0 <= i < len(sets) and i not in found]
        for i in new:
            other = self.changed(search, found[best], less=i < best)
            near = changed_place(found[best], other) if bool(other.error.isfinite()) else None
            found[i] = self.with_attributes(search.form, sets[i] if near is None else other, near)
        return new

    def changed(self, search: Search, sets: Sets, less: bool) -> Sets:
        """A set without the object that is missed least, or with one more where it lowers the error most."""
        return self.without_one(search.form, sets) if less else search.enlarged(sets)

    def described(self, image: int, sets: Sets) -> Sets:
        """An image's set of a known number with attributes."""
        search = self.alone(image)
        return self.moved(search, self.with_attributes(search.form, sets))

    def exchanged(self, search: Search, start: Sets, own: Sets) -> Sets:
        """A set `own`, or that of another number `start` with an object less or more, whichever has the lower error."""
        other = self.changed(search, start, less=start.conds.shape[2] > own.conds.shape[2])
        if not float(other.error) < float(own.error) + self.hope(search, own):
            return own
        other = self.with_attributes(search.form, other, near=changed_place(start, other))
        return min(own, other, key=lambda one: float(one.error))

    def hope(self, search: Search, sets: Sets) -> float:
        """How much higher than a set's an error may be before attributes and refinement, and still be tried."""
        return HOPEFUL * float(search.form.const[0] - sets.error[0, 0]) / sets.conds.shape[2]

    def moved(self, search: Search, sets: Sets) -> Sets:
        """A set after moves, each of the object that is missed least to where the error is lowered most."""
        for _ in range(MOVES):
            if sets.conds.shape[2] == 1:
                break
            less = self.without_one(search.form, sets)
            other = search.enlarged(less)
            if not float(other.error) < float(sets.error) + self.hope(search, sets):
                break
            near = torch.cat([changed_place(sets, less), changed_place(less, other)])
            other = self.with_attributes(search.form, other, near=near)
            if not float(other.error) < float(sets.error) * (1 - SAME):
                break
            sets = other
        return sets

    def without_one(self, form: ErrorForm, sets: Sets) -> Sets:
        """A set without the object whose absence raises the error least."""
        each = self.phi(sets.conds[0, 0])  # (K, P, R)
        errors, gains = form.error_at_best_gain((each.sum(0) - each)[None])  # (1, K)
        out = int(errors[0].argmin())
        stay = [k for k in range(len(each)) if k != out]
        part = [errors[:, out : out + 1], gains[:, out : out + 1]]
        return Sets(sets.conds[:, :, stay], sets.real[:, :, stay], *part)

    def with_attributes(
        self, form: ErrorForm, sets: Sets, near: torch.Tensor | None = None, num_steps: int = SETTLE
    ) -> Sets:
        """A set with the attributes that are best, at the places that are best for them after some steps.

        Args:
            near: (N, 2), places: only objects around them are asked what they are; None: all.
        """
        conds = sets.conds[0, 0]
        asked = None if near is None else torch.cdist(conds[:, :2], near.to(conds)).amin(1) < AROUND
        conds = describe(form, self.phi, conds, self.values, asked, self.omitted)
        where, least = conds[None, None], self.separation
        return refine(form, self.phi, where, sets.real, min_separation=least, num_steps=num_steps)

    def still(self, conds: torch.Tensor) -> Sets:
        """A set of the first image, conds (1, 1, K, D), as it stands."""
        real = torch.ones(conds.shape[:3], dtype=torch.bool, device=conds.device)
        return refine(self.form[:1], self.phi, conds, real, min_separation=0.0, num_steps=0)

    def answer(self, sets: list[list[Sets]], judged: list[Judged]) -> Inferred:
        """Also how likely each value of each object is."""
        for i, (own, verdict) in enumerate(zip(sets, judged, strict=True)):
            if (
                own[verdict.best].conds.shape[3] == 2
            ):  # far from the likely number on the draws that chose, not on these
                own[verdict.best] = self.with_attributes(self.form[slice(i, i + 1)], own[verdict.best])
            own[verdict.best] = self.named(i, own[verdict.best])
        found = super().answer(sets, judged)
        each = [own[verdict.best].conds[0, 0] for own, verdict in zip(sets, judged, strict=True)]  # (K, D)
        found.marginals = [self.marginals(i, conds) for i, conds in enumerate(each)]
        return found

    def named(self, image: int, sets: Sets) -> Sets:
        """An image's set with a value of every attribute; places stay."""
        conds, form = sets.conds[0, 0], self.form[slice(image, image + 1)]
        unknown = torch.stack([~conds[:, block].any(1) for _, block in blocks(self.vocabulary)]).any(0)  # (K,)
        if not bool(unknown.any()):
            return sets
        conds = describe(form, self.phi, conds, self.values, unknown)
        return refine(form, self.phi, conds[None, None], sets.real, min_separation=0.0, num_steps=0)

    def marginals(self, image: int, conds: torch.Tensor) -> torch.Tensor:
        """How likely each value of each of an image's objects (K, D) is: (K, D - 2)."""
        return marginals(self.evidence(image, conds), self.values, self.settings.attribute_scale).cpu()

    def evidence(self, image: int, conds: torch.Tensor) -> torch.Tensor:
        """`evidence` (K, M) of an image's objects (K, D)."""
        return evidence(self.form[slice(image, image + 1)], self.phi, conds, self.values)

    @property
    def vocabulary(self) -> Vocabulary:
        """The checkpoint's."""
        vocabulary = self.denoiser.facts.vocabulary
        if vocabulary is None:
            raise ValueError("the checkpoint's facts have no vocabulary")
        return vocabulary

    @functools.cached_property
    def values(self) -> torch.Tensor:
        """All combinations of attributes (M, D - 2)."""
        return combinations(self.vocabulary).to(self.form.g)

    @functools.cached_property
    def omitted(self) -> torch.Tensor | None:
        """What of an object may stay unknown; nothing where training makes the only attribute unknown of all objects."""
        return omissions(self.vocabulary).to(self.form.g) if len(self.vocabulary) > 1 else None


@torch.no_grad()
def infer_at(denoiser: Denoiser, posterior: Posterior, places: torch.Tensor, settings: PursuitSettings) -> Inferred:
    """What stands at given places (K, 2) in [0, 1] of one image, B = 1, beside whatever else is found in it."""
    search = SceneSearch(denoiser, posterior, settings)
    s = search.settings
    sets = search.told(0)
    other = sets[search.judge(0, sets, rounds=[s.count_draws], t_range=s.count_range).best].conds[0, 0]
    near = torch.cdist(places.to(other), other[:, :2]).amin(0) < max(search.separation, SAME_PLACE)
    conds = torch.cat([search.phi.whole(places.to(other)), search.phi.whole(other[~near])])[None, None]
    found = search.with_attributes(search.form, search.still(conds), num_steps=0)
    judged = search.judge(0, [found], rounds=[s.confidence_draws], t_range=search.t_range)
    whole, k = search.answer([[found]], [judged]), len(places)
    whole.conds, whole.num_concepts = whole.conds[:, :k], torch.tensor([k])
    whole.object_confidence = [own[:k] for own in whole.object_confidence or []]
    whole.marginals = [own[:k] for own in whole.marginals or []]
    return whole


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
