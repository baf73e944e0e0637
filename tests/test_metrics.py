"""Scores of positions on cases that can be checked by hand."""

import numpy as np
import pytest
from scipy.stats import binomtest

from igm.encoding import attribute_values
from igm.matching import match_points, predictions_right, radius_name
from igm.statistics import (
    bootstrap_interval,
    count_confusion,
    difference_interval,
    kernel_distance,
    reliability,
    share_interval,
    sum_interval,
    wilson_interval,
)
from igm.tasks.attributes import attribute_metrics
from igm.tasks.classes import label_metrics
from igm.tasks.columns import share_cell
from igm.tasks.positions import position_metrics


def record(true, pred):
    return {
        "conds_true": true,
        "conds_pred": pred,
        "num_true": None if true is None else len(true),
        "num_pred": len(pred),
    }


def test_match_points_undoes_a_permutation():
    true = np.array([[0.1, 0.2], [0.5, 0.5], [0.9, 0.1]])
    rows, cols, distances = match_points(true[[2, 0, 1]], true)
    assert dict(zip(rows.tolist(), cols.tolist(), strict=True)) == {0: 2, 1: 0, 2: 1}
    np.testing.assert_array_equal(distances, 0)


def test_match_points_minimises_the_total_and_not_the_nearest_first():
    # The nearest pair, 0.5 to 0.4, would leave 0.0 to 0.6: 0.7 in total instead of 0.5.
    rows, cols, distances = match_points([[0.5, 0.0], [0.0, 0.0]], [[0.4, 0.0], [0.6, 0.0]])
    assert (rows.tolist(), cols.tolist()) == ([0, 1], [1, 0])
    np.testing.assert_allclose(distances, [0.1, 0.4])


@pytest.mark.parametrize(("num_pred", "num_true"), [(2, 3), (3, 2), (0, 2), (2, 0), (0, 0)])
def test_match_points_of_different_counts(num_pred, num_true):
    points = np.linspace(0, 1, 6).reshape(3, 2)
    rows, cols, distances = match_points(points[:num_pred], points[:num_true].tolist())
    assert len(rows) == len(cols) == len(distances) == min(num_pred, num_true)


def test_match_points_refuses_other_shapes_and_values():
    with pytest.raises(ValueError, match="shape"):
        match_points([[0.1, 0.2, 0.3]], [[0.1, 0.2]])
    with pytest.raises(ValueError, match="not finite"):
        match_points([[0.1, float("nan")]], [[0.1, 0.2]])


def test_position_metrics_by_hand():
    # Distances 0.05 (3-4-5 triangle), 0 and 0.5, in any order; then one missing; then one extra.
    records = [
        record([[0.1, 0.1], [0.5, 0.5], [0.9, 0.2]], [[0.9, 0.7], [0.13, 0.14], [0.5, 0.5]]),
        record([[0.2, 0.2], [0.8, 0.8]], [[0.2, 0.21]]),
        record([[0.4, 0.4]], [[0.4, 0.48], [0.0, 0.0]]),
    ]
    metrics, ci95 = position_metrics(records)
    assert metrics["perception_rate"] == {"0.02": 2 / 6, "0.05": 3 / 6, "0.10": 4 / 6}
    squares = [0.05**2, 0.0, 0.5**2, 0.01**2, 0.08**2]
    assert metrics["estimation_error"] == pytest.approx(sum(squares) / 10)
    assert metrics["estimation_error_perceived"] == pytest.approx((0.05**2 + 0.01**2) / 6)
    assert metrics["count_accuracy"] == pytest.approx(1 / 3)
    assert ci95.keys() == metrics.keys() and ci95["perception_rate"].keys() == metrics["perception_rate"].keys()
    low, high = ci95["perception_rate"]["0.05"]
    assert 0 <= low < 0.5 < high <= 1


