"""A picture measured once: errors of compositions against the network's own, maps against errors, alternatives' errors."""

import itertools
import pickle

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from igm import UserError
from igm.api import ObjectModel, PositionModel, load_model
from igm.composition import pack
from igm.data.synthetic.clevr import draw_scene
from igm.figures import error_overlay
from igm.inference.draws import image_generators
from igm.measured import Measured
from igm.objective import Noise, composed_error

SCENE = ROOT / "sample_images" / "scene.png"
TRUE = {  # what a person sees there
    ("yellow", "rubber", "sphere", "small"),
    ("blue", "metal", "sphere", "large"),
    ("gray", "metal", "cylinder", "large"),
    ("purple", "rubber", "sphere", "small"),
    ("cyan", "rubber", "sphere", "small"),
}
QUICK = {"num_candidates": 36, "num_draws": 4, "num_steps": 2, "count_draws": 4, "max_objects": 3, "num_views": 1}


@pytest.fixture(scope="module")
def model():
    return load_model(device="cpu")


@pytest.fixture(scope="module")
def measured(model):
    return model.measure(SCENE, **QUICK)


def test_the_error_is_that_of_the_network(model, measured):
    """Every draw through the network itself, at gain 1; the best gain must do at least as well and near as well."""
    objects = [{"position": (0.38, 0.38), "color": "blue", "shape": "sphere"}, {"position": (0.53, 0.62)}]
    search, denoiser = measured.search, model.model
    conds = torch.zeros(2, denoiser.cond_size)
    conds[:, :2] = torch.tensor([own["position"] for own in objects])
    names = [value for values in denoiser.facts.vocabulary.values() for value in values]
    for value in ("blue", "sphere"):
        conds[0, 2 + names.index(value)] = 1
    generators = image_generators(search.settings.seed, [0], stream=3)
    draws = search.draws(slice(None), QUICK["num_draws"], search.t_range, generators)[0][0]
    pairs, errors = pack(conds[None], torch.ones(1, 2)), {}
    with torch.no_grad():
        own = [
            composed_error(denoiser, x_0[None], Noise(t[None], eps[None]), *pairs)
            for x_0, t, eps in zip(draws.x_0, draws.t, draws.eps, strict=True)
        ]
        m = measured.composed(objects)[None, None]
        errors["form"] = float(search.form.error(m))
    errors["network"] = float(torch.stack(own).mean())
    assert errors["form"] == pytest.approx(errors["network"], rel=1e-3)
    assert measured.error(objects) <= errors["form"] + 1e-6
    gains = [float(search.form.error(gain * m)) for gain in torch.linspace(0, 2, 41)]
    assert measured.error(objects) <= min(gains) + 1e-6


def test_a_scene_is_that_of_the_model(model, measured):
    known = {name: value for name, value in QUICK.items() if name not in ("count_draws", "max_objects")}
    for one, other in (
        (measured.scene(), model(SCENE, **QUICK)),
        (measured.scene(3), model(SCENE, num_objects=3, **known)),
    ):
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-5)
        assert [own.attributes for own in one.objects] == [own.attributes for own in other.objects]
        assert one.confidence == pytest.approx(other.confidence, abs=1e-4)
        assert measured.error(one.parts()) == pytest.approx(one.error, rel=1e-4)


def test_errors_by_count_are_of_a_sought_number_alone(measured):
    sought, known = measured.scene(), measured.scene(2)
    assert len(sought.error_by_count) == len(sought.standard_error_by_count) == QUICK["max_objects"]
    assert known.error_by_count is None and sought.image is not None
    assert pickle.loads(pickle.dumps(sought)).error_by_count.tolist() == sought.error_by_count.tolist()


def test_the_map_is_the_error_with_one_more_object(measured):
    """Each cell against `error` of the composition with an object at its middle."""
    objects = [{"position": (0.38, 0.38), "color": "blue"}]
    found = measured.error_map(objects)
    (rows, columns), (left, top, right, bottom) = found.values.shape, found.box
    assert 30 <= rows * columns <= 42 and 0 <= left < right <= 1 and 0 <= top < bottom <= 1
    base = measured.error(objects)
    for row, column in itertools.product(range(0, rows, 2), range(0, columns, 3)):
        place = (left + (column + 0.5) / columns * (right - left), top + (row + 0.5) / rows * (bottom - top))
        change = measured.error([*objects, {"position": place}]) - base
        assert found.values[row, column] == pytest.approx(change, abs=2e-5)


