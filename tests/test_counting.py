"""Counting and confidence, on a model whose errors are known, and on penalties and scales that can be worked out."""

import pytest
import torch
from toy import SCENES, Toy, distance, scenes

from igm import UserError
from igm.inference.confidence import fit_scale, object_confidence, weights_without_each
from igm.inference.counting import (
    DRAWS_PER_ROUND,
    MOST,
    confidence_of_choice,
    fit_count_scale,
    fit_penalty,
    infer_count,
    weights_with_gains,
)
from igm.inference.pursuit import infer_pursuit
from igm.inference.sets import candidate_grid
from igm.inference.settings import PursuitSettings
from igm.tasks import find_task

SETTINGS = {
    "count": "infer",
    "num_candidates": 100,
    "num_draws": 4,
    "num_steps": 20,
    "learning_rate": 1e-2,
    "min_separation": 0.15,
}
SETTINGS |= {"max_objects": 5, "count_draws": 16, "confidence_draws": 8}


def test_counts_and_positions_are_found():
    toy = Toy()
    posterior, counts = scenes(toy)
    found = infer_count(toy, posterior, PursuitSettings(count_penalty=1e-5, **SETTINGS))
    assert found.num_concepts.tolist() == counts.tolist()
    for row, k, true in zip(found.conds, counts.tolist(), SCENES, strict=True):
        assert distance(row[:k], true) < 0.03
    assert (found.confidence > 0.9).all()
    task = find_task("positions")
    records = [task.record(found, row, ()) for row in range(3)]
    assert [len(errors) for record in records for errors in [record["error_by_count"]]] == [5, 5, 5]
    assert [len(record["object_confidence"]) for record in records] == counts.tolist()
    assert int(found.forward.sum()) == toy.rows  # every row is accounted for


