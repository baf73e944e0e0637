"""Composition and its exact identities, each shown on a tiny network."""

import itertools

import pytest
import torch

from igm.composition import equal_weights, pack, predictor
from igm.error_matrix import ErrorMatrix
from igm.models.composition import compose
from igm.objective import Noise, composed_error

MASK = torch.tensor([[1.0, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])


@pytest.fixture
def scene():
    """Three images with 3, 1 and 4 positions: x_t, t, conds (3, 4, 2), mask."""
    generator = torch.Generator().manual_seed(1)
    x_t = torch.randn(3, 4, 8, 8, generator=generator)
    return x_t, torch.tensor([10, 300, 900]), torch.rand(3, 4, 2, generator=generator), MASK


def composed(denoiser, x_t, t, conds, mask):
    return predictor(denoiser, conds, mask)(x_t, t)


def published_formula(denoiser, x_t, t, conds, mask):
    """u + sum_k (mask_k / K) (f_k - u) with an unconditional u, and padding computed too, as the published code has it."""
    u = denoiser.predict(x_t, t, torch.zeros_like(conds[:, :1]))  # (B, 1, C, H, W)
    f = denoiser.predict(x_t, t, conds)  # (B, K, C, H, W)
    weights = (mask / mask.sum(1, keepdim=True))[:, :, None, None, None]
    return u[:, 0] + (weights * (f - u)).sum(1)


# Weights and packing


def test_weights_are_those_of_the_mean():
    expected = torch.tensor([[1 / 3, 1 / 3, 1 / 3, 0], [1, 0, 0, 0], [0.25] * 4])
    torch.testing.assert_close(equal_weights(MASK), expected)


def test_pack_keeps_the_real_pairs():
    conds = torch.arange(24.0).view(3, 4, 2)
    pairs, weights, index = pack(conds, torch.tensor([[0.0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 1, 0]]))
    assert index.tolist() == [0, 0, 1, 2]
    assert pairs.tolist() == [[2, 3], [6, 7], [8, 9], [20, 21]]
    assert weights.tolist() == [0.5, 0.5, 1, 1]


def test_pack_refuses_an_image_without_concepts():
    with pytest.raises(ValueError, match="at least one concept"):
        pack(torch.zeros(2, 3, 2), torch.tensor([[1.0, 0, 0], [0, 0, 0]]))


def test_compose_by_hand():
    predictions = torch.tensor([[1.0, 10], [2, 20], [3, 30]])
    weights, index = torch.tensor([0.5, 1, -2]), torch.tensor([1, 0, 1])
    assert compose(predictions, weights, index, 3).tolist() == [[2, 20], [-5.5, -55], [0, 0]]


def test_composition_is_the_mean(tiny_denoiser, scene):
    x_t, t, conds, mask = scene
    single = tiny_denoiser.predict(x_t, t, conds)
    result = composed(tiny_denoiser, *scene)
    for i, count in enumerate([3, 1, 4]):
        torch.testing.assert_close(result[i], single[i, :count].mean(0), rtol=1e-4, atol=1e-5)


# Identity 1 and 3, padding, order


def test_packed_equals_padded_and_the_unconditional_pass_cancels(tiny_denoiser, scene):
    x_t, t, conds, mask = scene
    tiny_denoiser.requires_grad_(True)
    results = []
    for formula in (composed, published_formula):
        c = conds.clone().requires_grad_()
        value = formula(tiny_denoiser, x_t, t, c, mask)
        wanted = [c, *tiny_denoiser.network.parameters()]
        gradients = torch.autograd.grad(value.square().mean(), wanted, allow_unused=True)
        results.append((value, gradients))
    (value, gradients), (published, published_gradients) = results
    torch.testing.assert_close(value, published, rtol=1e-4, atol=1e-5)
    assert gradients[0].abs().max() > 1e-6
    for ours, theirs in zip(gradients, published_gradients, strict=True):
        if theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-6)


def test_padding_has_no_value_and_no_gradient(tiny_denoiser, scene):
    x_t, t, conds, mask = scene
    c = conds.clone().requires_grad_()
    value = composed(tiny_denoiser, x_t, t, c, mask)
    (gradient,) = torch.autograd.grad(value.square().sum(), c)
    assert not gradient[mask == 0].any() and (gradient[mask > 0].abs().sum(1) > 0).all()
    other = torch.where(mask[:, :, None] > 0, conds, torch.full_like(conds, float("nan")))
    assert torch.equal(composed(tiny_denoiser, x_t, t, other, mask), value)


def test_order_of_the_concepts_does_not_matter(tiny_denoiser, scene):
    x_t, t, conds, mask = scene
    order = [2, 0, 3, 1]
    torch.testing.assert_close(
        composed(tiny_denoiser, x_t, t, conds[:, order], mask[:, order]),
        composed(tiny_denoiser, *scene),
        rtol=1e-4,
        atol=1e-5,
    )


# The error


