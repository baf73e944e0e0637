"""What each object of a scene is, under a separable network: every combination of attributes is priced by the error form.

Places are found first, with unknown attributes. Then the objects are asked one after the other, the others standing as
they are: all combinations of one object's attributes (CLEVR: 96) enter the composition in its place, and the one of the
lowest error at the best gain stays. Rounds go on until nothing changes, so that each object's attributes are the best given
those of all others: neighbours explain the same pixels, and no object is judged alone. Only a short list of combinations
is priced in full, those that are best where the object itself is, nearly all of what they differ by.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, Unpack

import torch

from igm.data.vocabulary import Vocabulary, names_of
from igm.error_form import ErrorForm, gain_score
from igm.inference.closed_form import Search
from igm.inference.closed_form_refine import Sets, refine
from igm.inference.counting import PursuitMethod
from igm.inference.method import Batching, check_counts, register
from igm.inference.phi import Phi
from igm.inference.separable import SAME, Judged, SeparableSearch, infer_known, infer_number
from igm.inference.settings import PursuitSettings
from igm.inference.types import Inferred, Posterior
from igm.models.denoiser import Denoiser

ROUNDS = 4  # of all objects one after the other; most scenes need two
SETTLE = 4  # steps of the places once the attributes are known
SAME_PLACE = 0.05  # what was found so near to a place that is asked for is what stands there
AROUND = 0.25  # where an object comes or goes, what stands nearer is asked again what it is
SHORT = 8  # combinations that are priced in full
NEAR = 12  # places of the latent grid, in each view, by which they are chosen
MOVES = 3  # of objects with attributes, at most
HOPEFUL = 0.3  # of an object's worth: an error that is higher by more is not tried with attributes


def combinations(vocabulary: Vocabulary) -> torch.Tensor:
    """All values of all attributes: one-hot blocks (M, D - 2), M the product of the numbers of values."""
    eyes = [torch.eye(len(values)) for values in vocabulary.values()]
    return torch.stack([torch.cat(rows) for rows in itertools.product(*eyes)])


class Describer:
    """The prices of one image's objects at fixed places, from the inner products of all that may stand there.

    Args:
        form: its error form (B = 1). conds: the objects (K, D) as they are; each: their phi (K, P, R).
        values: M combinations for each (K, M, D - 2). fixed: m (P, R) of all that is not asked.

    Attributes:
        as_it_is: M, the number under which an object is chosen as it is; below are its combinations.
    """

    def __init__(
        self,
        form: ErrorForm,
        phi: Phi,
        conds: torch.Tensor,
        each: torch.Tensor,
        values: torch.Tensor,
        fixed: torch.Tensor,
    ):
        k, self.as_it_is = values.shape[:2]
        whole = torch.cat([conds[:, None, :2].expand(-1, self.as_it_is, -1), values], dim=2)  # (K, M, D)
        may_stand = torch.cat(
            [phi(whole.flatten(0, 1)).unflatten(0, (k, -1)), each[:, None]], dim=1
        )  # (K, M + 1, P, R)
        rows = torch.cat([may_stand.flatten(0, 1), fixed[None]])  # (N, P, R), N = K (M + 1) + 1
        self.gram = rows.flatten(1) @ form.times(rows[None])[0].flatten(1).T  # (N, N)
        self.linear = rows.flatten(1) @ form.g[0].flatten()  # (N,)
        self.numbers = torch.arange(len(rows) - 1, device=rows.device).view(k, -1)  # (K, M + 1)

    def scores(self, k: int, chosen: torch.Tensor) -> torch.Tensor:
        """By how much the error falls with each combination (M,) of object k, beside those chosen (K,) of the others."""
        others = self.numbers.gather(1, chosen[:, None])[:, 0]  # (K,)
        others = torch.cat([others[:k], others[k + 1 :], others.new_tensor([len(self.gram) - 1])])  # what is fixed, too
        own = self.numbers[k, :-1]
        linear = self.linear[others].sum() + self.linear[own]
        quadratic = self.gram[others][:, others].sum() + 2 * self.gram[own][:, others].sum(1) + self.gram[own, own]
        return gain_score(linear, quadratic)

    def descend(self, chosen: torch.Tensor, rounds: int) -> torch.Tensor:
        """The combination of each object (K,), after rounds of one object after the other."""
        for _ in range(rounds):
            before = chosen.clone()
            for k in range(len(chosen)):
                chosen[k] = self.scores(k, chosen).argmax()
            if bool((chosen == before).all()):
                break
        return chosen


def describe(
    form: ErrorForm, phi: Phi, conds: torch.Tensor, values: torch.Tensor, asked: torch.Tensor | None = None
) -> torch.Tensor:
    """The objects (K, D) of one image at the places of conds (K, D or 2): each with the best combination given all others'.

    Args:
        values: the combinations there are (M, D - 2). The search starts from those that objects have already.
        asked: (K,) bool, the objects that are asked; the others keep what they have. None: all.
    """
    whole = phi.whole(conds).clone()
    rows = torch.arange(len(conds), device=conds.device) if asked is None else asked.nonzero()[:, 0]
    if not len(rows):
        return whole
    each = phi(whole)  # (K, P, R)
    m = each.sum(0)
    own = each[rows]
    cut = cut_scores(form, phi, whole[rows, :2], values, m - own)
    values = values[shortlists(cut, whole[rows], values)]  # (J, T, D - 2)
    prices = Describer(form, phi, whole[rows], own, values, m - own.sum(0))
    same = (whole[rows, None, 2:] == values).all(2)  # (J, T)
    known = same.any(1)
    chosen = torch.where(known, same.to(torch.int8).argmax(1), prices.as_it_is)  # (J,)
    for j in (~known).nonzero()[:, 0].tolist():  # those of unknown attributes
        chosen[j] = prices.scores(j, chosen).argmax()
    whole[rows, 2:] = values[torch.arange(len(rows)), prices.descend(chosen, ROUNDS)]
    return whole


def shortlists(cut: torch.Tensor, conds: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The best combinations by `cut_scores` (K, M), those of conds (K, D) among them: numbers (K, T), T at most SHORT."""
    present = (conds[:, None, 2:] == values).all(2)  # (K, M)
    return cut.masked_fill(present, torch.inf).topk(min(SHORT, len(values)), dim=1).indices


