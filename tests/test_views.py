"""Views of a picture: where its concepts are in them, and that errors of several views are those of each, averaged."""

import dataclasses

import pytest
import torch
from diffusers import DDPMScheduler

from igm.error_form import errors_per_draw, features_in_views, measure_forms, mixing
from igm.facts import Facts
from igm.inference.draws import draw_for_images, image_generators
from igm.inference.method import encode_images
from igm.inference.phi import Phi
from igm.inference.separable import SeparableSearch, infer_known
from igm.inference.settings import PursuitSettings
from igm.inference.types import Posterior
from igm.inference.views import View, views_of
from igm.models.codec import PatchPCA
from igm.models.denoiser import Denoiser
from igm.models.separable import SeparableUNet
from igm.settings import SettingError

VIEWS = (View(), View(mirrored=True, shift=0.125))
SETTINGS = PursuitSettings(num_candidates=16, num_draws=6, confidence_draws=4, min_separation=0.2)


def tiny(cond_size: int = 2) -> Denoiser:
    torch.manual_seed(0)
    network = SeparableUNet(4, 3, (32, 32), rank=8, hidden=16, windows=(0.1, 0.3), cond_size=cond_size)
    return Denoiser(network, DDPMScheduler(prediction_type="v_prediction")).eval().requires_grad_(False)


def some_draws(seed: int, number: int = 3):
    mean = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    generators = image_generators(seed, [0, 1], stream=3)
    return draw_for_images(Posterior(mean, torch.full_like(mean, 0.1)), number, (0, 700), generators, stratified=True)


@pytest.mark.parametrize("view", [View(), View(mirrored=True), View(shift=0.125), View(mirrored=True, shift=0.125)])
def test_concepts_are_where_the_view_shows_them(view):
    """A single white pixel, found again by looking for it."""
    picture = torch.zeros(1, 3, 16, 16)
    picture[:, :, 5, 11] = 1.0
    row, column = (view.images(picture)[0, 0] == 1).nonzero()[0].tolist()
    place = view.concepts(torch.tensor([[11.5 / 16, 5.5 / 16, 7.0]]))
    torch.testing.assert_close(place, torch.tensor([[(column + 0.5) / 16, (row + 0.5) / 16, 7.0]]))


def test_what_comes_in_repeats_the_edge():
    picture = torch.rand(1, 3, 8, 8)
    moved = View(shift=0.25).images(picture)
    assert torch.equal(moved[..., 2:, 2:], picture[..., :6, :6])
    assert torch.equal(moved[..., 0], moved[..., 2]) and torch.equal(moved[..., 1, :], moved[..., 2, :])


def test_the_second_view_is_half_a_patch_away_and_mirrored_as_training_was():
    assert views_of(12, mirrored=False) == (View(), View(shift=0.5 / 12))
    assert views_of(12, mirrored=True)[1].mirrored


@pytest.mark.parametrize("mirrored", [True, False, None])
def test_posteriors_are_those_of_the_views(mirrored):
    codec = PatchPCA(patch_size=4, latent_channels=3)
    codec.fit(torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    network = tiny().network
    denoiser = Denoiser(network, DDPMScheduler(), codec, Facts(mirrored=mirrored)).requires_grad_(False)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    posterior = encode_images(denoiser, images)
    turned = images.flip(-1) if mirrored else images
    moved = torch.nn.functional.pad(turned, (2, 0, 2, 0), mode="replicate")[..., :16, :16]
    torch.testing.assert_close(posterior.mean, denoiser.encode(images)[0])
    torch.testing.assert_close(posterior.others[0].mean, denoiser.encode(moved)[0])
    torch.testing.assert_close(posterior[1:].others[0].mean, posterior.others[0].mean[1:])


@pytest.mark.parametrize("size", [2, 4])
def test_slopes_are_those_in_the_picture(size):
    phi, conds = Phi(tiny(size).network.double(), VIEWS), torch.rand(3, size, dtype=torch.float64)
    _, slopes = phi.with_slopes(conds)
    for axis in range(2):
        step = torch.zeros(size, dtype=torch.float64)
        step[axis] = 1e-3
        difference = (phi(conds + step) - phi(conds - step)) / 2e-3
        torch.testing.assert_close(slopes[:, axis], difference.to(slopes), rtol=0.02, atol=0.02)


def test_the_form_of_two_views_is_the_mean_of_their_forms():
    denoiser, views = tiny(), [some_draws(1), some_draws(2)]
    conds = torch.rand(3, 2)
    both = measure_forms(denoiser, views).error(Phi(denoiser.network, VIEWS)(conds).sum(0).expand(2, 1, -1, -1))
    each = [
        measure_forms(denoiser, [draws]).error(Phi(denoiser.network, [view])(conds).sum(0).expand(2, 1, -1, -1))
        for view, draws in zip(VIEWS, views, strict=True)
    ]
    torch.testing.assert_close(both, sum(each) / 2)


def test_errors_of_each_draw_average_to_the_form():
    denoiser, views = tiny(), [some_draws(1), some_draws(2)]
    phi, weights = Phi(denoiser.network, VIEWS)(torch.rand(3, 2)), torch.tensor([[1.0, 0.5, 0.0]])
    m = torch.einsum("sk,kpr->spr", weights, phi)
    each = errors_per_draw(features_in_views(denoiser, views, 1, 8), mixing(denoiser), m)
    assert each.shape == (3, 1)
    torch.testing.assert_close(each.mean(0), measure_forms(denoiser, views).error(m.expand(2, 1, -1, -1))[1])


def test_draws_are_shared_among_the_views():
    denoiser = tiny()
    mean = torch.randn(2, 3, 4, 4)
    alone = Posterior(mean, torch.zeros_like(mean))
    two = dataclasses.replace(alone, others=(Posterior(mean.flip(-1), alone.std, View(mirrored=True)),))
    for posterior, wanted in ((alone, 1), (two, 2)):
        search = SeparableSearch(denoiser, posterior, SETTINGS)
        assert search.form.g.shape[1] == 16 * wanted
        assert infer_known(denoiser, posterior, torch.tensor([2, 2]), SETTINGS).forward.tolist() == [10, 10]
    one = SeparableSearch(denoiser, two, dataclasses.replace(SETTINGS, num_views=1))
    torch.testing.assert_close(one.form.H, SeparableSearch(denoiser, alone, SETTINGS).form.H)


def test_there_are_one_or_two_views():
    with pytest.raises(SettingError, match="num_views"):
        PursuitSettings(num_views=3)
