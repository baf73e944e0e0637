"""The separable network, and the error form: every composition's error, gain and slope without a network row."""

import pytest
import torch
from diffusers import DDPMScheduler

from igm.error_form import errors_per_draw, features_of_draws, measure_forms, mixing
from igm.error_matrix import ErrorMatrix
from igm.inference.draws import draw_for_images, image_generators
from igm.inference.method import DenoiserMethod
from igm.inference.phi import Phi
from igm.inference.settings import PursuitSettings
from igm.inference.types import Inferred, Posterior
from igm.models import ModelError
from igm.models.denoiser import Denoiser
from igm.models.separable import SeparableUNet
from igm.models.unet import build_network
from igm.objective import Noise, composed_error

SHAPE = {"sample_size": 4, "in_channels": 3, "block_out_channels": (32, 32), "rank": 8, "hidden": 16}


def tiny(**config) -> Denoiser:
    """A Denoiser with a random separable network, predicting v."""
    torch.manual_seed(0)
    network = SeparableUNet(**{**SHAPE, **config})
    return Denoiser(network, DDPMScheduler(prediction_type="v_prediction")).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    return tiny()


def some_draws(num_images: int, num_draws: int):
    """Draws of images that have a posterior with some spread."""
    generator = torch.Generator().manual_seed(1)
    mean = torch.randn(num_images, 3, 4, 4, generator=generator)
    posterior = Posterior(mean, torch.full_like(mean, 0.1))
    generators = image_generators(0, list(range(num_images)), stream=3)
    return draw_for_images(posterior, num_draws, (100, 700), generators, stratified=True)


