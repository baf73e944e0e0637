"""The closed-form search against brute force on small cases."""

import itertools

import pytest
import torch

from igm.error_form import ErrorForm, gain_score
from igm.inference.closed_form import Search, SearchSettings, pair_moves, single_moves
from igm.inference.closed_form_grid import addition_scores, grid_tables, grow
from igm.inference.closed_form_refine import Phi, Sets, apart, look, newton_step, refine
from igm.inference.phi import LEFT_OUT, QuickPhi
from igm.models.separable import SeparableUNet

SEPARATION = 0.2


@pytest.fixture(scope="module")
def phi() -> Phi:
    """phi of a random network on an 8 x 8 grid, with windows wide enough to be seen there."""
    torch.manual_seed(3)
    return Phi(SeparableUNet(8, 3, (32, 32), rank=12, hidden=24, windows=(0.1, 0.2), reach=0.2).requires_grad_(False))


def form_around(phi: Phi, truth: torch.Tensor, noise: float = 0.02) -> ErrorForm:
    """An error form (B = 1) whose least error is near m = 0.8 sum phi(truth), truth (K, 2)."""
    generator = torch.Generator().manual_seed(len(truth))
    factors = torch.randn(64, 12, 20, generator=generator)
    H = (factors @ factors.transpose(1, 2) / 20)[None]  # (1, P, R, R)
    g = (H[0] @ (0.8 * phi(truth).sum(0))[..., None])[..., 0]
    g = g + noise * g.abs().mean() * torch.randn(g.shape, generator=generator)
    return ErrorForm(torch.tensor([5.0]), g[None], H)


def grid(side: int) -> torch.Tensor:
    centres = (torch.arange(side) + 0.5) / side
    return torch.cartesian_prod(centres, centres)


def as_sets(form: ErrorForm, phi: Phi, conds: torch.Tensor) -> Sets:
    """One set (K, 2) as it stands."""
    real = torch.ones(1, 1, len(conds), dtype=torch.bool)
    at = look(form, phi, conds[None, None], real)
    return Sets(at.conds, real, at.error, at.gain)


def lowest(form: ErrorForm, phi: Phi, candidates: torch.Tensor, k: int) -> tuple[float, list[int]]:
    """The lowest error of all allowed sets of K candidates at the best gain, by trying each."""
    allowed = torch.cdist(candidates, candidates) >= SEPARATION
    every = [
        list(s)
        for s in itertools.combinations(range(len(candidates)), k)
        if all(bool(allowed[i, j]) for i, j in itertools.combinations(s, 2))
    ]
    values = phi(candidates)
    errors = [float(form.error_at_best_gain(values[s].sum(0)[None, None])[0]) for s in every]
    best = min(range(len(every)), key=errors.__getitem__)
    return errors[best], every[best]


TRUTH = torch.tensor([[0.2, 0.3], [0.71, 0.42], [0.45, 0.8]])


@pytest.mark.parametrize("k", [1, 2, 3])
def test_grid_search_finds_what_brute_force_finds(phi, k):
    form, candidates = form_around(phi, TRUTH[:k]), grid(5)
    tables = grid_tables(form, candidates, phi(candidates), SEPARATION)
    members = grow(tables, k)[-1][0]
    assert sorted(members.tolist()) == lowest(form, phi, candidates, k)[1]


def test_addition_scores_are_those_of_explicit_sums(phi):
    form, candidates = form_around(phi, TRUTH), grid(4)
    values = phi(candidates)
    tables = grid_tables(form, candidates, values, SEPARATION)
    scores = addition_scores(tables, torch.tensor([[[0, 7]]]))[0, 0]
    for j in range(len(candidates)):
        if tables.allowed[j, 0] and tables.allowed[j, 7]:
            m = values[[0, 7, j]].sum(0)[None, None]
            torch.testing.assert_close(form.const[0] - scores[j], form.error_at_best_gain(m)[0][0, 0])
        else:
            assert scores[j] == -torch.inf