def cut_scores(
    form: ErrorForm, phi: Phi, places: torch.Tensor, values: torch.Tensor, rests: torch.Tensor
) -> torch.Tensor:
    """By how much each combination (M, D - 2) at each place (K, 2) lowers the error, phi cut off beyond the object: (K, M).

    Args:
        rests: for each place m (P, R) of the other objects: (K, P, R).
    """
    linear, quadratic = (own[0] for own in form.parts(rests[None]))  # (K,)
    scores = []
    for k, (place, rest) in enumerate(zip(places, rests, strict=True)):
        near = phi.around(place, NEAR)  # (J,)
        each = phi.at(torch.cat([place.expand(len(values), -1), values], dim=1), near).transpose(0, 1)  # (J, M, R)
        curved = each @ form.H[0, near]  # (J, M, R)
        more = (each @ form.g[0, near, :, None]).sum((0, 2))  # (M,)
        scores.append(gain_score(linear[k] + more, quadratic[k] + (curved * (each + 2 * rest[near, None])).sum((0, 2))))
    return torch.stack(scores)


def evidence(form: ErrorForm, phi: Phi, conds: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """By how much each combination of each object lowers the error, the others standing as in conds (K, D): (K, M).

    In units of one latent's share of the error, so that sets of any resolution compare. Of unlikely combinations the
    difference to the best one is that of `cut_scores`.
    """
    each = phi(conds)  # (K, P, R)
    m = each.sum(0)
    cut = cut_scores(form, phi, conds[:, :2], values, m - each)
    chosen = shortlists(cut, conds, values)  # (K, T)
    prices = Describer(form, phi, conds, each, values[chosen], torch.zeros_like(m))
    as_they_are = torch.full_like(chosen[:, 0], prices.as_it_is)
    full = torch.stack([prices.scores(k, as_they_are) for k in range(len(conds))])  # (K, T)
    best = full.argmax(1, keepdim=True)  # (K, 1)
    shift = full.gather(1, best) - cut.gather(1, chosen.gather(1, best))
    lower = (cut + shift).scatter(1, chosen, full)  # (K, M)
    return lower * each.shape[1] / len(phi.views) * phi.network.config.in_channels


def marginals(lower: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
    """How likely each value of each object is: (K, D - 2), the values of an attribute summing to 1.

    Args:
        lower: (K, M), of `evidence`. values: the combinations (M, D - 2). scale: calibrated; 0 makes all alike.
    """
    return (torch.softmax(scale * lower, dim=1) @ values).clamp(max=1)  # rounding may pass it


def changed_place(start: Sets, other: Sets) -> torch.Tensor:
    """Where the object stands (1, 2) that one of two sets (each B = S = 1) has, and the other lacks."""
    one, two = sorted((own.conds[0, 0, :, :2] for own in (start, other)), key=len)
    return two[torch.cdist(two, one).amin(1).argmax()][None]


class SceneSearch(SeparableSearch):
    """Places and numbers as `SeparableSearch` finds them; then what stands there, which moves places and changes numbers.

    With their attributes, objects explain their pixels so well that what is left over tells of others: sets are tried again
    with the object taken out that is missed least, and with one more where the error is lowered most.
    """

    objects = True
    near = 0  # sets of other numbers are sought once the likely one has attributes
    first_penalty = 1e-3  # lower than for places: sets of more objects than there are get attributes, too

    def first_look(self) -> Inferred:
        """Also what the objects are."""
        found = list(self.begun[0].values())
        looked = self.seen(found[self.likely(found)])
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
        conds = describe(form, self.phi, conds, self.values.to(conds), asked)
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
        found = super().answer(sets, judged)
        each = [own[verdict.best].conds[0, 0] for own, verdict in zip(sets, judged, strict=True)]  # (K, D)
        found.marginals = [self.marginals(i, conds) for i, conds in enumerate(each)]
        return found

    def marginals(self, image: int, conds: torch.Tensor) -> torch.Tensor:
        """How likely each value of each of an image's objects (K, D) is: (K, D - 2)."""
        values = self.values.to(conds)
        return marginals(self.evidence(image, conds), values, self.settings.attribute_scale).cpu()

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