def explicit(denoiser: Denoiser, draws, conds: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The prediction (N, C, H, W) for one image's draws of f_0 + sum_k a_k (f_k - f_0), one network row per concept."""
    x_t, k = denoiser.add_noise(draws.x_0, draws.eps, draws.t), len(conds)
    start = denoiser.network.encode(x_t, draws.t)[0]
    each = denoiser.predict(x_t, draws.t, conds.expand(len(x_t), k, -1))  # (N, K, C, H, W)
    return start + torch.einsum("k,nkchw->nchw", weights, each - start[:, None])


@pytest.mark.parametrize("composition", ["sum", "mean"])
def test_training_composes_as_configured(composition):
    denoiser = tiny(composition=composition)
    draws, conds = some_draws(1, 5)[0], torch.rand(3, 2)
    index = torch.arange(5).repeat_interleave(3)
    composed = denoiser.predict_composed(
        denoiser.add_noise(draws.x_0, draws.eps, draws.t), draws.t, conds.repeat(5, 1), torch.full((15,), 1 / 3), index
    )
    weights = torch.ones(3) if composition == "sum" else torch.full((3,), 1 / 3)
    torch.testing.assert_close(composed, explicit(denoiser, draws, conds, weights))


def test_padding_does_not_count(denoiser):
    draws, conds = some_draws(1, 1)[0], torch.rand(2, 2)
    arguments = denoiser, draws.x_0, Noise(draws.t, draws.eps)
    alone = composed_error(*arguments, conds[:1], torch.ones(1), torch.tensor([0]))
    padded = composed_error(*arguments, conds, torch.tensor([1.0, 0.0]), torch.tensor([0, 0]))
    torch.testing.assert_close(padded, alone)


def test_form_is_the_denoising_error_for_any_weights(denoiser):
    draws, phi = some_draws(2, 6), Phi(denoiser.network)
    form = measure_forms(denoiser, [draws], batch_size=4)
    conds, weights = torch.rand(4, 2), torch.tensor([1.3, -0.4, 0.0, 2.0])
    m = torch.einsum("k,kpr->pr", weights, phi(conds)).expand(2, 1, -1, -1)
    for image in range(2):
        prediction = explicit(denoiser, draws[image], conds, weights)
        target = denoiser.target(draws[image].x_0, draws[image].eps, draws[image].t)
        expected = (target - prediction).square().mean()
        torch.testing.assert_close(form.error(m)[image, 0], expected, rtol=1e-4, atol=1e-6)


def test_form_equals_the_error_matrix_on_the_same_draws(denoiser):
    draws, conds = some_draws(1, 6), torch.rand(3, 2)
    x_t = denoiser.add_noise(draws[0].x_0, draws[0].eps, draws[0].t)
    start = denoiser.network.encode(x_t, draws[0].t)[0]
    predictions = torch.cat([denoiser.predict(x_t, draws[0].t, conds.expand(6, -1, -1)), start[:, None]], dim=1)
    matrix = ErrorMatrix(1, 4)
    matrix.add(0, predictions, denoiser.target(draws[0].x_0, draws[0].eps, draws[0].t))
    weights = torch.tensor([[0.7, 1.1, 0.2], [1.0, 1.0, 1.0]])
    with_start = torch.cat([weights, 1 - weights.sum(1, keepdim=True)], dim=1)  # f_0 takes the rest
    m = torch.einsum("sk,kpr->spr", weights, Phi(denoiser.network)(conds))
    form = measure_forms(denoiser, [draws])
    torch.testing.assert_close(form.error(m[None]), matrix.error(with_start[None]), rtol=1e-4, atol=1e-6)


def test_best_gain_is_the_best(denoiser):
    form = measure_forms(denoiser, [some_draws(3, 4)])
    phi = Phi(denoiser.network)(torch.rand(5, 2))
    m = (phi[None, :2] * torch.sign(form.parts(phi[None, :2].expand(3, -1, -1, -1))[0])[..., None, None]).clone()
    error, gain = form.error_at_best_gain(m)
    torch.testing.assert_close(form.error(gain[..., None, None] * m), error, rtol=1e-4, atol=1e-6)
    for other in (0.9, 1.1):
        assert bool((form.error(other * gain[..., None, None] * m) >= error - 1e-6).all())


def test_errors_per_draw_average_to_the_form(denoiser):
    draws = some_draws(1, 7)
    phi, weights = Phi(denoiser.network)(torch.rand(3, 2)), torch.tensor([[1.0, 1.0, 0.0], [0.5, 0.0, 1.5]])
    mix = mixing(denoiser)
    m = torch.einsum("sk,kpr->spr", weights, phi)
    each = errors_per_draw(features_of_draws(denoiser, draws[0], 4), mix, m)
    assert each.shape == (7, 2)
    expected = measure_forms(denoiser, [draws]).error(m[None])[0]
    torch.testing.assert_close(each.mean(0), expected, rtol=1e-4, atol=1e-6)


def test_slopes_of_phi_are_its_derivatives():
    network = tiny().network.double()
    conds = torch.rand(3, 2, dtype=torch.double)
    values, slopes = network.phi_and_slopes(conds)
    torch.testing.assert_close(values, network.phi(conds))
    expected = torch.autograd.functional.jacobian(lambda c: network.phi(c).sum(0), conds)  # (R, H, W, P, 2)
    torch.testing.assert_close(slopes, expected.permute(3, 4, 0, 1, 2))


def test_half_precision_is_the_networks_alone():
    """The trunk computes in bfloat16; the form and each draw's error are exact for what it says."""
    draws, denoiser = some_draws(1, 6), tiny()
    exact = measure_forms(denoiser, [draws])
    denoiser.precision = "bf16"
    form, found = measure_forms(denoiser, [draws]), features_of_draws(denoiser, draws[0], 4)
    assert form.H.dtype == form.g.dtype == torch.float32 and not torch.equal(form.H, exact.H)
    torch.testing.assert_close(form.const, exact.const, rtol=0.03, atol=0)
    m = Phi(denoiser.network)(torch.rand(2, 2))  # (2, P, R)
    double = [(found.rest.double() - (found.features * own).double() @ mixing(denoiser).double().T) for own in m]
    expected = torch.stack([own.square().mean((1, 2)) for own in double], dim=1)  # (N, 2)
    torch.testing.assert_close(errors_per_draw(found, mixing(denoiser), m).double(), expected, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(form.error(m[None])[0].double(), expected.mean(0), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["unet", "position_unet", "separable_unet"])
def test_a_method_asks_the_network_alone_in_its_precision(kind, make_denoiser, monkeypatch):
    """Whatever it adds up itself is exact; the next method, of full precision, gets what the first one got."""
    denoiser, seen = make_denoiser(kind), []
    posterior = Posterior(torch.ones(1, 4, 8, 8), torch.zeros(1, 4, 8, 8))
    monkeypatch.setattr("igm.inference.method.encode_images", lambda *_: posterior)

    class Asks(DenoiserMethod):
        name = task = about = run = "test"
        settings_class = PursuitSettings

        def infer(self, posterior, num_concepts, **batching):
            assert not torch.is_autocast_enabled("cpu")
            index = torch.zeros(1, dtype=torch.long)
            asked = (torch.ones(1, 2) / 2, *[torch.ones(1)] * (kind == "separable_unet"), index)
            ask = self.model.predict_weighted if kind == "separable_unet" else self.model.predict_pairs
            seen.append(ask(posterior.mean, index, *asked))
            one = torch.ones(1, dtype=torch.long)
            return Inferred(torch.zeros(1, 1, 2), one, error=torch.zeros(1), forward=one, backward=one)

    for precision in ("no", "bf16", "no"):
        Asks(denoiser, PursuitSettings(), precision=precision)(torch.zeros(1, 3, 16, 16))
    first, half, last = seen
    assert torch.equal(first, last) and not torch.equal(first, half)
    torch.testing.assert_close(first, half, rtol=0.1, atol=0.05)


def test_an_object_acts_within_its_reach():
    network = tiny(reach=0.05).network
    phi = network.phi(torch.tensor([[0.125, 0.125]]))[0].abs().amax(0)  # (4, 4); the corner's place is at the position
    assert phi[3, 3] < 1e-6 * phi[0, 0]


def test_unknown_composition_is_refused():
    with pytest.raises(ModelError, match="'product' of the network is not one of sum, mean"):
        build_network({"_class_name": "SeparableUNet", **SHAPE, "composition": "product"})