def test_grow_stops_where_no_more_may_stand(phi):
    candidates = grid(2)
    tables = grid_tables(form_around(phi, TRUTH), candidates, phi(candidates), 0.6)  # only the diagonals are apart
    assert len(grow(tables, 4)) == 2


def test_newton_steps_reach_a_stationary_point_below_the_grid(phi):
    form = form_around(phi, TRUTH, noise=0.0)
    real = torch.ones(1, 1, 3, dtype=torch.bool)
    found = refine(form, phi, (TRUTH + 0.04)[None, None], real, min_separation=SEPARATION, num_steps=15)
    torch.testing.assert_close(found.conds[0, 0], TRUTH, atol=2e-3, rtol=0)
    assert float(found.error) <= float(form.error(0.8 * phi(TRUTH).sum(0)[None, None])) + 1e-5
    torch.testing.assert_close(found.gain, torch.tensor([[0.8]]), atol=0.01, rtol=0)


def test_the_first_step_goes_downhill_by_the_true_gradient(phi):
    form, real = form_around(phi, TRUTH), torch.ones(1, 1, 3, dtype=torch.bool)
    start = (TRUTH + 0.03)[None, None]
    at = look(form, phi, start, real)
    step = newton_step(at, torch.full((1, 1), 1e3))  # heavily damped: the scaled gradient
    conds = start.clone().requires_grad_()
    m = phi.network.phi(conds[0, 0]).flatten(2).transpose(1, 2).sum(0)[None, None]
    linear, quadratic = form.parts(m)
    (-gain_score(linear, quadratic)).sum().backward()
    assert float((step * conds.grad).sum()) < 0
    gain = at.gain[0, 0]
    slopes = 2 * gain * (gain * at.gram[0, 0, -1] - at.linear[0, 0])  # (J,); the last, of the gain, is 0 at its best
    torch.testing.assert_close(slopes[:-1].view(3, 2), conds.grad[0, 0], rtol=2e-3, atol=1e-5)
    assert abs(float(slopes[-1])) < 1e-4 * float(at.linear[0, 0, -1])


def test_padding_moves_nothing(phi):
    form = form_around(phi, TRUTH[:2])
    conds = torch.cat([TRUTH[:2] + 0.03, torch.full((1, 2), 0.5)])[None, None]
    options = {"min_separation": SEPARATION, "num_steps": 5}
    padded = refine(form, phi, conds, torch.tensor([[[True, True, False]]]), **options)
    alone = refine(form, phi, conds[:, :, :2], torch.ones(1, 1, 2, dtype=torch.bool), **options)
    torch.testing.assert_close(padded.conds[:, :, :2], alone.conds, atol=1e-4, rtol=0)
    assert torch.equal(padded.conds[0, 0, 2], conds[0, 0, 2])


def test_moves_are_the_best_of_all(phi):
    """One object out and back, and two, against pricing every place explicitly."""
    form, candidates = form_around(phi, TRUTH), grid(5)
    tables = grid_tables(form, candidates, phi(candidates), SEPARATION)
    wrong = torch.stack([TRUTH[0], candidates[24], candidates[4]])
    sets = as_sets(form, phi, wrong)
    one = single_moves(form, tables, phi, sets, SEPARATION, most=1)[0][0, 0]
    two = pair_moves(form, tables, phi, sets, SEPARATION, most=1)[0][0, 0]

    def error(conds: torch.Tensor) -> float:
        return float(form.error_at_best_gain(phi(conds).sum(0)[None, None])[0])

    def may_join(new: torch.Tensor, rest: torch.Tensor) -> bool:
        return bool((torch.cdist(new, rest) >= SEPARATION).all())

    singles, pairs = [], []
    for out in range(3):
        rest = torch.cat([wrong[:out], wrong[out + 1 :]])
        for new in candidates[:, None]:
            if may_join(new, rest) and (new - wrong[out]).norm() >= SEPARATION / 2:
                singles.append(error(torch.cat([rest, new])))
        stays, gone = wrong[out : out + 1], rest
        for i, j in itertools.combinations(range(25), 2):
            new = candidates[[i, j]]
            distances = torch.cdist(gone, new) < SEPARATION / 2
            same = bool((distances[0, 0] & distances[1, 1]) | (distances[0, 1] & distances[1, 0]))
            if may_join(new, stays) and may_join(new[:1], new[1:]) and not same:
                pairs.append(error(torch.cat([stays, new])))
    assert error(one) == pytest.approx(min(singles), abs=1e-5)
    assert error(two) == pytest.approx(min(pairs), abs=1e-5)


