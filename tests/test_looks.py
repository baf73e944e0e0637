"""How large and how hidden objects are: geometry by hand, the renderer's own outlines, the figure's numbers."""

import json
import math

import numpy as np
import pytest
from conftest import write_clevr

from igm.average_precision import average_precision, in_3d
from igm.data.clevr import Clevr
from igm.data.looks import HEIGHTS, diameters, hidden_shares, lift
from igm.data.synthetic import clevr as generator
from igm.data.synthetic import render
from igm.figures.looks import SeenObject, attributes_by_look, curves_of, hidden_bins, size_bins
from igm.tasks import find_task
from igm.tasks.objects import seen_objects


def lens(apart, one, two):
    """The area that two discs of radii one, two share, their centres so far apart."""
    if apart >= one + two:
        return 0.0
    if apart <= abs(one - two):
        return math.pi * min(one, two) ** 2
    a = math.acos((apart**2 + one**2 - two**2) / (2 * apart * one))
    b = math.acos((apart**2 + two**2 - one**2) / (2 * apart * two))
    return one**2 * (a - math.sin(2 * a) / 2) + two**2 * (b - math.sin(2 * b) / 2)


@pytest.mark.parametrize(
    ("apart", "front", "back"), [(10, 6, 6), (5, 4, 9), (1, 9, 3), (2, 3, 9), (7, 8, 5), (30, 5, 5)]
)
def test_two_discs_share_a_lens(apart, front, back):
    centres = np.array([[50.0, 40.0], [50 + 0.6 * apart, 40 - 0.8 * apart]])
    shares = hidden_shares(centres, 2 * np.array([front, back]), np.array([8.0, 9.0]))
    assert shares[0] == 0  # the nearer one
    assert shares[1] == pytest.approx(lens(apart, front, back) / (math.pi * back**2), abs=4e-3)
    turned = hidden_shares(centres, 2 * np.array([front, back]), np.array([9.0, 8.0]))
    assert turned[1] == 0 and turned[0] == pytest.approx(lens(apart, front, back) / (math.pi * front**2), abs=4e-3)


def test_what_two_hide_is_their_union():
    """Two nearer discs at one place hide no more than one; on opposite sides, without overlap, the sum."""
    one, other = [4.0, 0.0], [-4.0, 0.0]
    sizes, depths = np.array([4.0, 4.0, 10.0]), np.array([1.0, 2.0, 3.0])
    half = math.pi * 4 / (math.pi * 25)  # of radius 2 in radius 5; what is cut off at the rim is left out below
    inside = lens(4, 2, 5) / (math.pi * 25)
    same = hidden_shares(np.array([one, one, [0, 0]]), sizes, depths)
    both = hidden_shares(np.array([one, other, [0, 0]]), sizes, depths)
    assert same[2] == pytest.approx(inside, abs=4e-3) and both[2] == pytest.approx(2 * inside, abs=8e-3)
    assert same[1] == 1.0 and same[0] == 0 and inside < half  # the second of two at one place is hidden


def still_scene(places, sizes):
    """A scene of spheres, seen by the camera at its mean place."""
    things = [
        {"shape": "sphere", "size": size, "material": "rubber", "color": "red", "texture": "plain", "rotation": 0.0,
         "3d_coords": [*place, HEIGHTS[size]], "extent": HEIGHTS[size], "rgb": [1, 0, 0]}
        for place, size in zip(places, sizes, strict=True)
    ]  # fmt: skip
    return {"camera": list(generator.CAMERA), "lamps": [list(p) for p in render.LAMP_POSITION], "objects": things}


@pytest.mark.parametrize("shape", ["sphere", "cylinder", "cube"])
def test_sizes_are_those_of_rendered_outlines(shape):
    """At the middle of the view and at two distances, turned in eight ways: discs of the outlines' mean area."""
    for scale in (1.0, 0.6):
        camera = [scale * c for c in generator.CAMERA]
        things = [
            still_scene([(0, 0)], ["large"])["objects"][0] | {"shape": shape, "rotation": turn / 5} for turn in range(8)
        ]
        scenes = [{**still_scene([], []), "camera": camera, "objects": [thing]} for thing in things]
        batch = generator.make_batch(scenes)
        outlines = (render.id_buffer(batch, 384, 256) == 0).sum((1, 2)).float().mean()
        depth = render.project(batch, batch.position, batch.image)[2, :1].numpy()
        size = diameters(np.array([0.7]), depth, [shape], 384)[0]
        assert size == pytest.approx(2 * math.sqrt(float(outlines) / math.pi), rel=0.035)


