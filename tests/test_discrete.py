"""Discrete inference: closed-form search against brute force, adaptive drawing against full drawing."""

import itertools

import pytest
import torch

from igm import UserError
from igm.error_matrix import ErrorMatrix, subset_weights
from igm.facts import Facts
from igm.inference import discrete
from igm.inference.discrete import OneOfEach, Subsets, infer_discrete
from igm.inference.draws import draw_for_images, image_generators
from igm.inference.pricing import confidence_of, price_draws
from igm.inference.settings import DiscreteSettings
from igm.inference.types import Posterior


def random_matrix(m, seed=0, dim=40):
    r = torch.randn(m, dim, generator=torch.Generator().manual_seed(seed)) + 0.3
    return r @ r.T / dim


def error_of(A, members):
    return float(A[members][:, members].mean())


def by_brute_force(A, compositions):
    return sorted(map(list, compositions), key=lambda members: error_of(A, members))


@pytest.mark.parametrize("sizes", [[2, 2, 2], [3, 1, 4], [5]])
def test_one_of_each_finds_what_brute_force_finds(sizes):
    A = random_matrix(sum(sizes))
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    everything = itertools.product(*[range(s, s + n) for s, n in zip(starts, sizes, strict=True)])
    expected = by_brute_force(A, everything)[: 1 + discrete.NUM_RIVALS]
    assert OneOfEach(sizes).search(A) == expected


@pytest.mark.parametrize("sizes", [(2, 2), (1, 3), (4, 5)])
def test_subsets_finds_what_brute_force_finds(sizes):
    A = random_matrix(7, seed=1)
    everything = [c for k in range(sizes[0], sizes[1] + 1) for c in itertools.combinations(range(7), k)]
    expected = by_brute_force(A, everything)[: 1 + discrete.NUM_RIVALS]
    assert Subsets(7, sizes).search(A) == expected


@pytest.mark.parametrize("space", [OneOfEach([2] * 8), Subsets(16, (2, 3))])
def test_descent_beyond_enumeration_finds_the_same_best(space, monkeypatch):
    for seed in range(5):
        A = random_matrix(16, seed)
        best = space.search(A)[0]
        with monkeypatch.context() as patch:
            patch.setattr(discrete, "MOST_ENUMERATED", 1)
            found = space.search(A)
        assert sorted(found[0]) == sorted(best)
        assert len({tuple(sorted(members)) for members in found}) == len(found) > 1  # rivals are others


def test_forty_attributes_are_found_without_enumeration():
    """r_i = u_i * (1 if wrong): the right value of each attribute has no residual, so the minimum is known."""
    right = torch.randint(0, 2, (40,), generator=torch.Generator().manual_seed(3))
    r = torch.randn(80, 300, generator=torch.Generator().manual_seed(4))
    r[2 * torch.arange(40) + right] *= 0.01
    best = OneOfEach([2] * 40).search(r @ r.T)[0]
    assert best == (2 * torch.arange(40) + right).tolist()


@pytest.mark.parametrize(
    "make", [lambda: OneOfEach([]), lambda: OneOfEach([2, 0]), lambda: Subsets(2, (3, 3)), lambda: Subsets(2, (0, 1))]
)
def test_impossible_spaces_are_refused(make):
    with pytest.raises(UserError):
        make()


# Confidence


def test_paired_difference_is_that_of_the_errors_draw_by_draw():
    generator = torch.Generator().manual_seed(0)
    predictions, targets = torch.randn(9, 4, 2, 3, 3, generator=generator), torch.randn(9, 2, 3, 3, generator=generator)
    matrix = ErrorMatrix(1, 4, keep_draws=True)
    matrix.add(0, predictions[:5], targets[:5])
    matrix.add(0, predictions[5:], targets[5:])
    weights = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 1.0, 0], [0.2, 0.9, -0.3, 0.7]])  # the last does not sum to 1
    errors = (targets[:, None] - torch.einsum("sm,nm...->ns...", weights, predictions)).square().mean((2, 3, 4))
    mean, error = matrix.paired(0, weights[0], weights[1:])
    difference = errors[:, 1:] - errors[:, :1]  # (N, 2)
    torch.testing.assert_close(mean, difference.mean(0))
    torch.testing.assert_close(error, difference.std(0) / 3)
    torch.testing.assert_close(matrix.error(weights[None])[0], errors.mean(0))


def test_restricting_keeps_what_was_priced():
    generator = torch.Generator().manual_seed(0)
    predictions, targets = torch.randn(9, 4, 2, 3, 3, generator=generator), torch.randn(9, 2, 3, 3, generator=generator)
    whole, part = ErrorMatrix(1, 4, keep_draws=True), ErrorMatrix(1, 2, keep_draws=True)
    whole.add(0, predictions, targets)
    part.add(0, predictions[:, [1, 3]], targets)
    whole.restrict([1, 3])
    torch.testing.assert_close(whole.gram, part.gram)
    torch.testing.assert_close(whole.draws[0], part.draws[0])