def test_search_ends_no_higher_than_every_set_of_a_finer_grid(phi):
    form, candidates = form_around(phi, TRUTH, noise=0.3), grid(5)
    tables = grid_tables(form, candidates, phi(candidates), SEPARATION)
    search = Search(form, tables, phi, SearchSettings(min_separation=SEPARATION))
    found = search.improved(search.grown(2)[-1])
    assert float(found.error) <= lowest(form, phi, grid(12), 2)[0] + 1e-6


def test_moves_leave_a_wrong_set(phi):
    """From a start that no single step leads out of, out-and-back moves reach the truth."""
    form, candidates = form_around(phi, TRUTH, noise=0.0), grid(8)
    tables = grid_tables(form, candidates, phi(candidates), SEPARATION)
    search = Search(form, tables, phi, SearchSettings(min_separation=SEPARATION, rounds=8))
    start = torch.tensor([[0.9, 0.9], [0.9, 0.1], [0.1, 0.9]])
    found = search.improved(as_sets(form, phi, start))
    distances = torch.cdist(found.conds[0, 0], TRUTH)
    assert float(distances.min(0).values.max()) < 0.01


def test_near_objects_are_pushed_apart():
    conds = torch.tensor([[[[0.5, 0.5], [0.5, 0.55], [0.0, 0.0]]]])
    real = torch.tensor([[[True, True, False]]])
    moved = apart(conds, real, 0.1)[0, 0]
    assert float((moved[0] - moved[1]).norm()) == pytest.approx(0.1, abs=1e-6)
    assert torch.equal(moved[2], conds[0, 0, 2])


def test_a_quick_search_sees_nearly_all_of_phi(phi):
    """What few directions leave out of phi is a small share of it."""
    quick, places = QuickPhi(phi.network), torch.rand(300, 2, generator=torch.Generator().manual_seed(5))
    directions, few = quick.directions, quick(places)  # (R, R'), (M, P, R')
    left, number = phi(places) - few @ directions.T, directions.shape[1]
    assert few.shape[-1] == number < 12
    torch.testing.assert_close(directions.T @ directions, torch.eye(number), atol=1e-5, rtol=0)
    share = left.square().mean().sqrt() / phi(places).square().mean().sqrt()
    assert float(share) < 2 * LEFT_OUT  # LEFT_OUT is that of all offsets alike
    torch.testing.assert_close(few, phi(places) @ directions, atol=1e-4, rtol=1e-3)


def test_slopes_in_few_directions_are_those_of_phi(phi):
    quick, places = QuickPhi(phi.network), torch.rand(7, 2)
    values, slopes = quick.with_slopes(places)
    torch.testing.assert_close(values, quick(places))
    torch.testing.assert_close(slopes, phi.with_slopes(places)[1] @ quick.directions, atol=1e-3, rtol=1e-3)


def test_a_form_along_directions_is_the_form_of_what_lies_in_them(phi):
    form, directions = form_around(phi, TRUTH), torch.linalg.qr(torch.randn(12, 5))[0]
    few = torch.randn(1, 4, 64, 5)
    torch.testing.assert_close(form.along(directions).error(few), form.error(few @ directions.T), rtol=1e-4, atol=1e-4)