def test_hidden_shares_are_near_to_those_of_rendered_scenes():
    """What the renderer shows of an object among others, against what it shows of it alone."""
    scenes = generator.sample_scenes(range(12), "looks", (7, 9), resolution=(96, 64), seed=2)
    really, estimated = [], []
    for scene in scenes:
        batch = generator.make_batch([scene])
        seen = render.id_buffer(batch, 192, 128)[0]
        points = render.project(batch, batch.position, batch.image).T.numpy()
        shapes = [thing["shape"] for thing in scene["objects"]]
        sizes = diameters(batch.position[2].numpy(), points[:, 2], shapes, 192)
        estimated += hidden_shares(points[:, :2] * [192, 128], sizes, points[:, 2]).tolist()
        alone = render.id_buffer(
            generator.make_batch([{**scene, "objects": [own]} for own in scene["objects"]]), 192, 128
        )
        whole = (alone == 0).sum((1, 2))
        really += [1 - int((seen == k).sum()) / int(whole[k]) for k in range(len(whole))]
    apart = np.abs(np.array(really) - estimated)
    assert np.max(really) > 0.3 and apart.mean() < 0.02 and np.corrcoef(really, estimated)[0, 1] > 0.9


def test_records_of_objects_hold_their_looks(tmp_path):
    """Two spheres, the second twice as far: 2 * 35 / 32 * 48 * 0.7 / depth pixels, and half hidden as a lens says."""
    depths = (9.0, 18.0)
    write_clevr(tmp_path, "val", coords=[[[20, 16, depths[0]], [25, 16, depths[1]]]])
    dataset = Clevr(tmp_path, "val", (2, 2), fields=("all",))
    radii = [35 / 32 * 48 * 0.7 / depth for depth in depths]
    looks = dataset.looks_of(0)
    assert looks["sizes_true"] == pytest.approx([2 * r for r in radii], abs=0.006)
    assert looks["hidden_true"] == [0, pytest.approx(lens(5, *radii) / (math.pi * radii[1] ** 2), abs=5e-3)]
    assert looks.pop("coords_true") == [[0.1, 0.2, 0.7]] * 2  # what the file says
    assert Clevr(tmp_path, "val", (2, 2), fields=("all",), flip=True).looks_of(1) == looks
    assert Clevr(tmp_path, "val", (2, 2)).looks_of(0) == {}  # places alone


@pytest.mark.parametrize("wrong", [{"pixel_coords": [20, 16]}, {"3d_coords": "near"}, {"3d_coords": [0, 0, -1]}])
def test_looks_are_unknown_where_the_json_does_not_say(tmp_path, wrong):
    file = write_clevr(tmp_path, "val", coords=[[[20, 16, 9.0], [35, 16, 18.0]]])
    content = json.loads(file.read_text())
    content["scenes"][0]["objects"][1] |= wrong
    file.write_text(json.dumps(content))
    assert Clevr(tmp_path, "val", (2, 2), fields=("all",)).looks_of(0) == {}


# Places in the scene


@pytest.mark.parametrize(("width", "height"), [(480, 320), (320, 240)])
def test_lifting_undoes_the_projection(width, height):
    """Against the generator's own projection, which is checked against CLEVR's coordinates."""
    places, sizes = [(0, 0), (2.5, -1), (-2, 2.8), (1, 3)], ["large", "small", "large", "small"]
    batch = generator.make_batch([still_scene(places, sizes)], tan_y=render.TAN_X * height / width)
    points = render.project(batch, batch.position, batch.image).T[:, :2].numpy() * [width, height]
    heights = np.array([HEIGHTS[size] for size in sizes])
    np.testing.assert_allclose(lift(points, heights, width, height)[:, :2], places, atol=1e-4)


@pytest.fixture
def record():
    """Two objects in a 3:2 picture; the first is 0.3 from its place in the scene, the second's colour is wrong."""
    batch = generator.make_batch([still_scene([(0.3, 0.0), (2, 2), (0, 0)], ["large", "small", "large"])])
    first, second, true = render.project(batch, batch.position, batch.image).T[:, :2].tolist()
    red, small = {"color": "red", "size": "large"}, {"color": "blue", "size": "small"}
    return {
        "conds_pred": [first, second], "objects_pred": [red, small], "num_pred": 2, "num_true": 2,
        "object_confidence": [0.9, 0.8], "conds_true": [true, second], "objects_true": [red, {**small, "color": "green"}],
        "coords_true": [[0.0, 0.0, 0.7], [2.0, 2.0, 0.35]], "width": 480, "height": 320,
    }  # fmt: skip