def test_composed_error_is_a_loop_written_out(tiny_denoiser, scene):
    x_0, t, conds, mask = scene
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(9))
    errors = composed_error(tiny_denoiser, x_0, Noise(t, eps), *pack(conds, mask))
    assert errors.shape == (3,)
    for i, count in enumerate([3, 1, 4]):
        abar = tiny_denoiser.scheduler.alphas_cumprod[t[i]]
        x_t = abar.sqrt() * x_0[i] + (1 - abar).sqrt() * eps[i]
        total = torch.zeros_like(x_t)
        for k in range(count):
            total += tiny_denoiser.predict_pairs(x_t[None], t[i : i + 1], conds[i, k : k + 1], torch.tensor([0]))[0]
        is_v = tiny_denoiser.scheduler.config.prediction_type == "v_prediction"
        target = abar.sqrt() * eps[i] - (1 - abar).sqrt() * x_0[i] if is_v else eps[i]
        assert float(errors[i]) == pytest.approx(float(((target - total / count) ** 2).mean()), rel=1e-4)


# Identity 5


def draws_of(denoiser, num_images=2, num_candidates=5, num_draws=6):
    """Candidates (M, D), and per image x_0, t, eps, predictions (N, M, ...), targets (N, ...)."""
    generator = torch.Generator().manual_seed(4)
    candidates = torch.rand(num_candidates, 2, generator=generator)
    images = []
    for _ in range(num_images):
        x_0, eps = torch.randn(2, num_draws, 4, 8, 8, generator=generator)
        t = torch.randint(0, 1000, (num_draws,), generator=generator)
        x_t = denoiser.add_noise(x_0, eps, t)
        predictions = denoiser.predict(x_t, t, candidates.expand(num_draws, -1, -1))
        images.append((x_0, t, eps, predictions, denoiser.target(x_0, eps, t)))
    return candidates, images


def fill(images, num_candidates, parts=(6,)):
    matrix = ErrorMatrix(len(images), num_candidates)
    for image, (*_, predictions, targets) in enumerate(images):
        start = 0
        for size in parts:
            matrix.add(image, predictions[start : start + size], targets[start : start + size])
            start += size
    return matrix


def test_matrix_prices_every_composition(tiny_denoiser):
    candidates, images = draws_of(tiny_denoiser)
    matrix = fill(images, len(candidates))
    weights = torch.randn(2, 20, 5, generator=torch.Generator().manual_seed(0))
    weights[:, :5] /= weights[:, :5].sum(2, keepdim=True)  # these sum to 1, the others do not
    weights[:, 5] = 0
    errors = matrix.error(weights)
    assert errors.shape == (2, 20)
    for image, (x_0, t, eps, _, _) in enumerate(images):
        n = len(t)
        for s in range(20):
            pairs, index = candidates.repeat(n, 1), torch.arange(n).repeat_interleave(5)
            explicit = composed_error(tiny_denoiser, x_0, Noise(t, eps), pairs, weights[image, s].repeat(n), index)
            assert float(errors[image, s]) == pytest.approx(float(explicit.mean()), rel=1e-4)


def test_matrix_prices_every_subset(tiny_denoiser):
    candidates, images = draws_of(tiny_denoiser)
    matrix = fill(images, len(candidates))
    for k in (1, 2, 3, 5):
        subsets = torch.tensor(list(itertools.combinations(range(5), k)))  # (S, K)
        errors = matrix.errors_of_subsets(subsets.expand(2, -1, -1))
        for image, (x_0, t, eps, _, _) in enumerate(images):
            for s, members in enumerate(subsets):
                conds = candidates[members].expand(len(t), -1, -1)
                explicit = composed_error(tiny_denoiser, x_0, Noise(t, eps), *pack(conds, torch.ones(len(t), k)))
                assert float(errors[image, s]) == pytest.approx(float(explicit.mean()), rel=1e-4)


def test_matrix_is_symmetric_and_holds_the_single_errors(tiny_denoiser):
    candidates, images = draws_of(tiny_denoiser)
    matrix = fill(images, len(candidates))
    torch.testing.assert_close(matrix.A, matrix.A.transpose(1, 2))
    *_, predictions, targets = images[0]
    torch.testing.assert_close(
        matrix.A[0].diagonal(), (targets[:, None] - predictions).square().mean((0, 2, 3, 4)), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("parts", [(2, 4), (1, 1, 1, 3)])
def test_draws_in_parts_equal_all_at_once(tiny_denoiser, parts):
    candidates, images = draws_of(tiny_denoiser)
    together, apart = fill(images, len(candidates)), fill(images, len(candidates), parts)
    for name in ("gram", "count"):
        torch.testing.assert_close(getattr(apart, name), getattr(together, name), rtol=1e-4, atol=1e-6)


def test_matrix_refuses_what_is_not_finite(make_denoiser):
    candidates, images = draws_of(make_denoiser())
    *_, predictions, targets = images[0]
    predictions[3, 1, 0, 0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="image 0"):
        fill(images, len(candidates))