@pytest.mark.parametrize(("distance", "found"), [(0.05, 1), (0.0501, 0), (0.0499, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_border_of_a_radius_counts_as_within(distance, found, dtype):
    pred = np.array([[0.5 + distance, 0.3]], dtype=dtype)  # 0.55 - 0.5 > 0.05 in floating point
    metrics, _ = position_metrics([record([[0.5, 0.3]], pred)], radii=(0.05,))
    assert metrics["perception_rate"] == {"0.05": found}
    assert (metrics["estimation_error_perceived"] is not None) == bool(found)


def test_values_that_do_not_exist_are_none():
    metrics, ci95 = position_metrics([record([[0.1, 0.1]], [[0.9, 0.9]])])
    assert metrics["estimation_error_perceived"] is None and ci95["estimation_error_perceived"] is None
    for records in ([], [record(None, [[0.1, 0.1]])]):
        metrics, _ = position_metrics(records)
        assert set(metrics["perception_rate"].values()) == {None}
        assert metrics["estimation_error"] is None and metrics["count_accuracy"] is None
    metrics, _ = position_metrics([record([[0.1, 0.1]], [])])
    assert metrics["perception_rate"]["0.10"] == 0 and metrics["estimation_error"] is None


def test_bootstrap_of_constant_data_has_no_width():
    np.testing.assert_allclose(bootstrap_interval(np.full(20, 3), np.full(20, 4)), [0.75, 0.75])


def test_bootstrap_is_seeded_and_agrees_with_the_normal_interval():
    values, ones = np.random.default_rng(1).normal(5, 2, 400), np.ones(400)
    interval = bootstrap_interval(values, ones, num_bootstrap=4000, seed=3)
    assert interval == bootstrap_interval(values, ones, num_bootstrap=4000, seed=3)
    assert interval != bootstrap_interval(values, ones, num_bootstrap=4000, seed=4)
    half = 1.96 * values.std() / np.sqrt(400)
    np.testing.assert_allclose(interval, [values.mean() - half, values.mean() + half], atol=0.02)


def test_bootstrap_resamples_images_and_not_objects(monkeypatch):
    # Two images, all or nothing: a resample is one of 0, 4/5 and 1, which resampled objects would not be.
    assert bootstrap_interval([0, 4], [1, 4]) == [0, 1]
    whole = bootstrap_interval(np.arange(7), np.ones(7), num_bootstrap=50)
    monkeypatch.setattr("igm.statistics._BLOCK_SIZE", 7 * 8)  # blocks bound the memory and change nothing
    assert bootstrap_interval(np.arange(7), np.ones(7), num_bootstrap=50) == whole


def test_bootstrap_without_anything_to_count():
    assert bootstrap_interval([], []) is None
    assert bootstrap_interval([0, 0], [0, 0]) is None
    assert bootstrap_interval([0, 1], [0, 1]) == [1, 1]  # resamples that miss the second image are left out
    with pytest.raises(ValueError, match="one length"):
        bootstrap_interval([1, 2], [1])


Z2 = 1.959963984540054**2  # of 95 %, squared


@pytest.mark.parametrize("number", [1, 8, 60, 1000])
def test_share_of_images_is_wilsons_closed_form(number):
    """All right: [n / (n + z^2), 1]; none: [0, z^2 / (n + z^2)]; half: 1/2 +- z / (2 sqrt(n + z^2))."""
    ones = np.ones(number)
    np.testing.assert_allclose(share_interval(ones, ones), [number / (number + Z2), 1], rtol=1e-12)
    np.testing.assert_allclose(share_interval(0 * ones, ones), [0, Z2 / (number + Z2)], rtol=1e-12, atol=1e-15)
    half = np.sqrt(Z2 / (2 * number + Z2)) / 2
    values = np.repeat([0, 1], number)
    np.testing.assert_allclose(share_interval(values, np.ones(2 * number)), [0.5 - half, 0.5 + half], rtol=1e-12)
    # images that do not count change nothing: of a class that they do not show, nothing is recalled
    shown = np.concatenate([ones, np.zeros(5)])
    assert share_interval(shown, shown) == share_interval(ones, ones)


def test_share_of_objects_has_a_width_where_all_or_none_is_found():
    of = np.array([3, 5, 4])
    np.testing.assert_allclose(share_interval(of, of), [12 / (12 + Z2), 1], rtol=1e-12)
    np.testing.assert_allclose(share_interval(0 * of, of), [0, Z2 / (12 + Z2)], rtol=1e-12, atol=1e-15)


def test_share_of_objects_is_the_bootstraps_where_an_images_go_wrong_together():
    """Half of 40 images lost as a whole: the images, not the 200 objects, are what is independent."""
    right, of = np.repeat([0, 5], 20), np.full(40, 5)
    assert share_interval(right, of) == bootstrap_interval(right, of)
    low, high = share_interval(right, of)
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(40), rel=0.1)
    even = np.tile([2, 3], 20)  # and that of independent objects where all images are about alike
    np.testing.assert_allclose(share_interval(even, of), wilson_interval(100, 200), rtol=1e-12)


def test_shares_that_are_none():
    assert share_interval([], []) is None and share_interval([0, 0], [0, 0]) is None
    assert difference_interval([], []) is None
    for right, of in (([2], [1]), ([-1], [1])):
        with pytest.raises(ValueError, match="no shares"):
            share_interval(right, of)
    with pytest.raises(ValueError, match="one length"):
        share_interval([1, 2], [1])


@pytest.mark.parametrize("share", [0.5, 0.9, 0.97, 0.995])
@pytest.mark.parametrize("together", [0.0, 0.2])
def test_shares_are_covered(share, together):
    """400 repetitions of 60 images of 3 to 5 objects, independent, or with a rate of its own per image (beta-binomial)."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(400):
        of = rng.integers(3, 6, size=60)
        strength = (1 - together) / together if together else np.inf
        rate = rng.beta(share * strength, (1 - share) * strength, size=60) if together else np.full(60, share)
        low, high = share_interval(rng.binomial(of, rate), of, num_bootstrap=200)
        covered += low <= share <= high
    assert covered / 400 >= 0.92  # 95 % less three standard errors


def test_a_difference_by_newcombes_closed_form():
    """3 of 6 gained, none lost: 1/2 +- z / (2 sqrt(6 + z^2)) and at most z^2 / (6 + z^2), added as squares below."""
    half, lost = np.sqrt(Z2 / (6 + Z2)) / 2, Z2 / (6 + Z2)
    expected = [0.5 - np.hypot(half, lost), 0.5 + half]
    np.testing.assert_allclose(difference_interval([1, 1, 1], [2, 2, 2]), expected, rtol=1e-12)
    np.testing.assert_allclose(sum_interval([1, -1], [3, 0], [6, 6]), expected, rtol=1e-12)
    np.testing.assert_allclose(difference_interval([0, 0, 0], [2, 2, 2]), [-lost, lost], rtol=1e-12)
    low, high = difference_interval([2, 2, 2], [2, 2, 2])  # 6 of 6 gained
    assert low == pytest.approx(1 - np.hypot(lost, lost)) and high == 1
    # Newcombe's own example (1998, table II, case a, method 10): 56/70 - 48/80 is 0.2 in [0.0524, 0.3339]
    low, high = sum_interval([1, -1], [56, 48], [70, 80])
    assert (round(low, 4), round(high, 4)) == (0.0524, 0.3339)


def test_no_table_shows_an_interval_without_width():
    """Of any task, with all and with nothing right."""
    right = [record([[0.1, 0.1], [0.5, 0.5]], [[0.1, 0.1], [0.5, 0.5]])] * 50
    lost = [record([[0.1, 0.1], [0.5, 0.5]], [[0.9, 0.9]])] * 50
    scored = [position_metrics(right), position_metrics(lost)]
    scored += [attribute_metrics([attribute_record(v, p) for v in ((0, 1), (1, 0))] * 20) for p in ((1, 0), (0, 1))]
    scored += [attribute_metrics([attribute_record(v, v) for v in ((0, 1), (1, 0))] * 20)]
    scored += [attribute_metrics([attribute_record(v, v[::-1]) for v in ((0, 1), (1, 0))] * 20)]
    for pred in ([[1, 0], [0, 1]], [[0, 1], [0, 1]]):
        scored.append(label_metrics([{"conds_true": [[1, 0], [0, 1]], "conds_pred": pred}] * 50))
    cells = []
    for metrics, ci95 in scored:
        for name, value in ci95.items():
            if "error" not in name:
                keys = value if isinstance(value, dict) else [None]
                pairs = value.values() if isinstance(value, dict) else value if name.startswith("recall") else [value]
                assert all(low < high for low, high in pairs), (name, value)
                if not name.startswith("recall"):
                    cells += [share_cell({"metrics": metrics, "ci95": ci95}, name, key) for key in keys]
    assert (
        len(cells) > 20 and any("100.0 % [" in cell for cell in cells) and any("0.0 % [0.0" in cell for cell in cells)
    )


@pytest.mark.parametrize(("value", "cell"), [(1, "100.0 % [99.9, 100.0]"), (0, "0.0 % [0.0, 0.1]")])
def test_cells_keep_a_width_over_many_images(value, cell):
    right = np.full(20_000, value)
    group = {"metrics": {"found": value}, "ci95": {"found": share_interval(right, np.ones(20_000))}}
    assert share_cell(group, "found") == cell


def test_balanced_accuracy_of_all_right_by_hand():
    """4 shares of 20 of 20, each a quarter: 1 - (1 - 20 / (20 + z^2)) sqrt(4) / 4."""
    records = [attribute_record(v, v) for v in ((0, 1), (1, 0))] * 20
    low, high = attribute_metrics(records)[1]["balanced_accuracy"]
    assert low == pytest.approx(1 - Z2 / (20 + Z2) / 2) and high == 1


def test_count_confusion():
    points = [[0.1, 0.1]] * 4
    counts = [(4, 3), (3, 3), (4, 4), (4, 3)]
    records = [record(points[:true], points[:pred]) for true, pred in counts] + [record(None, points)]
    assert count_confusion(records) == {3: {3: 1}, 4: {3: 2, 4: 1}}


def test_radius_names():
    assert [radius_name(radius) for radius in (0.02, 0.1, 0.125)] == ["0.02", "0.10", "0.125"]


# Attributes


def attribute_record(true, pred, group="female"):
    def one_hot(values):
        return [[float(j == 2 * k + v) for j in range(2 * len(values))] for k, v in enumerate(values)]

    return {"conds_true": one_hot(true), "conds_pred": one_hot(pred), "group": group, "concept_names": ["A", "B"]}


def test_attribute_metrics_by_hand():
    """A: 4 ones of which 3 are found, 1 zero found; B: one value only."""
    records = [
        attribute_record((1, 0), (1, 0)),
        attribute_record((1, 0), (1, 0)),
        attribute_record((1, 0), (1, 1)),
        attribute_record((1, 0), (0, 0)),
        attribute_record((0, 0), (0, 0)),
    ]
    metrics, ci95 = attribute_metrics(records)
    assert metrics["accuracy_per_attribute"] == {"A": pytest.approx(0.8), "B": pytest.approx(0.8)}
    assert metrics["accuracy"] == pytest.approx(0.8) and metrics["exact_match"] == pytest.approx(0.6)
    assert metrics["balanced_accuracy_per_attribute"] == {"A": pytest.approx((0.75 + 1) / 2), "B": None}
    assert metrics["balanced_accuracy"] == pytest.approx(0.875)
    for name in ("accuracy", "exact_match", "balanced_accuracy"):
        low, high = ci95[name]
        assert 0 <= low <= metrics[name] <= high <= 1
    assert attribute_metrics([])[0]["accuracy"] is None


def test_guessing_the_common_value_is_half_right_when_balanced():
    records = [attribute_record((int(i < 5), 1), (0, 1)) for i in range(100)]
    metrics, _ = attribute_metrics(records)
    assert metrics["accuracy_per_attribute"]["A"] == pytest.approx(0.95)
    assert metrics["balanced_accuracy_per_attribute"]["A"] == pytest.approx(0.5)


@pytest.mark.parametrize("conds", [[[1.0, 0.0]] * 2, [[0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0]]])
def test_attributes_of_another_shape_are_refused(conds):
    with pytest.raises(ValueError, match="one-hot"):
        attribute_values(conds)


def test_predictions_are_right_where_their_match_is_near():
    records = [
        record([[0.1, 0.1], [0.5, 0.5]], [[0.5, 0.55], [0.9, 0.9], [0.1, 0.16]]),  # on the border, extra, too far
        record(None, [[0.5, 0.5]]),
        record([[0.2, 0.2]], []),
    ]
    assert [own.tolist() for own in predictions_right(records)] == [[True, False, False], []]
    assert [own.tolist() for own in predictions_right(records, radius=0.06)] == [[True, False, True], []]


def test_reliability_by_hand():
    """Three bins of two: confidences 0.2, 0.6 and 0.95 on average, of which none, half and all are right."""
    confidences, right = [0.9, 0.1, 0.5, 0.3, 1.0, 0.7], [True, False, True, False, True, False]
    bins, error = reliability(confidences, right, num_bins=3, min_per_bin=2)
    assert bins["num_items"].tolist() == [2, 2, 2]
    np.testing.assert_allclose(bins["confidence"], [0.2, 0.6, 0.95])
    np.testing.assert_allclose(bins["share"], [0, 0.5, 1])
    assert error == pytest.approx((0.2 + 0.1 + 0.05) / 3)
    assert len(reliability(confidences, right)[0]["share"]) == 1  # too few for two bins
    assert reliability([], [])[1] is None and reliability([], [])[0]["share"].shape == (0,)
    with pytest.raises(ValueError, match="one length"):
        reliability([0.5], [True, False])
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        reliability([1.5], [True])


def test_reliability_keeps_equal_confidences_together():
    confidences, right = [1.0] * 7 + [0.5] * 3, [True] * 6 + [False] * 4
    bins, error = reliability(confidences, right, num_bins=5, min_per_bin=2)
    assert bins["num_items"].tolist() == [3, 7]
    np.testing.assert_allclose(bins["share"], [0, 6 / 7])
    assert error == pytest.approx((3 * 0.5 + 7 * (1 / 7)) / 10)
    backwards = reliability(confidences[::-1], right[::-1], num_bins=5, min_per_bin=2)
    np.testing.assert_array_equal(backwards[0]["share"], bins["share"])


def test_confidences_that_are_probabilities_have_a_small_calibration_error():
    rng = np.random.default_rng(0)
    confidences = rng.uniform(size=20_000)
    right = rng.uniform(size=20_000) < confidences
    bins, error = reliability(confidences, right)
    assert len(bins["share"]) == 10 and error < 0.015
    assert reliability(confidences, ~right)[1] == pytest.approx(0.5, abs=0.03)  # mean of |2 p - 1|


def test_wilson_interval_agrees_with_scipy():
    successes, trials = [0, 3, 10], [10, 17, 10]
    for *own, k, n in zip(*wilson_interval(successes, trials), successes, trials, strict=True):
        expected = binomtest(k, n).proportion_ci(0.95, "wilson")
        np.testing.assert_allclose(own, [expected.low, expected.high], atol=1e-12)


def test_kernel_distance_is_its_definition_term_by_term():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 3)), rng.normal(size=(4, 3)) + 0.5

    def k(x, y):
        return (float(np.dot(x, y)) / 3 + 1) ** 3

    of_a = np.mean([k(a[i], a[j]) for i in range(5) for j in range(5) if i != j])
    of_b = np.mean([k(b[i], b[j]) for i in range(4) for j in range(4) if i != j])
    between = np.mean([k(x, y) for x in a for y in b])
    assert kernel_distance(a, b) == pytest.approx(of_a + of_b - 2 * between)


def test_kernel_distance_is_unbiased_and_grows_with_the_difference():
    rng = np.random.default_rng(1)
    same = [kernel_distance(rng.normal(size=(20, 4)), rng.normal(size=(30, 4))) for _ in range(300)]
    assert abs(np.mean(same)) < 4 * np.std(same) / 300**0.5 and min(same) < 0
    base = rng.normal(size=(200, 4))
    moved = [kernel_distance(base, rng.normal(size=(200, 4)) + shift) for shift in (0.0, 0.5, 1.0)]
    assert moved[0] < moved[1] < moved[2]
    with pytest.raises(ValueError, match="two or more pictures"):
        kernel_distance(base[:1], base)