@pytest.mark.parametrize("name", ["clevr-scene-mini", "clevr-mini"])
def test_a_first_look_finds_what_is_there(name):
    """The sample scene's five centres as its generator wrote them."""
    true = np.array([[0.475, 0.2812], [0.2292, 0.45], [0.5333, 0.6312], [0.3792, 0.3812], [0.6208, 0.5625]])
    look = load_model(name, device="cpu").measure(SCENE, max_objects=7).first_look()
    distances = np.linalg.norm(look.positions[:, None] - true[None], axis=2)
    assert look.count >= 4 and (distances.min(1) < 0.05).all() and look.confidence is None
    if name == "clevr-scene-mini":
        found = {(own.color, own.material, own.shape, own.size) for own in look.objects}
        assert len(found & TRUE) >= 4 and all(own.confidence is None for own in look.objects)


def test_what_is_found_does_not_depend_on_a_first_look(model):
    """The whole inference goes on from where the look left off, and ends where it would have without."""
    looked, other = (model.measure(SCENE, **QUICK) for _ in range(2))
    looked.first_look()
    looked.first_look()
    one, two = looked.scene(), other.scene()
    np.testing.assert_array_equal(one.positions, two.positions)
    np.testing.assert_array_equal(one.error_by_count, two.error_by_count)
    assert [own.attributes for own in one.objects] == [own.attributes for own in two.objects]
    np.testing.assert_array_equal(looked.scene().positions, two.positions)  # nor on being asked before


@pytest.mark.parametrize("objects", [[{"position": (2, 0)}], [{"position": (0.1, 0.1), "color": "pink"}], [7]])
def test_unknown_objects_are_refused(measured, objects):
    for ask in (measured.error, measured.error_map):
        with pytest.raises(UserError):
            ask(objects)


def test_wrong_numbers_and_several_pictures_are_refused(model, measured):
    for number in (0, True, 2.0):
        with pytest.raises(UserError, match="num_objects"):
            measured.scene(number)
    with pytest.raises(UserError, match="one picture"):
        model.measure([SCENE, SCENE], **QUICK)
    with pytest.raises(UserError, match="no setting"):
        model.measure(SCENE, num_drawings=3)


def test_a_network_without_the_closed_form_is_refused(make_denoiser):
    with pytest.raises(UserError, match="not separable"):
        PositionModel(make_denoiser("position_unet")).measure(SCENE)


def test_the_empty_scene_has_an_error(measured):
    assert measured.error([]) == pytest.approx(float(measured.search.form.const[0]))
    assert isinstance(measured, Measured) and isinstance(measured.model, ObjectModel)


def test_alternatives_have_their_errors():
    """Every combination of three attributes, the answer first, none twice, errors rising."""
    found = load_model("celeba-mini", device="cpu")(SCENE, num_draws=4)
    errors = [error for _, error in found.alternatives]
    assert found.alternatives[0] == (found.names, pytest.approx(found.error))
    assert errors == sorted(errors) and len({tuple(own) for own, _ in found.alternatives}) == 8


def test_the_overlay_is_orange_where_the_error_falls():
    grey = Image.new("RGB", (80, 60), (128, 128, 128))
    drawn = np.asarray(error_overlay(grey, np.array([[-1.0, 0.0, 0.5]]), (0.25, 0.25, 0.75, 0.75)), dtype=int)
    falls, still, rises = drawn[30, 26], drawn[30, 40], drawn[30, 53]
    assert falls[0] > 160 > 100 > falls[2] and rises[2] > 130 > 110 > rises[0]
    assert np.abs(still - 128).max() < 30 and (drawn[2, 2] == 128).all()
    assert np.abs(drawn[30, 26] - 128).sum() > np.abs(drawn[30, 53] - 128).sum()
    with pytest.raises(ValueError, match="finite"):
        error_overlay(grey, np.array([[np.nan]]), (0, 0, 1, 1))


def test_a_drawn_scene_shows_as_many_objects_as_it_says():
    image, count = draw_scene(3, (4, 4), (48, 32))
    assert image.size == (48, 32) and count == 4
    assert np.array_equal(np.asarray(draw_scene(3, (4, 4), (48, 32))[0]), np.asarray(image))
    assert not np.array_equal(np.asarray(draw_scene(4, (4, 4), (48, 32))[0]), np.asarray(image))
