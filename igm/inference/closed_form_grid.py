"""Which positions of a grid explain an image best together, read off its error form: greedy addition and swaps.

The composition of a set is a sum with one gain, fitted in closed form: with L the sum of the members' b_i = <g, phi_i> and
Q that of their G_ij = <phi_i, H phi_j>, the error at the best gain is const - L^2 / Q. All is batched over images.
"""

from dataclasses import dataclass

import torch

from igm.error_form import ErrorForm, gain_score


@dataclass
class GridTables:
    """b (B, M) and G (B, M, M) of M candidates conds (M, D); which may stand together, allowed (M, M) bool."""

    conds: torch.Tensor
    phi: torch.Tensor  # (M, P, R)
    allowed: torch.Tensor
    b: torch.Tensor
    G: torch.Tensor


def grid_tables(form: ErrorForm, conds: torch.Tensor, phi: torch.Tensor, min_separation: float) -> GridTables:
    """The tables of B images over candidates conds (M, D) with their phi (M, P, R)."""
    flat, by_place = phi.flatten(1), phi.transpose(0, 1)  # (M, P R), (P, M, R)
    b = form.g.flatten(1) @ flat.T  # (B, M)
    G = torch.stack([(by_place @ H).transpose(0, 1).flatten(1) @ flat.T for H in form.H])  # (B, M, M)
    allowed = torch.cdist(conds, conds) >= max(min_separation, 1e-6)
    return GridTables(conds, phi, allowed, b, (G + G.transpose(1, 2)) / 2)


def grow(tables: GridTables, num_concepts: int, max_swaps: int = 30) -> list[torch.Tensor]:
    """For each K = 1 ... `num_concepts`, members (B, K) of a set of low error: greedy addition, then swaps.

    Fewer sets where in some image no further candidate is allowed.
    """
    sets: list[torch.Tensor] = []
    members = torch.zeros(len(tables.b), 0, dtype=torch.long, device=tables.b.device)
    for _ in range(num_concepts):
        score, best = addition_scores(tables, members[:, None])[:, 0].max(1)  # (B,) each
        if bool(score.isneginf().any()):
            break
        members = torch.cat([members, best[:, None]], dim=1)  # (B, K)
        members = swap(tables, members, score, max_swaps)
        sets.append(members)
    return sets


def swap(tables: GridTables, members: torch.Tensor, score: torch.Tensor, max_swaps: int) -> torch.Tensor:
    """Exchange one member (B, K) for another candidate as long as that raises the score (B,)."""
    k = members.shape[1]
    others = (~torch.eye(k, dtype=torch.bool)).nonzero()[:, 1].view(k, k - 1).to(members.device)  # all but one
    for _ in range(max_swaps):
        rests = members[:, others]  # (B, K, K - 1)
        scores = addition_scores(tables, rests)  # (B, K, M)
        best, place = scores.flatten(1).max(1)  # (B,)
        better = best > score + 1e-6 * score.abs()
        if not bool(better.any()):
            break
        out, new = place // scores.shape[2], place % scores.shape[2]
        changed = members.scatter(1, out[:, None], new[:, None])
        members = torch.where(better[:, None], changed, members)
        score = torch.where(better, best, score)
    return members


def addition_scores(tables: GridTables, sets: torch.Tensor) -> torch.Tensor:
    """L^2 / Q of sets (B, S, K) of candidates with every candidate added: (B, S, M), -inf where not allowed."""
    b, s, k = sets.shape
    m = tables.b.shape[1]
    rows = tables.G.gather(1, sets.reshape(b, s * k, 1).expand(-1, -1, m)).view(b, s, k, m).sum(2)  # (B, S, M)
    linear = tables.b[:, None].expand(-1, s, -1).gather(2, sets).sum(2, keepdim=True) + tables.b[:, None]
    own = rows.gather(2, sets).sum(2, keepdim=True)  # (B, S, 1)
    quadratic = own + 2 * rows + tables.G.diagonal(dim1=1, dim2=2)[:, None]
    allowed = tables.allowed[sets].all(2)  # (B, S, M)
    return gain_score(linear, quadratic).masked_fill(~allowed, -torch.inf)
