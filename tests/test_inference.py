"""Inference against a toy model whose best positions are known exactly, and against the published loop written out."""

import dataclasses
import itertools
import math

import pytest
import torch
from toy import SCENES, SIDE, Toy, distance, scenes

from igm.error_matrix import ErrorMatrix
from igm.evaluation.run import Worker
from igm.inference.draws import draw_for_images, image_generators
from igm.inference.gradient import Pairs, clip_norm, composition_gradient, infer_gradient
from igm.inference.method import methods_of
from igm.inference.pricing import base_members, price_candidates, price_draws
from igm.inference.pursuit import Pursuit, infer_pursuit, refine, separating_push
from igm.inference.sets import (
    addition_sums,
    candidate_grid,
    choose_sets,
    divide_cells,
    may_stand_together,
    pursue,
    with_gain,
)
from igm.inference.settings import GradientSettings, PursuitSettings
from igm.inference.types import Posterior
from igm.tasks import find_task


@pytest.fixture
def toy():
    return Toy()


GRADIENT = {"num_steps": 250, "learning_rate": 1e-2, "num_inits": 6, "num_draws": 8}
PURSUIT = {"num_candidates": 100, "num_draws": 4, "num_steps": 30, "learning_rate": 1e-2, "min_separation": 0.15}
METHODS = {
    "gradient": (infer_gradient, GradientSettings(**{**GRADIENT, "num_steps": 20, "num_inits": 3})),
    "pursuit": (infer_pursuit, PursuitSettings(**{**PURSUIT, "num_steps": 10})),
}
both_methods = pytest.mark.parametrize("method", METHODS)


def infer(method, toy, posterior, counts, **options):
    function, settings = METHODS[method]
    changes = {name: options.pop(name) for name in list(options) if hasattr(settings, name)}
    return function(toy, posterior, counts, dataclasses.replace(settings, **changes), **options)


# What is found


def test_gradient_finds_the_minimum(toy):
    posterior, counts = scenes(toy)
    found = infer_gradient(toy, posterior, counts, GradientSettings(**GRADIENT))
    assert found.conds.shape == (3, 3, 2)
    for i, true in enumerate(SCENES):
        assert distance(found.conds[i, : len(true)], true) < 0.01
        assert float(found.error[i]) < 1e-4


def test_pursuit_finds_the_fine_grid_point_and_then_the_minimum(toy):
    posterior, counts = scenes(toy)
    on_grid = infer_pursuit(toy, posterior, counts, PursuitSettings(**{**PURSUIT, "num_steps": 0}))
    refined = infer_pursuit(toy, posterior, counts, PursuitSettings(**{**PURSUIT, "num_steps": 80}))
    grid = {tuple(c) for c in divide_cells(candidate_grid(100), list(range(100))).tolist()}
    for i, true in enumerate(SCENES):
        assert {tuple(c) for c in on_grid.conds[i, : len(true)].tolist()} <= grid
        assert distance(on_grid.conds[i, : len(true)], true) < 0.03  # a part of a cell is 0.025 wide
        assert distance(refined.conds[i, : len(true)], true) < 0.01
    assert (refined.error < on_grid.error).all()


@both_methods
def test_reported_error_is_the_error_of_the_positions(toy, method):
    posterior, counts = scenes(toy, std=0.05)
    found = infer(method, toy, posterior, counts)
    stream, draws_each = {"gradient": (2, 8), "pursuit": (3, 4)}[method]
    draws = draw_for_images(
        posterior, draws_each, (0, 500), image_generators(0, [0, 1, 2], stream=stream), stratified=True
    )
    for i, true in enumerate(SCENES):
        bumps = toy.bump(found.conds[i, : len(true)]).mean(0)
        abar = toy.alphas_cumprod[draws.t[i]].view(-1, 1, 1, 1)
        expected = (abar / (1 - abar) * (draws.x_0[i] - bumps) ** 2).mean()
        assert float(found.error[i]) == pytest.approx(float(expected), rel=1e-4)


@both_methods
def test_positions_stay_in_the_image(toy, method):
    mean = toy.bump(torch.tensor([[-0.1, 1.15]]))
    found = infer(method, toy, Posterior(mean, mean * 0), torch.tensor([1]), learning_rate=0.1)
    assert found.conds.min() >= 0 and found.conds.max() <= 1


# Randomness and batching