def test_confidence_is_the_normal_tail_of_the_paired_difference():
    generator = torch.Generator().manual_seed(0)
    matrix = ErrorMatrix(1, 3, keep_draws=True)
    matrix.add(0, torch.randn(12, 3, 1, 2, 2, generator=generator), torch.randn(12, 1, 2, 2, generator=generator))
    errors = matrix.errors_per_draw(0, torch.eye(3)).double()
    best = int(errors.mean(0).argmin())
    others = [m for m in range(3) if m != best]
    doubt = 0.0
    for m in others:
        difference = errors[:, m] - errors[:, best]
        z = float(difference.mean() / difference.std() * 12**0.5)
        doubt += 0.5 * float(torch.erfc(torch.tensor(z / 2**0.5)))
    assert confidence_of(matrix, 0, [best], [[m] for m in others]) == pytest.approx(max(0, 1 - doubt), abs=1e-5)
    assert confidence_of(matrix, 0, [best], []) == 1


# The whole inference


class Toy:
    """A Denoiser whose prediction for candidate c is the target, plus c's own fixed error times noise-free patterns."""

    facts, num_timesteps = Facts(), 1000

    def __init__(self, truth, patterns, jitter):
        self.truth, self.patterns, self.jitter, self.rows = truth, patterns, jitter, 0

    def add_noise(self, x_0, eps, t):
        return eps

    def target(self, x_0, eps, t):
        return eps

    def share(self, x_t, t):
        return (x_t,)

    def predict_shared(self, shared, conds, index):
        self.rows += len(conds)
        c = conds.argmax(1)
        wrong = (~torch.isin(c, self.truth)).float()[:, None, None, None]
        x = shared[0][index]
        return x + wrong * self.patterns[c] + self.jitter * self.patterns[c] * x.mean((1, 2, 3), keepdim=True)


def make_toy(truth, m=12, jitter=1.0):
    patterns = torch.randn(m, 2, 4, 4, generator=torch.Generator().manual_seed(9))
    return Toy(torch.tensor(truth), patterns, jitter)


class Rounds(DiscreteSettings):
    """Rounds that no confidence ends."""

    stops_at = 1.1


def posterior(b):
    return Posterior(torch.zeros(b, 2, 4, 4), torch.ones(b, 2, 4, 4))


def test_the_true_composition_is_found_and_recorded():
    toy = make_toy([2, 7])
    found = infer_discrete(
        toy, posterior(3), torch.eye(12), Subsets(12, (2, 2)), DiscreteSettings(num_draws=20), batch_size=50
    )
    assert found.chosen == [[2, 7]] * 3
    assert found.conds.argmax(2).tolist() == [[2, 7]] * 3
    assert found.forward.tolist() == [20 * 12] * 3 and toy.rows == 3 * 20 * 12
    assert (found.confidence > 0.99).all()


def test_results_do_not_depend_on_the_batching():
    space = OneOfEach([4, 4, 4])
    settings = DiscreteSettings(num_draws=30, seed=5)
    one = infer_discrete(make_toy([0, 5, 9]), posterior(2), torch.eye(12), space, settings, batch_size=1000)
    two = infer_discrete(make_toy([0, 5, 9]), posterior(2), torch.eye(12), space, settings, batch_size=5)
    alone = infer_discrete(
        make_toy([0, 5, 9]), posterior(1), torch.eye(12), space, settings, batch_size=7, image_numbers=[1]
    )
    torch.testing.assert_close(one.error, two.error)
    torch.testing.assert_close(one.error[1:], alone.error)


def test_adaptive_drawing_stops_early_and_agrees():
    space = Subsets(12, (1, 3))
    options = {"num_draws": 400, "draws_per_round": 20, "seed": 1}
    full, adaptive = (
        infer_discrete(make_toy([2, 7]), posterior(4), torch.eye(12), space, DiscreteSettings(**options, confidence=c))
        for c in (None, 0.99)
    )
    assert adaptive.chosen == full.chosen == [[2, 7]] * 4
    assert (adaptive.forward < full.forward / 5).all()
    assert (adaptive.confidence >= 0.99).all()


def test_undecided_images_use_all_draws_on_the_plausible_candidates_only():
    """Two candidates are exactly equal: no number of draws decides between them, but the others leave early."""
    toy = make_toy([2, 7], jitter=0.3)
    toy.patterns[7] = toy.patterns[2]
    settings = DiscreteSettings(num_draws=100, draws_per_round=20, confidence=0.9)
    found = infer_discrete(toy, posterior(1), torch.eye(12), Subsets(12, (1, 1)), settings)
    assert found.num_draws == [100]
    assert found.chosen[0] in ([2], [7]) and float(found.confidence) < 0.9
    assert int(found.forward) == 20 * 12 + 80 * 2


def test_matrix_of_rounds_is_that_of_one_pass():
    """Rounds of draws from one generator add up: the error is the mean over all of them."""
    toy, generator = make_toy([1]), image_generators(0, [3], stream=4)[0]
    matrix = ErrorMatrix(1, 12)
    for number in (20, 20, 10):
        draws = draw_for_images(posterior(1), number, (0, 1000), [generator], stratified=True)[0]
        price_draws(toy, matrix, 0, draws, torch.eye(12), 64)
    found = infer_discrete(
        make_toy([1]),
        posterior(1),
        torch.eye(12),
        Subsets(12, (1, 1)),
        Rounds(num_draws=50, draws_per_round=20),
        image_numbers=[3],
    )
    chosen = subset_weights(found.chosen, 12)[None]
    assert float(found.error) == pytest.approx(float(matrix.error(chosen)), rel=1e-4)


def test_candidates_and_space_must_agree():
    with pytest.raises(ValueError, match="12 candidates"):
        infer_discrete(make_toy([1]), posterior(1), torch.eye(12), Subsets(3, (1, 1)))
