"""What each object of a scene is, under a separable network: every combination of attributes is priced by the error form.

Places are found first, with unknown attributes. Then the objects are asked one after the other, the others standing as
they are: all combinations of one object's attributes (CLEVR: 96) enter the composition in its place, and the one of the
lowest error at the best gain stays. Rounds go on until nothing changes, so that each object's attributes are the best given
those of all others: neighbours explain the same pixels, and no object is judged alone.
"""

import itertools
from dataclasses import dataclass

import torch

from igm.data.vocabulary import Vocabulary, blocks
from igm.error_form import ErrorForm, best_gain, gain_score
from igm.inference.closed_form_refine import Phi

MOST_COMBINATIONS = 4096  # of one object's attributes; beyond, blocks are tried one by one


@dataclass
class Described:
    """One image's objects.

    conds (K, D): with attributes. error, gain: of their composition. marginals (K, D - 2): how likely each value is, from
    the errors of all combinations of the object, the others standing as they are; the values of a block sum to 1.
    """

    conds: torch.Tensor
    error: torch.Tensor
    gain: torch.Tensor
    marginals: torch.Tensor


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


def describe(
    form: ErrorForm, phi: Phi, places: torch.Tensor, vocabulary: Vocabulary, *, scale: float, rounds: int = 4
) -> Described:
    """The attributes of one image's objects at `places` (K, 2).

    Args:
        scale: how much a difference of errors, times the number of latents, tells: 1 / temperature of the marginals.
    """
    values = combinations(vocabulary).to(places)
    asked = Describer(form, phi, places, values)
    unknown = phi(places)  # (K, P, R)
    chosen = torch.zeros(len(places), dtype=torch.long, device=places.device)
    m = unknown.sum(0)
    for k in range(len(places)):  # the first values: the others unknown, or as already chosen
        rest = m - unknown[k]
        chosen[k] = gain_score(*asked.scores(k, rest)).argmax()
        m = rest + asked.phi[k, chosen[k]]
    chosen = asked.descend(chosen, m, rounds)
    m = torch.stack([asked.phi[k, c] for k, c in enumerate(chosen.tolist())]).sum(0)
    marginals = []
    for k in range(len(places)):
        lower = gain_score(*asked.scores(k, m - asked.phi[k, chosen[k]]))  # (M,)
        marginals.append(torch.softmax(scale * lower, 0) @ values)
    linear, quadratic = form.parts(m[None, None])
    return Described(
        torch.cat([places, values[chosen]], dim=1),
        form.const[0] - gain_score(linear, quadratic)[0, 0],
        best_gain(linear, quadratic)[0, 0],
        torch.stack(marginals),
    )