def test_precision_in_3d_by_hand(record):
    lifted = in_3d([record])
    np.testing.assert_allclose(lifted[0]["conds_pred"], [[0.3, 0, 0.7], [2, 2, 0.35]], atol=1e-4)
    assert [average_precision(lifted, most) for most in (np.inf, 0.31, 0.29)] == [0.5, 0.5, 0]
    metrics, _ = find_task("objects").score([record])
    assert metrics["average_precision_3d"] == {"inf": 0.5, "1": 0.5, "0.5": 0.5, "0.25": 0, "0.125": 0}
    higher = {**record, "width": 480, "height": 480, "fit_box": [0, 80, 480, 320]}  # the same part of a higher picture
    np.testing.assert_allclose(in_3d([higher])[0]["conds_pred"], lifted[0]["conds_pred"], atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"coords_true": None},
        {"objects_pred": [{"color": "red", "size": "huge"}] * 2},
        {"width": 320},  # squeezed: not as CLEVR's camera sees it
        {"coords_true": [[0.0, 0.0, 0.9], [2.9, 2.0, 0.4]]},  # another generator's heights and places
    ],
)
def test_no_precision_in_3d_where_the_camera_or_a_place_is_not_known(record, change):
    assert in_3d([{**record, **change}]) is None
    assert "average_precision_3d" not in find_task("objects").score([{**record, **change}])[0]


# The figure


RED, BLUE = {"color": "red", "shape": "cube"}, {"color": "blue", "shape": "cube"}


def test_seen_objects_are_the_true_ones_with_what_was_read():
    record = {
        "conds_true": [[0.2, 0.2], [0.8, 0.8], [0.5, 0.1]], "conds_pred": [[0.8, 0.8], [0.2, 0.21]],
        "objects_true": [RED, BLUE, RED], "objects_pred": [BLUE, BLUE],
        "sizes_true": [10.0, 20.0, 30.0], "hidden_true": [0.0, 0.3, 0.6],
    }  # fmt: skip
    assert seen_objects(record) == [
        SeenObject(10.0, 0.0, {"color": False, "shape": True}),
        SeenObject(20.0, 0.3, {"color": True, "shape": True}),
        SeenObject(30.0, 0.6, None),
    ]
    assert seen_objects({**record, "sizes_true": None}) == []


@pytest.mark.parametrize(
    ("numbers", "names"),
    [
        ((5, 15, 15, 15, 15), ["0", "<=10", "10-25", "25-50", "50-100"]),
        ((5, 14, 15, 15, 15), ["0", "<=25", "25-50", "50-100"]),  # the least hidden join their neighbours
        ((0, 15, 15, 2, 13), ["<=10", "10-25", "25-100"]),  # and the most hidden theirs
        ((9, 1, 2, 3, 4), ["0", "<=100"]),
        ((9, 0, 0, 0, 0), ["0"]),
    ],
)
def test_few_hidden_objects_share_a_bin(numbers, names):
    hidden = (0.0, 0.1, 0.2, 0.5, 0.8)  # right ends belong to their bins
    objects = [SeenObject(9.0, h, None) for h, number in zip(hidden, numbers, strict=True) for _ in range(number)]
    bins = hidden_bins(objects)
    assert [name.replace("\N{EN DASH}", "-").replace("\N{LESS-THAN OR EQUAL TO}", "<=") for name in bins] == names
    assert sorted(one.hidden for own in bins.values() for one in own) == sorted(one.hidden for one in objects)


def test_bins_and_shares_by_hand(tmp_path):
    """40 objects: two bins of 20 sizes; the small ones' colour is right in 10 of 16 found, the large ones' in 20 of 20."""
    small = [SeenObject(5 + i / 100, 0.0, {"color": i < 10}) for i in range(16)] + [SeenObject(6, 0.1, None)] * 4
    large = [SeenObject(20 + i / 100, 0.7 if i < 5 else 0.2, {"color": True}) for i in range(20)]
    bins = size_bins([*large, *small])
    assert [len(own) for own in bins] == [20, 20] and max(one.size for one in bins[0]) == 6
    curves = curves_of(bins, [5.0, 20.0])
    np.testing.assert_allclose(curves["color"].share, [62.5, 100])
    np.testing.assert_allclose(curves["found"].share, [80, 100])
    assert (curves["color"].low < curves["color"].share).all() and curves["color"].high[1] == 100
    assert [(name, len(own)) for name, own in hidden_bins([*small, *large]).items()] == [
        ("0", 16),
        ("\N{LESS-THAN OR EQUAL TO}100", 24),
    ]
    figure = attributes_by_look([*small, *large], tmp_path / "looks.png")
    labels = [text.get_text() for text in figure.axes[1].get_xticklabels()]
    assert labels == ["0\n(16)", "\N{LESS-THAN OR EQUAL TO}100\n(24)"]
    assert (tmp_path / "looks.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="no object was found"):
        attributes_by_look([SeenObject(6, 0.1, None)], tmp_path / "none.png")
