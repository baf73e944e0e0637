"""The search for positions under a separable network: every set, number and gain is priced by one error form an image.

A grid gives first sets for every number of objects; these leave the grid by Gauss-Newton steps. Then objects are taken out,
one or two at a time, and put back at the best place given the others; what lowers the error after refinement is kept.
"""

import dataclasses
from dataclasses import dataclass

import torch

from igm.error_form import ErrorForm, gain_score
from igm.inference.closed_form_grid import GridTables, grow
from igm.inference.closed_form_refine import Sets, refine
from igm.inference.phi import Phi

PAIRED = 48  # candidates of which two are put in together
WORTHWHILE = 1e-3  # of an object's worth: less of an improvement may be rounding
HOPEFUL = 0.05  # a move that ends higher than before by more than this part of an object's worth is given up


@dataclass(frozen=True)
class SearchSettings:
    """Settings of the search.

    min_separation: objects are never nearer than this. num_steps: refinement steps of a set that is kept; trial_steps: of
    one that is tried. single_moves, pair_moves: how many of the best moves of one and of two objects are tried in a
    round; finalists: how many of them are refined as a whole; rounds: most rounds; one that finds nothing is the last.
    """

    min_separation: float = 0.05
    num_steps: int = 8
    trial_steps: int = 3
    single_moves: int = 3
    pair_moves: int = 3
    finalists: int = 2
    rounds: int = 6


class Search:
    """The search in B images.

    Args:
        form: their error forms. tables: of a grid, under the same form or a quick one. phi: concepts (M, D) -> (M, P, R).
    """

    def __init__(self, form: ErrorForm, tables: GridTables, phi: Phi, settings: SearchSettings):
        self.form, self.tables, self.phi, self.settings = form, tables, phi, settings

    def among(self, images: torch.Tensor) -> "Search":
        """The search in some of the images, by number or as (B,) bool."""
        tables = dataclasses.replace(self.tables, b=self.tables.b[images], G=self.tables.G[images])
        return Search(self.form[images], tables, self.phi, self.settings)

    def refined(self, conds: torch.Tensor, real: torch.Tensor, num_steps: int) -> Sets:
        """Sets (B, S, K, D) after some steps."""
        separation = self.settings.min_separation
        return refine(self.form, self.phi, conds, real, min_separation=separation, num_steps=num_steps)

    def grown(self, num_concepts: int) -> list[Sets]:
        """For each K = 1 ... `num_concepts` each image's set on the grid, refined; fewer if no more may stand together."""
        return [self.off_grid(self.tables.conds[members]) for members in grow(self.tables, num_concepts)]

    def greedy(self, num_concepts: int) -> Sets:
        """One set of each image, object by object: each to the best candidate, then all settle a little off the grid."""
        sets = self.off_grid(self.tables.conds[grow(self.tables, 1)[0]], self.settings.trial_steps)
        for _ in range(num_concepts - 1):
            sets = self.off_grid(self.enlarged(sets).conds[:, 0], self.settings.trial_steps)
        return sets

    def off_grid(self, conds: torch.Tensor, num_steps: int | None = None) -> Sets:
        """One set of each image, conds (B, K, D), refined."""
        real = torch.ones(conds[:, None].shape[:3], dtype=torch.bool, device=conds.device)
        return self.refined(conds[:, None], real, self.settings.num_steps if num_steps is None else num_steps)

    def improved(self, sets: Sets) -> Sets:
        """One set of each image (S = 1), after moves of one and of two objects as long as they lower the error."""
        for _ in range(self.settings.rounds):
            best = self.tried(sets)
            better = best.error < sets.error - WORTHWHILE * self.worth(sets)
            if not bool(better.any()):
                break
            best = self.refined(best.conds, best.real, self.settings.num_steps)
            sets = sets.replaced(better & (best.error < sets.error), best)
        return sets

    def tried(self, sets: Sets) -> Sets:
        """The best of the most promising moves from one set of each image.

        The objects that a move puts elsewhere settle there first, the others standing still; then all are refined,
        unless no move is promising still.
        """
        s, k = self.settings, sets.conds.shape[2]
        moves = [single_moves(self.form, self.tables, self.phi, sets, s.min_separation, s.single_moves)]
        if k > 1 and s.pair_moves:
            moves.append(pair_moves(self.form, self.tables, self.phi, sets, s.min_separation, s.pair_moves))
        settled = joined([self.settled(sets, *own) for own in moves])
        if not bool((settled.error < sets.error + HOPEFUL * self.worth(sets)).any()):
            return sets
        order = settled.error.topk(min(s.finalists, settled.error.shape[1]), dim=1, largest=False).indices  # (B, F)
        rows = torch.arange(len(order), device=order.device)[:, None]
        finals = self.refined(settled.conds[rows, order], settled.real[rows, order], s.trial_steps)
        return finals.take(finals.best())

    def worth(self, sets: Sets) -> torch.Tensor:
        """By how much an object of each set lowers the error, on average: (B, S)."""
        return (self.form.const[:, None] - sets.error) / sets.conds.shape[2]

    def enlarged(self, sets: Sets) -> Sets:
        """One set of each image with one more object, of unknown attributes, at the best candidate.

        An infinite error where none fits.
        """
        conds, k = sets.conds[:, 0], sets.conds.shape[2]
        values = self.phi(conds.flatten(0, 1)).unflatten(0, conds.shape[:2])
        stays = torch.ones(1, k, dtype=torch.bool, device=conds.device)
        left = rests(self.form, self.tables, values, conds, stays, self.settings.min_separation)
        score, place = move_scores(self.tables, left)[:, 0].max(1)  # (B,)
        new = torch.nn.functional.pad(self.tables.conds[place][:, None], (0, conds.shape[2] - 2))  # (B, 1, D)
        larger = self.off_grid(torch.cat([conds, new], dim=1), num_steps=0)
        larger.error.masked_fill_(score.isneginf()[:, None], torch.inf)
        return larger

    def settled(self, sets: Sets, conds: torch.Tensor, moved: torch.Tensor) -> Sets:
        """Moves conds (B, T, K, D) after some steps of the objects that they moved, by number (B, T, J)."""
        b, t, k, d = conds.shape
        real = sets.real.expand(-1, t, -1)
        rest = real.scatter(2, moved, False)  # (B, T, K)
        values = self.phi(sets.conds[:, 0].flatten(0, 1)).unflatten(0, (b, k))  # (B, K, P, R)
        fixed = torch.einsum("btk,bkpr->btpr", rest.to(values), values)
        where = moved[..., None].expand(-1, -1, -1, d)
        free = torch.ones_like(moved, dtype=torch.bool)
        own = refine(
            self.form,
            self.phi,
            conds.gather(2, where),
            free,
            min_separation=self.settings.min_separation,
            num_steps=self.settings.trial_steps,
            fixed=fixed,
        )
        return Sets(conds.scatter(2, where, own.conds), real, own.error, own.gain)