@both_methods
def test_same_seed_same_result(toy, method):
    posterior, counts = scenes(toy, std=0.05)
    first, again, other = (infer(method, toy, posterior, counts, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.conds, again.conds) and torch.equal(first.error, again.error)
    assert not torch.equal(first.conds, other.conds)


@both_methods
def test_a_batch_equals_one_image_at_a_time(toy, method):
    posterior, counts = scenes(toy, std=0.05)
    together = infer(method, toy, posterior, counts, image_numbers=[4, 9, 30], seed=3)
    for row, number in enumerate([4, 9, 30]):
        alone = infer(method, toy, posterior[row : row + 1], counts[row : row + 1], image_numbers=[number], seed=3)
        k = len(SCENES[row])
        torch.testing.assert_close(together.conds[row, :k], alone.conds[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(together.error[row], alone.error[0], rtol=1e-4, atol=1e-7)
        assert (together.forward[row], together.backward[row]) == (alone.forward[0], alone.backward[0])


@both_methods
@pytest.mark.parametrize("kind", ["unet", "position_unet"])
def test_a_batch_equals_one_image_at_a_time_on_networks(make_denoiser, method, kind):
    denoiser = make_denoiser(kind)
    mean, std = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    posterior, counts = Posterior(mean, std.abs()), torch.tensor([1, 2])
    options = {"num_steps": 3, "num_draws": 2}
    options |= {"num_candidates": 9} if method == "pursuit" else {"num_inits": 2}
    together = infer(method, denoiser, posterior, counts, **options)
    for row in range(2):
        alone = infer(method, denoiser, posterior[row : row + 1], counts[row : row + 1], image_numbers=[row], **options)
        torch.testing.assert_close(together.conds[row, : row + 1], alone.conds[0], rtol=0, atol=1e-4)


@both_methods
def test_batch_size_bounds_the_rows_and_changes_nothing(method):
    results = []
    for batch_size in (1000, 7, 1):
        toy = Toy()
        posterior, counts = scenes(toy, std=0.05)
        results.append(infer(method, toy, posterior, counts, batch_size=batch_size))
        at_least = 100 if method == "pursuit" else 3  # one draw's candidates; one composition
        assert toy.largest <= max(batch_size, at_least)
    for other in results[1:]:
        torch.testing.assert_close(other.conds, results[0].conds, rtol=0, atol=1e-5)
        torch.testing.assert_close(other.error, results[0].error, rtol=1e-4, atol=1e-7)


@both_methods
def test_evaluations_are_counted(toy, method):
    posterior, counts = scenes(toy)
    found = infer(method, toy, posterior, counts)
    assert int(found.forward.sum()) == toy.rows
    steps, per_step = {"gradient": (20, 3), "pursuit": (10, 4)}[method]  # starts, draws
    assert found.backward.tolist() == [k * steps * per_step for k in (1, 2, 3)]


@both_methods
def test_image_is_encoded_once(toy, method):
    pixels = torch.cat([scenes(toy)[0].mean] * 3, dim=1)  # (3, 3, SIDE, SIDE)
    items = [
        {
            "pixel_values": p,
            "conds": torch.tensor(true + [[0.0, 0.0]] * (3 - len(true))),
            "mask": torch.tensor([1.0] * len(true) + [0.0] * (3 - len(true))),
            "image_id": str(i),
        }
        for i, (p, true) in enumerate(zip(pixels, SCENES, strict=True))
    ]
    picture = {"path_of": f"{SIDE}.png", "size_of": (SIDE, SIDE), "box_of": (0, 0, SIDE, SIDE), "looks_of": {}}
    dataset = type("Items", (list,), {name: lambda self, i, own=own: own for name, own in picture.items()})(items)

    run = methods_of("positions")[method](toy, METHODS[method][1])
    worker = Worker(run, find_task("positions"), {"all": dataset}, seed=0, batch_size=1024, num_objects=None)
    records = worker.infer([("all", 0), ("all", 2)])
    assert toy.encoded == 1
    assert [record["image_id"] for record in records] == ["0", "2"]
    assert [record["num_true"] for record in records] == [1, 3]
    assert records[1]["conds_true"] == [pytest.approx(c) for c in SCENES[2]]
    assert [len(record["conds_pred"]) for record in records] == [1, 3]


@both_methods
def test_prediction_that_is_not_finite(toy, method):
    posterior, counts = scenes(toy)
    toy.bump = lambda conds: torch.full((len(conds), 1, SIDE, SIDE), float("nan")) * conds.sum()
    with pytest.raises(FloatingPointError, match="--mixed_precision no"):
        infer(method, toy, posterior, counts)


# Gradient


def test_the_best_start_wins(toy):
    posterior, counts = scenes(toy, std=0.05)
    found = infer_gradient(toy, posterior, counts, GradientSettings(**{**GRADIENT, "num_steps": 60}))
    errors, best = found.start_errors, found.best_start
    assert errors.shape == (3, 6) and (errors.amax(1) > errors.amin(1)).all()  # the starts differ
    assert torch.equal(found.error, errors.amin(1)) and torch.equal(errors[torch.arange(3), best], found.error)


def test_more_starts_are_never_worse(toy):
    posterior, counts = scenes(toy, (1,), std=0.05)
    few, many = (
        infer_gradient(toy, posterior, counts, GradientSettings(**{**GRADIENT, "num_steps": 60, "num_inits": r}))
        for r in (4, 8)
    )
    torch.testing.assert_close(many.start_errors[:, :4], few.start_errors, rtol=1e-4, atol=1e-7)
    assert (many.error <= few.error * (1 + 1e-4)).all()  # the first starts and the draws that score are the same


def test_starts_are_scored_on_draws_that_they_share(toy):
    posterior, counts = scenes(toy, std=0.05)
    pairs = Pairs(torch.ones(3, 2, 1, dtype=torch.bool))
    same = torch.full((3, 2, 1, 2), 0.4)
    errors, gradient = composition_gradient(
        toy, posterior.mean, torch.tensor([5, 6, 7]), torch.zeros_like(posterior.mean), same, pairs, 100
    )
    assert torch.equal(errors[:, 0], errors[:, 1]) and torch.equal(gradient[:, 0], gradient[:, 1])


def test_starting_positions_follow_the_published_distribution(toy):
    posterior, _ = scenes(toy, (0,))
    found = infer_gradient(
        toy, posterior, torch.tensor([40]), GradientSettings(num_steps=1, num_inits=50, num_draws=1), record_every=1
    )
    first = found.trajectory[0].flatten(0, -2)  # (2000, 2)
    assert found.trajectory.shape == (2, 1, 50, 40, 2)
    torch.testing.assert_close(first.mean(0), torch.tensor([0.5, 0.5]), rtol=0, atol=0.01)
    torch.testing.assert_close(first.std(0), torch.tensor([0.13, 0.13]), rtol=0, atol=0.01)


def test_trajectory_ends_where_the_result_is(toy):
    posterior, counts = scenes(toy)
    found = infer_gradient(toy, posterior, counts, GradientSettings(**{**GRADIENT, "num_steps": 20}), record_every=5)
    assert found.trajectory.shape == (5, 3, 6, 3, 2)
    for i, best in enumerate(found.best_start):
        assert torch.equal(found.trajectory[-1, i, best], found.conds[i])


@pytest.mark.parametrize(("prediction_type", "steps"), [("epsilon", 53), ("v_prediction", 5)])
def test_gradient_equals_the_published_loop(make_denoiser, prediction_type, steps):
    """One image, one start: AdamW without weight decay, unconditional pass included, clip 1, clamp, one draw a step."""
    denoiser = make_denoiser("unet", prediction_type)
    denoiser.network.conv_out.weight *= 28  # so that the gradient is long enough to be clipped
    mean, std = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    posterior, lr, k = Posterior(mean, std.abs()), 0.02, 2
    found = infer_gradient(
        denoiser,
        posterior,
        torch.tensor([k]),
        GradientSettings(num_inits=1, num_steps=steps, learning_rate=lr, num_draws=4, seed=5),
    )

    (start,), noises = image_generators(5, [0], stream=0), image_generators(5, [0], stream=1)
    first = (0.5 + 0.13 * torch.randn(1, k, 2, generator=start)).clamp(0, 1)
    conds = first.clone().requires_grad_()
    optimizer = torch.optim.AdamW([conds], lr=lr, weight_decay=0.0)
    sizes = [50, steps - 50] if steps > 50 else [steps]
    parts = [draw_for_images(posterior, n, (0, 500), noises, stratified=False) for n in sizes]
    x_0, t, eps = (torch.cat([getattr(p, name)[0] for p in parts]) for name in ("x_0", "t", "eps"))
    scheduler, norms = denoiser.scheduler, []
    for i in range(steps):
        now = t[i : i + 1]
        x_t = scheduler.add_noise(x_0[i : i + 1], eps[i : i + 1], now)
        target = eps[i : i + 1]
        if prediction_type == "v_prediction":
            target = scheduler.get_velocity(x_0[i : i + 1], eps[i : i + 1], now)
        u = denoiser.network(x_t, now, encoder_hidden_states=torch.zeros(1, 1, 2)).sample
        combined = u
        for j in range(k):
            f = denoiser.network(x_t, now, encoder_hidden_states=conds[:, j : j + 1]).sample
            combined = combined + (f - u) / k
        loss = torch.nn.functional.mse_loss(combined, target)
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_([conds], 1.0))
        optimizer.step()
        with torch.no_grad():
            conds.clamp_(0, 1)
    torch.testing.assert_close(found.conds, conds.detach(), rtol=0, atol=1e-4)
    assert (conds - first).abs().max() > 2 * lr and max(norms) > 2


def test_clipping_treats_every_start_alone():
    gradient = torch.randn(2, 3, 4, 2, generator=torch.Generator().manual_seed(0))
    gradient[0, 1] *= 0.01
    clipped = clip_norm(gradient, 1.0)
    for i, j in itertools.product(range(2), range(3)):
        parameter = torch.nn.Parameter(torch.zeros(4, 2))
        parameter.grad = gradient[i, j].clone()
        torch.nn.utils.clip_grad_norm_([parameter], 1.0)
        torch.testing.assert_close(clipped[i, j], parameter.grad)


def test_chunks_cover_all_pairs_and_cut_no_composition():
    real = torch.tensor([[[1, 1, 1], [1, 1, 1]], [[1, 0, 0], [1, 0, 0]], [[1, 1, 0], [1, 1, 0]]]).bool()
    pairs = Pairs(real)
    assert pairs.image.tolist() == [0] * 6 + [1] * 2 + [2] * 4
    assert pairs.start.tolist() == [0, 0, 0, 1, 1, 1, 2, 3, 4, 4, 5, 5]
    torch.testing.assert_close(pairs.weights, torch.tensor([1 / 3] * 6 + [1.0] * 2 + [0.5] * 4))
    for size in (1, 4, 5, 100):
        parts = pairs.chunks(size)
        assert torch.cat(parts).tolist() == list(range(12))
        assert all(len(part) <= max(size, 3) for part in parts)
        ends = [int(pairs.start[part[-1]]) for part in parts]
        assert len(set(ends)) == len(ends)


# Pursuit


def brute_force(A, k, allowed):
    """The best allowed set of k candidates and its error."""
    sets = [s for s in itertools.combinations(range(len(A)), k) if all(allowed[i, j] for i in s for j in s if i != j)]
    return min(((float(A[list(s)][:, list(s)].mean()), set(s)) for s in sets), key=lambda pair: pair[0])


def everything(m):
    return ~torch.eye(m, dtype=torch.bool)


def test_pursue_reaches_the_optimum_of_independent_candidates():
    """Without correlations the best k are those of the lowest errors: greedy addition cannot miss them."""
    A = torch.diag(torch.tensor([3.0, 0.5, 2.0, 0.1, 1.0, 4.0]))
    assert [set(s) for s in pursue(A, 4, everything(6))] == [{3}, {3, 1}, {3, 1, 4}, {3, 1, 4, 2}]


def test_pursue_swaps_out_what_greedy_addition_chose():
    """0 is the best single one, but 1 and 2 cancel each other exactly: only a swap gets there."""
    r = torch.tensor([[0.5, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, -1.0, 0.05], [3.0, 0.0, 0.0]])
    A = r @ r.T
    sets = pursue(A, 2, everything(4))
    assert set(sets[0]) == {0} and set(sets[1]) == {1, 2} == brute_force(A, 2, everything(4))[1]


@pytest.mark.parametrize("seed", range(8))
def test_pursue_against_brute_force(seed):
    generator = torch.Generator().manual_seed(seed)
    r = torch.randn(9, 4, generator=generator)
    A = r @ r.T / 4
    allowed = torch.rand(9, 9, generator=generator) > 0.1
    allowed = allowed & allowed.T & everything(9)
    sets = pursue(A, 4, allowed)
    assert [len(s) for s in sets] == [1, 2, 3, 4]
    for k, found in enumerate(sets, 1):
        assert len(set(found)) == k and all(allowed[i, j] for i in found for j in found if i != j)
        error = float(A[found][:, found].mean())
        best, _ = brute_force(A, k, allowed)
        assert error >= best - 1e-6
        for i, new in itertools.product(range(k), range(9)):  # as documented: no swap of one member is better
            other = [*found[:i], *found[i + 1 :]]
            if new not in other and all(allowed[new, j] for j in other):
                trial = [*other, new]
                assert float(A[trial][:, trial].mean()) >= error * (1 - 1e-5) - 1e-7
        if k == 1:
            assert error == pytest.approx(best)


def test_pursue_finds_the_planted_set(toy):
    posterior, counts = scenes(toy)
    candidates = torch.cat([torch.tensor(SCENES[2]), torch.rand(9, 2, generator=torch.Generator().manual_seed(1))])
    draws = draw_for_images(posterior, 3, (0, 500), image_generators(0, [0, 1, 2], 3), stratified=True)
    A = price_candidates(toy, posterior, candidates, draws, 100)[0].A[2]
    allowed = torch.cdist(candidates, candidates) >= 0.05
    found = pursue(A, 3, allowed)[2]
    assert set(found) == {0, 1, 2} == brute_force(A, 3, allowed)[1]


def test_pursue_stops_when_nothing_is_allowed():
    allowed = torch.zeros(3, 3, dtype=torch.bool)
    assert pursue(torch.eye(3), 3, allowed) == [[0]]


def test_addition_sums_are_those_of_the_sets():
    r = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    A, allowed = r @ r.T, everything(6)
    allowed[1, 5] = allowed[5, 1] = False
    for sets in ([[]], [[2], [0]], [[4, 1], [0, 3]]):
        sums = addition_sums(A, sets, allowed)
        for row, members in zip(sums, sets, strict=True):
            for new in range(6):
                together = [*members, new]
                expected = float(A[together][:, together].sum())
                if new in members or (new == 5 and 1 in members):
                    expected = math.inf
                assert float(row[new]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_sets_are_chosen_with_the_gain_that_fits_them():
    """Every object's true weight is 1 / 4 around a base: the gain of K = 6 objects is 1.5, of 4 it is 1."""
    generator = torch.Generator().manual_seed(0)
    effects = torch.randn(20, 400, generator=generator)
    effects = torch.cat([effects, torch.zeros(6, 400)])  # the base: a prediction without any object
    base = torch.arange(20, 26)
    for k, gain in ((4, 1.0), (6, 1.5)):
        target = effects[:k].sum(0) / 4
        r = target - effects  # residuals of f_i = effect_i
        choice = choose_sets(r @ r.T / 400, k, everything(20), base)[-1]
        assert sorted(choice.members) == list(range(k)) and choice.gain == gain
        weights = torch.zeros(26).index_fill(0, base, (1 - choice.gain) / 6)
        weights[choice.members] = choice.gain / k
        assert float(weights.sum()) == pytest.approx(1)
        assert choice.error == pytest.approx(float(((weights @ r) ** 2).mean()), abs=1e-5)


def test_prices_do_not_depend_on_the_chunks(toy):
    posterior, _ = scenes(toy, std=0.05)
    draws = draw_for_images(posterior, 5, (0, 500), image_generators(0, [0, 1, 2], 3), stratified=True)
    candidates = candidate_grid(16)
    first, second = (price_candidates(toy, posterior, candidates, draws, size)[0].A for size in (1000, 1))
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)


def test_min_separation_is_respected(toy):
    posterior, _ = scenes(toy, (1,))
    for separation in (0.05, 0.3):
        found = infer_pursuit(
            toy,
            posterior,
            torch.tensor([4]),
            PursuitSettings(**{**PURSUIT, "num_steps": 0, "min_separation": separation}),
        )
        assert torch.pdist(found.conds[0]).min() >= separation - 1e-6
    with pytest.raises(ValueError, match="may stand together"):
        infer_pursuit(toy, posterior, torch.tensor([9]), PursuitSettings(**{**PURSUIT, "min_separation": 0.6}))


def test_finer_sets_are_never_worse_nor_fewer(toy):
    """Where the greedy search among finer positions gets stuck, as in so crowded a scene, the sets on the grid stay."""
    posterior, _ = scenes(toy, (2,))
    settings = PursuitSettings(num_candidates=25, num_draws=4, min_separation=0.27)
    pursuit = Pursuit(toy, posterior, settings, None)
    grid = pursuit.candidates
    base = base_members(len(grid))
    coarse = choose_sets(pursuit.matrix.A[0], 9, may_stand_together(grid, 0.27), base)
    fine = pursuit.best_sets(0, 9)
    assert len(fine) == len(coarse) > 5
    stuck = 0
    for choice, (positions, gain) in zip(coarse, fine, strict=True):
        k = len(positions)
        assert k == len(choice.members) and (k == 1 or torch.pdist(positions).min() >= 0.27)
        dictionary = torch.cat([positions, grid[base]])
        matrix = ErrorMatrix(1, len(dictionary))
        price_draws(toy, matrix, 0, pursuit.draws[0], dictionary, 1000)
        weights = torch.cat([torch.full((k,), gain / k), torch.full((len(base),), (1 - gain) / len(base))])
        assert float(matrix.error(weights[None, None])) <= choice.error + 1e-6
        stuck += torch.equal(positions, grid[choice.members])
    assert 0 < stuck < len(fine)


@pytest.mark.parametrize("bounds", [None, [0.2, 0.3, 0.8, 0.5]])
def test_candidate_grid_covers_the_bounds(bounds):
    grid = candidate_grid(200, bounds)
    left, top, right, bottom = bounds or [0.0, 0.0, 1.0, 1.0]
    assert 150 <= len(grid) <= 250 and len(torch.unique(grid, dim=0)) == len(grid)
    assert grid.min() >= 0 and grid.max() <= 1
    corners = torch.tensor([[left, top], [right, top], [left, bottom], [right, bottom]])
    spacing = torch.cdist(grid, grid).masked_fill(torch.eye(len(grid)).bool(), 9).min()
    assert torch.cdist(corners, grid).min(1).values.max() < spacing
    assert grid[:, 0].min() >= left - 0.031 and grid[:, 1].max() <= bottom + 0.031


@pytest.mark.parametrize("bounds", [None, [0.2, 0.3, 0.8, 0.5]])
def test_divided_cells_tile_the_grid(bounds):
    """The parts of all cells are the regular grid of a quarter of the spacing."""
    grid = candidate_grid(12, bounds)
    xs, ys = (divide_cells(grid, list(range(len(grid))))[:, axis].mul(1e4).round().unique() for axis in (0, 1))
    assert len(xs) * len(ys) == 16 * len(grid)
    for parts, axis in ((xs, grid[:, 0]), (ys, grid[:, 1])):
        spacing = axis.unique().diff()[0]
        torch.testing.assert_close(parts.diff() / 1e4, (spacing / 4).expand(len(parts) - 1), rtol=0, atol=2e-4)


def test_gain_prices_the_explicit_composition(toy):
    """base + gain (mean_k f_k - base), written out on every draw, against the matrix and against the refinement."""
    posterior, _ = scenes(toy, (2,))
    candidates, gain, chosen = candidate_grid(16), 1.4, [2, 7, 11]
    draws = draw_for_images(posterior, 4, (0, 500), image_generators(0, [0], 3), stratified=True)
    matrix, base = price_candidates(toy, posterior, candidates, draws, 1000)
    explicit = []
    for n in range(4):
        x_0, t, eps = draws.x_0[:, n], draws.t[:, n], draws.eps[:, n]
        f = toy.predict_pairs(
            toy.add_noise(x_0, eps, t), t, candidates, torch.zeros(len(candidates)).long()
        )  # (M, ...)
        u = f[base_members(len(f))].mean(0)
        composed = u + gain * (f[chosen].mean(0) - u)
        explicit.append((toy.target(x_0, eps, t)[0] - composed).square().mean())
    expected = float(torch.stack(explicit).mean())
    assert float(
        with_gain(matrix.A[0], gain, base_members(len(candidates)))[chosen][:, chosen].mean()
    ) == pytest.approx(expected, rel=1e-4)
    found = refine(
        toy,
        draws,
        candidates[chosen][None],
        torch.tensor([3]),
        gain=torch.tensor([gain]),
        base=base,
        min_separation=0.0,
        num_steps=0,
        learning_rate=1e-2,
        batch_size=100,
    )
    assert float(found.error) == pytest.approx(expected, rel=1e-4) and torch.equal(found.conds[0], candidates[chosen])


def test_push_separates_pairs_and_leaves_the_rest():
    conds = torch.tensor([[[0.5, 0.5], [0.53, 0.5], [0.9, 0.9], [0.5, 0.5]]])
    real = torch.tensor([[True, True, True, False]])  # the last is padding: it neither moves nor pushes
    moved = conds + separating_push(conds, real, 0.07)
    torch.testing.assert_close(moved, torch.tensor([[[0.48, 0.5], [0.55, 0.5], [0.9, 0.9], [0.5, 0.5]]]))
