"""Positions and numbers under a separable network, from images to answers."""

import dataclasses

import pytest
import torch
from diffusers import DDPMScheduler

from igm import UserError
from igm.inference.closed_form_grid import grow
from igm.inference.counting import PursuitMethod
from igm.inference.gradient import infer_gradient
from igm.inference.phi import Phi
from igm.inference.separable import SeparableSearch, infer_known, infer_number
from igm.inference.settings import GradientSettings, PursuitSettings
from igm.inference.types import Posterior
from igm.models.denoiser import Denoiser
from igm.models.separable import SeparableUNet

SETTINGS = PursuitSettings(
    num_candidates=25, num_draws=6, count_draws=5, confidence_draws=4, min_separation=0.2, max_objects=4
)


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    torch.manual_seed(0)
    network = SeparableUNet(4, 3, (32, 32), rank=8, hidden=16, windows=(0.1, 0.3))
    return Denoiser(network, DDPMScheduler(prediction_type="v_prediction")).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def posterior() -> Posterior:
    mean = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    return Posterior(mean, torch.zeros_like(mean))


def test_known_numbers_give_as_many_positions(denoiser, posterior):
    counts = torch.tensor([2, 3, 2])
    found = infer_known(denoiser, posterior, counts, SETTINGS)
    assert torch.equal(found.num_concepts, counts)
    assert found.forward.tolist() == [10, 10, 10] and not found.backward.any()
    for k, conds, sure in zip(counts.tolist(), found.conds, found.object_confidence, strict=True):
        assert bool((conds >= 0).all() and (conds <= 1).all())
        assert float(torch.pdist(conds[:k]).min()) >= 0.18  # a push against the border is cut there
        assert sure.shape == (k,) and bool((sure >= 0).all() and (sure <= 1).all())


def test_answers_do_not_depend_on_the_batch(denoiser, posterior):
    together = infer_known(denoiser, posterior, torch.tensor([2, 3, 2]), SETTINGS)
    alone = infer_known(denoiser, posterior[1:2], torch.tensor([3]), SETTINGS, image_numbers=[1], batch_size=5)
    torch.testing.assert_close(alone.conds[0], together.conds[1], atol=1e-4, rtol=0)
    torch.testing.assert_close(alone.contributions[0], together.contributions[1], atol=1e-4, rtol=0)


def test_errors_of_sets_are_those_of_the_form(denoiser, posterior):
    """What the search says of its set is what the error form says of it, by hand."""
    search = SeparableSearch(denoiser, posterior, SETTINGS)
    own = search.known(torch.tensor([2, 2, 2]))[2]
    m = Phi(denoiser.network)(own.conds[0, 0]).sum(0)[None, None].expand(3, -1, -1, -1)
    error, gain = search.form.error_at_best_gain(m)
    torch.testing.assert_close(own.error[0, 0], error[2, 0])
    torch.testing.assert_close(own.gain[0, 0], gain[2, 0])


def test_every_number_ends_no_higher_than_the_grid_starts_it(denoiser, posterior):
    search = SeparableSearch(denoiser, posterior, SETTINGS)
    grid = search.whole.among(torch.arange(3))
    starts = [grid.off_grid(grid.tables.conds[members], num_steps=0) for members in grow(grid.tables, 4)]
    for image, sets in enumerate(search.every):
        assert [own.conds.shape[2] for own in sets] == [1, 2, 3, 4]
        for own, start in zip(sets, starts, strict=True):
            assert float(own.error) <= float(start.error[image, 0]) + 1e-5


def test_the_penalty_decides_the_number(denoiser, posterior):
    def count(penalty: float) -> list[int]:
        settings = dataclasses.replace(SETTINGS, count_penalty=penalty)
        return infer_number(denoiser, posterior, settings).num_concepts.tolist()

    assert count(1e3) == [1, 1, 1]
    assert max(count(0.0)) > 1


def test_a_confidence_asked_for_takes_more_draws(denoiser, posterior):
    settings = dataclasses.replace(SETTINGS, count="infer", confidence=1.0)
    found = infer_number(denoiser, posterior[:1], settings)
    assert found.count_errors[0].shape == (32, 4)  # 4 x 5 draws, in rounds of 16
    assert found.contributions[0].shape == (32, int(found.num_concepts))


def test_the_method_uses_the_closed_form_by_itself(denoiser, posterior):
    method = PursuitMethod(denoiser, SETTINGS)
    found = method.infer(posterior, torch.tensor([2, 2, 2]), image_numbers=[0, 1, 2], batch_size=7)
    torch.testing.assert_close(
        found.conds, infer_known(denoiser, posterior, torch.tensor([2, 2, 2]), SETTINGS).conds, atol=1e-4, rtol=0
    )
    sought = PursuitMethod(denoiser, dataclasses.replace(SETTINGS, count="infer"))
    assert sought.infer(posterior, None, image_numbers=None, batch_size=9).count_errors[0].shape == (5, 4)


def test_gradient_works_on_it_too(denoiser, posterior):
    settings = GradientSettings(num_inits=2, num_steps=3, num_draws=2)
    found = infer_gradient(denoiser, posterior, torch.tensor([2, 1, 2]), settings)
    assert found.conds.shape == (3, 2, 2) and bool(found.conds.isfinite().all())


def test_too_many_objects_are_refused_in_one_line(denoiser, posterior):
    with pytest.raises(UserError, match="40 objects asked for, .* raise --num_candidates or lower --min_separation"):
        infer_known(denoiser, posterior[:1], torch.tensor([40]), SETTINGS)