def test_results_do_not_depend_on_the_batch_or_the_memory():
    toy = Toy()
    posterior, _ = scenes(toy, std=0.02)
    together = infer_count(toy, posterior, PursuitSettings(**SETTINGS))
    alone = infer_count(toy, posterior[1:2], PursuitSettings(**SETTINGS), image_numbers=[1], batch_size=37)
    assert together.num_concepts[1] == alone.num_concepts[0]
    torch.testing.assert_close(together.conds[1, : int(alone.num_concepts)], alone.conds[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(
        together.count_errors[1].mean(0),
        alone.count_errors[0].mean(0),
        rtol=1e-3,
        atol=1e-6,
    )


def test_a_large_penalty_leaves_one_object():
    toy = Toy()
    posterior, _ = scenes(toy)
    assert infer_count(toy, posterior, PursuitSettings(count_penalty=1e3, **SETTINGS)).num_concepts.tolist() == [
        1,
        1,
        1,
    ]


def test_adaptive_drawing_stops_when_sure_and_at_the_cap():
    toy = Toy()
    posterior, counts = scenes(toy)
    sure = infer_count(toy, posterior, PursuitSettings(count_penalty=1e-5, confidence=0.9, **SETTINGS))
    assert sure.num_concepts.tolist() == counts.tolist()
    assert [len(own) for own in sure.count_errors] == [DRAWS_PER_ROUND] * 3
    never = infer_count(toy, posterior[:1], PursuitSettings(count_penalty=1e-5, confidence=1.0, **SETTINGS))
    assert [len(own) for own in never.count_errors] == [MOST * SETTINGS["count_draws"]]


def test_at_least_one_object():
    toy = Toy()
    with pytest.raises(UserError, match="max_objects"):
        infer_count(toy, scenes(toy)[0], PursuitSettings(**{**SETTINGS, "max_objects": 0}))


def test_more_objects_than_fit_are_not_considered():
    toy = Toy()
    found = infer_count(
        toy, scenes(toy, (0,))[0], PursuitSettings(**{**SETTINGS, "num_candidates": 4, "min_separation": 0.9})
    )
    assert found.count_errors[0].shape[1] <= 2


def test_weights_of_a_set_under_every_gain():
    positions = torch.tensor([[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]])
    weights = weights_with_gains(positions[[2, 0]], positions, 5)
    torch.testing.assert_close(weights.sum(1), torch.ones(len(weights)))
    at_one = weights[(weights[:, 3].abs() < 1e-6)][0]  # gain 1: nothing on the base
    torch.testing.assert_close(at_one, torch.tensor([0.5, 0.0, 0.5, 0.0, 0.0]), atol=1e-6, rtol=0)


def test_confidence_of_a_choice_is_the_normal_tail():
    costs = torch.tensor([[1.0, 1.5], [1.2, 1.4], [0.9, 1.6], [1.1, 1.1]])
    difference = costs[:, 1] - costs[:, 0]
    z = float(difference.mean() / difference.std() * 2)
    expected = 1 - 0.5 * float(torch.erfc(torch.tensor(z / 2**0.5)))
    assert confidence_of_choice(costs, 0) == pytest.approx(expected, abs=1e-5)
    at_third = 1 - 0.5 * float(torch.erfc(torch.tensor(z / 3 / 2**0.5)))
    assert confidence_of_choice(costs, 0, 1 / 3) == pytest.approx(at_third, abs=1e-5)


# Confidence of objects


def test_an_object_that_is_there_counts_and_one_that_is_not_does_not():
    toy = Toy()
    posterior, _ = scenes(toy, (2,))
    options = {name: value for name, value in SETTINGS.items() if name not in ("max_objects", "count_draws")}
    found = infer_pursuit(toy, posterior, torch.tensor([4]), PursuitSettings(count_penalty=1e-6, **options))
    sure = found.object_confidence[0]
    gaps = torch.cdist(found.conds[0], torch.tensor(SCENES[2])).amin(1)
    assert gaps.argmax() == sure.argmin() and sure.min() < 0.1 < 0.99 < sure.sort().values[1]
    assert float(found.confidence) < 0.1


def test_contributions_are_those_of_explicit_compositions():
    """The error without an object, written out on the same draws."""
    toy = Toy()
    posterior, counts = scenes(toy, (1,))
    options = {name: value for name, value in SETTINGS.items() if name not in ("max_objects", "count_draws")}
    found = infer_pursuit(toy, posterior, counts, PursuitSettings(**options))
    contributions = found.contributions[0]
    from igm.inference.draws import draw_for_images, image_generators
    from igm.inference.pricing import base_members

    draws = draw_for_images(posterior, 8, (0, 500), image_generators(0, [0], 6), stratified=True)[0]
    candidates = candidate_grid(100)
    base, gain = candidates[base_members(len(candidates))], float(found.gain)
    for n in range(8):
        x_t, t = toy.add_noise(draws.x_0[n : n + 1], draws.eps[n : n + 1], draws.t[n : n + 1]), draws.t[n : n + 1]
        f = toy.predict_pairs(x_t, t, found.conds[0], torch.zeros(2).long())
        u = toy.predict_pairs(x_t, t, base, torch.zeros(len(base)).long()).mean(0)
        whole = u + gain * (f.mean(0) - u)
        for k in range(2):
            without = u + gain / 2 * (f[1 - k] - u)
            rise = (draws.eps[n] - without).square().mean() - (draws.eps[n] - whole).square().mean()
            assert float(contributions[n, k]) == pytest.approx(float(rise), rel=1e-3, abs=1e-5)


def test_weights_without_each_object_sum_to_one():
    weights = weights_without_each(3, 1.5, 7)
    torch.testing.assert_close(weights.sum(1), torch.ones(4))
    torch.testing.assert_close(weights[0, :3], torch.full((3,), 0.5))
    assert weights[2, 1] == 0 and weights[2, 0] == 0.5


# Calibration


def test_penalty_is_the_middle_of_the_best_ones():
    """Every object but the last true one saves 0.02; later ones save 0.002, the last true one 0.006."""
    curves = [torch.tensor([0.5, 0.48, 0.474, 0.472, 0.470]), torch.tensor([0.5, 0.494, 0.492, 0.490, 0.488])]
    penalty, share = fit_penalty(curves, [3, 2])
    assert share == 1 and penalty == pytest.approx(0.004, abs=1e-4)


def test_penalties_within_a_standard_error_are_as_good():
    """17 images need a penalty below 0.005, one above 0.004, two are always wrong: 0.85 is within 0.067 of 0.9."""
    saves = [0.005] * 17 + [0.004] + [0.005] * 2
    curves = [torch.tensor([0.5, 0.5 - own]) for own in saves]
    penalty, share = fit_penalty(curves, [2] * 17 + [1] + [3] * 2)
    assert share == pytest.approx(0.9) and penalty == pytest.approx(0.0025, abs=1e-4)


def test_a_single_draw_tells_nothing():
    assert object_confidence(torch.tensor([[0.3, -0.2]]), 0.1).tolist() == [0.5, 0.5]
    assert confidence_of_choice(torch.tensor([[0.1, 0.2]]), 0) == 0.5


def test_scale_makes_confidence_the_share_that_is_right():
    """Objects 1.5 standard errors above the penalty of which 69 % are right: the scale is 1 / 3."""
    noise = torch.randn(16, 1, generator=torch.Generator().manual_seed(0))
    noise = (noise - noise.mean(0)) / noise.std(0) * 4  # standard error 1
    contributions = [noise + 1.5] * 1000
    right = [torch.tensor([i < 691]) for i in range(1000)]
    scale = fit_scale(contributions, right, penalty=0.0)
    assert scale == pytest.approx(1 / 3, rel=0.08)
    assert float(object_confidence(noise + 1.5, 0.0, scale)) == pytest.approx(0.691, abs=0.03)


def test_count_scale_makes_confidence_the_share_that_is_right():
    """Two counts 3 standard errors apart, of which the lower error is right in 84 %: the scale is 1 / 3."""
    noise = torch.randn(16, generator=torch.Generator().manual_seed(0))
    noise = (noise - noise.mean()) / noise.std() * 4  # standard error 1
    errors = [torch.stack([torch.zeros(16), noise + 3.5], dim=1)] * 1000  # less 0.5 for the penalty of one object more
    scale = fit_count_scale(errors, [1 if i < 841 else 2 for i in range(1000)], penalty=-0.5)
    assert scale == pytest.approx(1 / 3, rel=0.08)
    assert confidence_of_choice(errors[0] - torch.tensor([0.0, 0.5]), 0, scale) == pytest.approx(0.841, abs=0.02)