def joined(sets: list[Sets]) -> Sets:
    """The sets of several searches side by side."""
    parts = ((own.conds, own.real, own.error, own.gain) for own in sets)
    return Sets(*(torch.cat(part, dim=1) for part in zip(*parts, strict=True)))


@dataclass
class Rests:
    """What stays of a set when some objects are out: their L (B, S) and Q (B, S), <phi_j, H m> of every candidate
    (B, S, M), and which candidates may join (B, S, M)."""

    linear: torch.Tensor
    quadratic: torch.Tensor
    cross: torch.Tensor
    allowed: torch.Tensor


def rests(
    form: ErrorForm, tables: GridTables, phi: torch.Tensor, conds: torch.Tensor, stays: torch.Tensor, separation: float
) -> Rests:
    """The rests of sets with phi (B, K, P, R) at conds (B, K, D), of which `stays` (S, K) bool or (B, S, K) remain."""
    stays = stays.expand(len(conds), -1, -1).to(phi)  # (B, S, K)
    each = form.times(phi)  # (B, K, P, R): H phi_k
    gram = each.flatten(2) @ phi.flatten(2).transpose(1, 2)  # (B, K, K)
    b = (form.g[:, None] * phi).sum((2, 3))  # (B, K)
    cross = each.flatten(2) @ tables.phi.flatten(1).T  # (B, K, M)
    distant = torch.cdist(conds[..., :2], tables.conds.expand(len(conds), -1, -1)) >= separation  # (B, K, M)
    near = stays @ (~distant).to(phi)  # (B, S, M): how many of those that stay are too near
    return Rests(
        (stays @ b[..., None])[..., 0],
        torch.einsum("bsk,bkl,bsl->bs", stays, gram, stays),
        stays @ cross,
        near < 0.5,
    )


def move_scores(tables: GridTables, left: Rests) -> torch.Tensor:
    """L^2 / Q of every rest with every candidate: (B, S, M), -inf where it may not join."""
    linear = left.linear[..., None] + tables.b[:, None]
    quadratic = left.quadratic[..., None] + 2 * left.cross + tables.G.diagonal(dim1=1, dim2=2)[:, None]
    return gain_score(linear, quadratic).masked_fill(~left.allowed, -torch.inf)


