"""Noise draws, their weights, and draws of the posterior."""

import math

import pytest
import torch

from igm.inference.draws import draw_for_images, image_generators
from igm.inference.types import Posterior
from igm.objective import draw_noise, offset_noise, snr_weights
from igm.training.batches import step_generator


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("stratified", [False, True])
def test_timesteps_fill_the_half_open_range(stratified):
    noise = draw_noise(4000, (1, 1, 1), (100, 110), generator(), stratified=stratified)
    assert len(noise.t) == 4000 and noise.t.dtype == torch.long
    counts = torch.bincount(noise.t - 100, minlength=10)
    assert len(counts) == 10 and (counts > 300).all() and (counts < 500).all()


def test_one_timestep_range():
    assert draw_noise(5, (1, 1, 1), (7, 8), generator()).t.tolist() == [7] * 5


def test_stratified_timesteps_have_one_in_each_part():
    t = draw_noise(10, (1, 1, 1), (0, 1000), generator(), stratified=True).t
    assert (t // 100).tolist() == list(range(10))
    assert len(set((t % 100).tolist())) > 5  # and are random within it


def test_stratified_mean_is_unbiased_and_steadier():
    def means(stratified):
        return torch.stack(
            [
                draw_noise(8, (1, 1, 1), (0, 500), generator(s), stratified=stratified).t.double().mean()
                for s in range(400)
            ]
        )

    plain, stratified = means(False), means(True)
    assert abs(stratified.mean() - 249.5) < 2 and abs(plain.mean() - 249.5) < 10
    assert stratified.std() < plain.std() / 4


@pytest.mark.parametrize("stratified", [False, True])
def test_logit_normal_timesteps_follow_their_density(stratified):
    """Against the distribution's own quantiles: P(t < T sigmoid(mean + z std)) is the normal probability of z."""
    options = {"stratified": stratified, "logit_normal": (-0.5, 0.8)}
    t = draw_noise(20_000, (1, 1, 1), (0, 1000), generator(), **options).t
    for z, below in ((-1.0, 0.1587), (0.0, 0.5), (1.0, 0.8413)):
        quantile = 1000 / (1 + math.exp(0.5 - 0.8 * z))
        assert float((t < quantile).double().mean()) == pytest.approx(below, abs=0.01)


def test_noise_is_standard_normal_and_repeats():
    first, again, other = (draw_noise(64, (4, 8, 8), (0, 9), generator(s)) for s in (0, 0, 1))
    assert first.eps.shape == (64, 4, 8, 8)
    assert abs(first.eps.mean()) < 0.05 and abs(first.eps.std() - 1) < 0.05
    assert torch.equal(first.eps, again.eps) and torch.equal(first.t, again.t)
    assert not torch.equal(first.eps, other.eps)


def test_offset_noise_shifts_whole_channels():
    eps = torch.randn(2, 3, 4, 4, generator=generator())
    shift = offset_noise(eps, 0.1, generator(1)) - eps
    expected = 0.1 * torch.randn(2, 3, 1, 1, generator=generator(1))
    torch.testing.assert_close(shift, expected.expand(-1, -1, 4, 4), rtol=0, atol=1e-6)


def test_snr_weights_by_hand():
    alphas = torch.tensor([0.9, 0.5, 0.1])  # SNR 9, 1, 1/9
    t = torch.tensor([0, 1, 2])
    torch.testing.assert_close(snr_weights(alphas, t, 5.0, "epsilon"), torch.tensor([5 / 9, 1, 1]))
    torch.testing.assert_close(snr_weights(alphas, t, 5.0, "v_prediction"), torch.tensor([0.5, 0.5, 0.1]))


def test_posterior_draws_have_its_mean_and_spread():
    mean, std = torch.randn(2, 4, 3, 3, generator=generator()), torch.rand(2, 4, 3, 3, generator=generator(1))
    draws = draw_for_images(Posterior(mean, std), 2000, (0, 100), image_generators(0, [0, 1], 0), stratified=False)
    assert draws.x_0.shape == draws.eps.shape == (2, 2000, 4, 3, 3) and draws.t.shape == (2, 2000)
    torch.testing.assert_close(draws.x_0.mean(1), mean, rtol=0, atol=0.1)
    torch.testing.assert_close(draws.x_0.std(1), std, rtol=0, atol=0.1)
    rest = (draws.x_0 - mean[:, None]) / std[:, None]
    assert abs((rest * draws.eps).mean()) < 0.01  # the posterior's noise is not the diffusion's


def test_draws_of_an_image_follow_its_number_alone():
    mean = torch.zeros(3, 1, 2, 2)
    posterior = Posterior(mean, mean + 1)
    together = draw_for_images(posterior, 4, (0, 100), image_generators(5, [2, 7, 9], 1), stratified=True)
    alone = draw_for_images(posterior[1:2], 4, (0, 100), image_generators(5, [7], 1), stratified=True)
    for name in ("x_0", "t", "eps"):
        assert torch.equal(getattr(together, name)[1], getattr(alone, name)[0])
    assert not torch.equal(together.eps[0], together.eps[1])


def first_numbers(generators):
    return [round(float(torch.randn(1, generator=g)), 6) for g in generators]


def test_seeds_streams_and_images_are_independent():
    drawn = [
        number
        for seed in (0, 1, 42, 123_456_789, 2**32 - 1)
        for stream in range(4)
        for number in first_numbers(image_generators(seed, [0, 1, 1000], stream))
    ]
    assert len(set(drawn)) == len(drawn)


def test_steps_of_training_are_independent():
    drawn = [
        number
        for seed in (0, 1, 42, 2**32 - 1)
        for stream in (0, 1)
        for number in first_numbers(step_generator(seed, step, stream) for step in (0, 1, 2, 499_999))
    ]
    assert len(set(drawn)) == len(drawn)
