"""What each object of a scene is, under a separable network: every combination of attributes is priced by the error form.

Places are found first, with unknown attributes. Then the objects are asked one after the other, the others standing as
they are: all combinations of one object's attributes (CLEVR: 96) enter the composition in its place, and the one of the
lowest error at the best gain stays. Rounds go on until nothing changes, so that each object's attributes are the best given
those of all others: neighbours explain the same pixels, and no object is judged alone. Only a short list of combinations
is priced in full, those that are best where the object itself is, nearly all of what they differ by.

Values of the best combination may also be left unknown: what has none of the known values, as in pictures of another
generator, is explained better so than by a wrong one.
"""

import itertools

import torch

from igm.data.vocabulary import Vocabulary
from igm.error_form import ErrorForm, gain_score
from igm.inference.phi import Phi

ROUNDS = 4  # of all objects one after the other; most scenes need two
SHORT = 8  # combinations that are priced in full
NEAR = 12  # places of the latent grid, in each view, by which they are chosen


def combinations(vocabulary: Vocabulary) -> torch.Tensor:
    """All values of all attributes: one-hot blocks (M, D - 2), M the product of the numbers of values."""
    eyes = [torch.eye(len(values)) for values in vocabulary.values()]
    return torch.stack([torch.cat(rows) for rows in itertools.product(*eyes)])


def omissions(vocabulary: Vocabulary) -> torch.Tensor:
    """All ways to leave some attributes unknown, as factors of blocks: (2^A - 1, D - 2) for A attributes."""
    kept = list(itertools.product((0.0, 1.0), repeat=len(vocabulary)))[:-1]
    sizes = torch.tensor([len(values) for values in vocabulary.values()])
    return torch.tensor(kept).repeat_interleave(sizes, dim=1)


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
        may_stand = torch.cat([phi.of_values(conds[:, :2], values), each[:, None]], dim=1)  # (K, M + 1, P, R)
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
    form: ErrorForm,
    phi: Phi,
    conds: torch.Tensor,
    values: torch.Tensor,
    asked: torch.Tensor | None = None,
    omitted: torch.Tensor | None = None,
) -> torch.Tensor:
    """The objects (K, D) of one image at the places of conds (K, D or 2): each with the best combination given all others'.

    Args:
        values: the combinations there are (M, D - 2). The search starts from those that objects have already.
        asked: (K,) bool, the objects that are asked; the others keep what they have. None: all.
        omitted: of `omissions`: what may be left unknown of the combination that is best by `cut_scores`. None: nothing.
    """
    whole = phi.whole(conds).clone()
    rows = torch.arange(len(conds), device=conds.device) if asked is None else asked.nonzero()[:, 0]
    if not len(rows):
        return whole
    each = phi(whole)  # (K, P, R)
    m = each.sum(0)
    own = each[rows]
    values = values.expand(len(rows), -1, -1)  # (J, M, D - 2)
    cut = cut_scores(form, phi, whole[rows, :2], values, m - own)  # (J, M)
    if omitted is not None:
        best = values[torch.arange(len(rows)), cut.argmax(1)][:, None]  # (J, 1, D - 2)
        more = torch.cat([best * omitted, whole[rows, None, 2:]], dim=1)  # (J, M', D - 2)
        cut = torch.cat([cut, cut_scores(form, phi, whole[rows, :2], more, m - own)], dim=1)
        values = torch.cat([values, more], dim=1)  # (J, M + M', D - 2)
    values = values.take_along_dim(shortlists(cut, whole[rows], values)[:, :, None], dim=1)  # (J, T, D - 2)
    prices = Describer(form, phi, whole[rows], own, values, m - own.sum(0))
    same = (whole[rows, None, 2:] == values).all(2)  # (J, T)
    known = same.any(1)
    chosen = torch.where(known, same.to(torch.int8).argmax(1), prices.as_it_is)  # (J,)
    for j in (~known).nonzero()[:, 0].tolist():  # those of unknown attributes
        chosen[j] = prices.scores(j, chosen).argmax()
    whole[rows, 2:] = values[torch.arange(len(rows)), prices.descend(chosen, ROUNDS)]
    return whole


def shortlists(cut: torch.Tensor, conds: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The best of combinations (K, M, D - 2) by `cut_scores` (K, M), that of conds (K, D) once among them: (K, T)."""
    present = (conds[:, None, 2:] == values).all(2)  # (K, M)
    once = present & (present.cumsum(1) == 1)
    cut = cut.masked_fill(present, -torch.inf).masked_fill(once, torch.inf)
    return cut.topk(min(SHORT, cut.shape[1]), dim=1).indices


def cut_scores(
    form: ErrorForm, phi: Phi, places: torch.Tensor, values: torch.Tensor, rests: torch.Tensor
) -> torch.Tensor:
    """By how much each combination at each place (K, 2) lowers the error, phi cut off beyond the object: (K, M).

    Args:
        values: the combinations of each place (K, M, D - 2). rests: m (P, R) of the others for each place: (K, P, R).
    """
    linear, quadratic = (own[0] for own in form.parts(rests[None]))  # (K,)
    scores = []
    for k, (place, own, rest) in enumerate(zip(places, values, rests, strict=True)):
        near = phi.around(place, NEAR)  # (J,)
        each = phi.at(place, own, near).transpose(0, 1)  # (J, M, R)
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
    all_values = values.expand(len(conds), -1, -1)  # (K, M, D - 2)
    cut = cut_scores(form, phi, conds[:, :2], all_values, m - each)
    chosen = shortlists(cut, conds, all_values)  # (K, T)
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