def single_moves(
    form: ErrorForm, tables: GridTables, phi: Phi, sets: Sets, separation: float, most: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each object out and back at the best candidate elsewhere, the most promising of all.

    Returns:
        conds (B, T, K, D), and the number (B, T, 1) of the object that each moved.
    """
    conds = sets.conds[:, 0]  # (B, K, D)
    b, k, d = conds.shape
    values = phi(conds.flatten(0, 1)).unflatten(0, (b, k)) * sets.real[:, 0, :, None, None]
    left = rests(form, tables, values, conds, ~torch.eye(k, dtype=torch.bool, device=conds.device), separation)
    elsewhere = torch.cdist(conds, tables.conds.expand(b, -1, -1)) >= separation / 2  # (B, K, M)
    possible = elsewhere & sets.real[:, 0, :, None]
    score, place = move_scores(tables, left).masked_fill(~possible, -torch.inf).max(2)  # (B, K)
    out = score.topk(min(most, k), dim=1).indices  # (B, T)
    moved = conds[:, None].repeat(1, out.shape[1], 1, 1)  # (B, T, K, D)
    target = tables.conds[place.gather(1, out)][:, :, None]  # (B, T, 1, D)
    return moved.scatter(2, out[..., None, None].expand(-1, -1, 1, d), target), out[..., None]


def pair_moves(
    form: ErrorForm, tables: GridTables, phi: Phi, sets: Sets, separation: float, most: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each pair of objects out and back at the best two candidates, the most promising of all.

    Returns:
        conds (B, T, K, D), and the numbers (B, T, 2) of the objects that each moved.
    """
    conds = sets.conds[:, 0]
    b, k, d = conds.shape
    values = phi(conds.flatten(0, 1)).unflatten(0, (b, k)) * sets.real[:, 0, :, None, None]
    pairs = torch.combinations(torch.arange(k, device=conds.device))  # (S, 2)
    stays = torch.ones(len(pairs), k, dtype=torch.bool, device=conds.device).scatter(1, pairs, False)
    left = rests(form, tables, values, conds, stays, separation)
    real = sets.real[:, 0][:, pairs].all(2, keepdim=True)  # (B, S, 1)
    near = torch.cdist(conds, tables.conds.expand(b, -1, -1)) < separation / 2  # (B, K, M)
    score, places = two_more(tables, left, near[:, pairs])  # (B, S), (B, S, 2)
    chosen = score.masked_fill(~real[..., 0], -torch.inf).topk(min(most, len(pairs)), dim=1).indices  # (B, T)
    numbers = pairs[chosen]  # (B, T, 2)
    target = tables.conds[places.gather(1, chosen[..., None].expand(-1, -1, 2))]  # (B, T, 2, D)
    moved = conds[:, None].repeat(1, chosen.shape[1], 1, 1)
    return moved.scatter(2, numbers[..., None].expand(-1, -1, -1, d), target), numbers


def two_more(tables: GridTables, left: Rests, near: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The best two candidates to join each rest, among the PAIRED that are best alone.

    Args:
        near: (B, S, 2, M) bool, which candidates are where the first and the second object was; not both may come back.

    Returns:
        L^2 / Q (B, S), -inf where no two may join, and the candidates (B, S, 2).
    """
    alone = move_scores(tables, left)  # (B, S, M)
    few = alone.topk(min(PAIRED, alone.shape[2]), dim=2).indices  # (B, S, F)
    images = torch.arange(len(few), device=few.device)[:, None, None, None]
    G, b = tables.G[images, few[..., :, None], few[..., None, :]], tables.b[:, None].expand_as(alone).gather(2, few)
    own = 2 * left.cross.gather(2, few) + G.diagonal(dim1=2, dim2=3)  # (B, S, F)
    linear = left.linear[..., None, None] + b[..., :, None] + b[..., None, :]
    quadratic = left.quadratic[..., None, None] + own[..., :, None] + own[..., None, :] + 2 * G
    first, second = near.gather(3, few[:, :, None].expand(-1, -1, 2, -1)).unbind(2)  # (B, S, F) each
    back = (first[..., :, None] & second[..., None, :]) | (second[..., :, None] & first[..., None, :])
    may = left.allowed.gather(2, few)
    possible = tables.allowed[few[..., :, None], few[..., None, :]] & may[..., :, None] & may[..., None, :] & ~back
    score, place = gain_score(linear, quadratic).masked_fill(~possible, -torch.inf).flatten(2).max(2)  # (B, S)
    pair = torch.stack([place // few.shape[2], place % few.shape[2]], dim=2)
    return score, few.gather(2, pair)
