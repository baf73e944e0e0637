"""The CLEVR-like generator: repeatable files, CLEVR's layout and rules, and a renderer checked by hand."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from igm.data.clevr import Clevr
from igm.data.synthetic import clevr, render
from igm.data.synthetic.layouts import DEFAULT_SHAPES, LAYOUTS, MATERIALS, SIZES, Look

ROOT = Path(__file__).resolve().parents[1]
SIZE = (96, 64)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    out = tmp_path_factory.mktemp("clevr")
    scene_file = clevr.generate(out, "val", 12, (3, 6), resolution=SIZE, seed=3, batch_size=5)
    return out, json.loads(scene_file.read_text())


@pytest.fixture(scope="module")
def scenes():
    return clevr.sample_scenes(range(12), "val", (3, 6), resolution=SIZE, seed=3)


def files(out):
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def one_object(shape="sphere", size="large", at=(0.0, 0.0), texture="plain", rotation=0.0, material="rubber"):
    """A scene with one object and neither camera nor lamps moved."""
    thing = {"shape": shape, "size": size, "material": material, "color": "cyan", "texture": texture}
    thing |= {"3d_coords": [*at, SIZES[size]], "rotation": rotation, "extent": SIZES[size]}
    thing["rgb"] = [value / 255 for value in clevr.COLORS["cyan"]]
    return {"camera": list(clevr.CAMERA), "lamps": [list(p) for p in render.LAMP_POSITION], "objects": [thing]}


def test_same_arguments_give_same_bytes(dataset, tmp_path):
    clevr.generate(tmp_path / "again", "val", 12, (3, 6), resolution=SIZE, seed=3, batch_size=5)
    clevr.generate(tmp_path / "batch", "val", 12, (3, 6), resolution=SIZE, seed=3, batch_size=12)
    assert files(dataset[0]) == files(tmp_path / "again") == files(tmp_path / "batch")


def test_seed_and_split_change_the_scenes(scenes):
    for split, seed in (("val", 4), ("train", 3)):
        other = clevr.sample_scenes([0], split, (3, 6), resolution=SIZE, seed=seed)
        assert other[0]["camera"] != scenes[0]["camera"]


def test_a_longer_set_starts_with_the_shorter_one(scenes):
    assert clevr.sample_scenes([7], "val", (3, 6), resolution=SIZE, seed=3) == [scenes[7]]


def test_layout_and_keys(dataset):
    out, content = dataset
    assert set(files(out)) == {f"images/val/CLEVR_val_{i:06d}.png" for i in range(12)} | {
        "scenes/CLEVR_val_scenes.json"
    }
    assert set(content) == {"info", "scenes"} and set(content["info"]) == {"split", "version", "date", "license"}
    for index, scene in enumerate(content["scenes"]):
        assert set(scene) == {"split", "image_index", "image_filename", "objects", "directions", "relationships"}
        assert scene["image_index"] == index and 3 <= len(scene["objects"]) <= 6
        picture = Image.open(out / "images" / "val" / scene["image_filename"])
        assert picture.size == SIZE and picture.mode == "RGB" and picture.format == "PNG"
        assert set(scene["directions"]) == {"behind", "front", "left", "right", "above", "below"}
        for thing in scene["objects"]:
            keys = {"shape", "size", "material", "3d_coords", "rotation", "pixel_coords", "color"}
            assert set(thing) == keys
            assert [type(v) for v in thing["pixel_coords"]] == [int, int, float]
            assert thing["shape"] in DEFAULT_SHAPES and thing["color"] in clevr.COLORS
            assert thing["3d_coords"][2] == {"large": 0.7, "small": 0.35}[thing["size"]]
    counts = {len(scene["objects"]) for scene in content["scenes"]}
    assert len(counts) > 1


def test_relationships(dataset):
    for scene in dataset[1]["scenes"]:
        for name, lists in scene["relationships"].items():
            d = scene["directions"][name]
            along = [sum(a * b for a, b in zip(o["3d_coords"], d, strict=True)) for o in scene["objects"]]
            for i, others in enumerate(lists):
                assert others == [j for j in range(len(along)) if along[j] > along[i] + 0.2]


def test_placement_rules(dataset):
    for scene in dataset[1]["scenes"]:
        things = scene["objects"]
        for i, a in enumerate(things):
            assert max(abs(v) for v in a["3d_coords"][:2]) <= 3
            for b in things[:i]:
                gap = np.subtract(a["3d_coords"], b["3d_coords"])
                radii = sum(o["3d_coords"][2] / (math.sqrt(2) if o["shape"] == "cube" else 1) for o in (a, b))
                assert math.hypot(gap[0], gap[1]) - radii >= 0.25
                for name in ("left", "right", "front", "behind"):
                    along = float(gap @ scene["directions"][name])
                    assert not 0 < along < 0.4 and not 0 < -along < 0.4


CONDITION_A = {"cube": {"gray", "blue", "brown", "yellow"}, "cylinder": {"red", "green", "purple", "cyan"}}


@pytest.mark.parametrize("condition", ["A", "B"])
def test_every_object_has_a_colour_of_its_condition(condition, tmp_path, monkeypatch):
    """The command's own scenes: cubes and cylinders have exactly the four colours of their condition, spheres all."""
    words = ["--out", tmp_path, "--split", f"val{condition}", "--cogent", condition, "--num_images", 60]
    words += ["--num_objects", "3-6", "--resolution", "48x32", "--workers", 0]
    monkeypatch.setattr(clevr.rendering, "render", lambda batch, w, h: torch.zeros(batch.eye.shape[1], h, w, 3).byte())
    monkeypatch.setattr(sys, "argv", ["clevr", *map(str, words)])
    clevr.main()
    content = json.loads((tmp_path / "scenes" / f"CLEVR_val{condition}_scenes.json").read_text())
    seen = {shape: set() for shape in DEFAULT_SHAPES}
    for thing in (thing for scene in content["scenes"] for thing in scene["objects"]):
        seen[thing["shape"]].add(thing["color"])
    one, other = ("cube", "cylinder") if condition == "A" else ("cylinder", "cube")
    assert seen == {one: CONDITION_A["cube"], other: CONDITION_A["cylinder"], "sphere": set(clevr.COLORS)}


def test_palettes_are_of_known_colours():
    assert Look(palettes={"cube": ("red",)}).palettes["cube"] == ("red",)
    for palettes, part in (({"cube": ("mauve",)}, "got mauve"), ({"cube": ()}, "got none")):
        with pytest.raises(ValueError, match=f"palettes of cube must be some of gray, .*{part}"):
            Look(palettes=palettes)


def test_every_object_is_visible(scenes):
    ids = render.id_buffer(clevr.make_batch(scenes), *SIZE)
    for scene, seen in zip(scenes, ids, strict=True):
        counts = torch.bincount(seen.flatten() + 1, minlength=len(scene["objects"]) + 1)[1:]
        assert counts.min() >= 200 / (320 * 240) * SIZE[0] * SIZE[1]
        assert len(counts) == len(scene["objects"])


def test_hidden_object_is_refused():
    scene = one_object("sphere", "large", (1.0, -0.9))
    behind = one_object("sphere", "small", (-0.3, 0.23))["objects"]
    assert clevr.visible_enough(clevr.make_batch([scene, scene | {"objects": behind}]), 96, 64) == [True, True]
    scene["objects"] += behind
    assert clevr.visible_enough(clevr.make_batch([scene]), 96, 64) == [False]


def test_pixel_coords_fall_on_their_object(dataset, scenes):
    """The nearest object in front of a centre may hide it; nothing else may stand at its pixel."""
    ids = render.id_buffer(clevr.make_batch(scenes), *SIZE)
    own = total = 0
    for entry, seen in zip(dataset[1]["scenes"], ids, strict=True):
        depths = [o["pixel_coords"][2] for o in entry["objects"]]
        for k, thing in enumerate(entry["objects"]):
            x, y, depth = thing["pixel_coords"]
            found = int(seen[min(y, SIZE[1] - 1), min(x, SIZE[0] - 1)])
            assert found == k or depths[found] < depth
            own, total = own + (found == k), total + 1
    assert own > 0.8 * total


def test_camera_matches_clevr():
    """Worked out with the camera at (7.48113, -6.50764, 5.34367), aimed at the origin, 35 mm lens, 32 mm sensor."""
    batch = clevr.make_batch([one_object()])
    point = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    x, y, depth = render.project(batch, point, torch.zeros(2, dtype=torch.long))
    eye = np.array(clevr.CAMERA)
    forward = -eye / np.linalg.norm(eye)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    offset = np.array([1, 1, 0]) - eye
    assert torch.allclose(torch.stack([x[0], y[0]]), torch.tensor(0.5))
    assert float(depth[0]) == pytest.approx(np.linalg.norm(eye), rel=1e-6)
    assert float(x[1]) == pytest.approx(0.5 + 35 / 32 * (offset @ right) / (offset @ forward), rel=1e-5)
    assert clevr.DIRECTIONS["right"] == pytest.approx([0.6563112735748291, 0.7544902563095093, 0], abs=1e-5)


@pytest.mark.parametrize(
    ("shape", "start", "distance"),
    [
        ("sphere", (3, 0, 0.7), 2.3), ("cube", (3, 0, 0.7), 2.3), ("cylinder", (3, 0, 0.7), 2.3),
        ("cone", (3, 0, 0.7), 3 - 0.35), ("torus", (3, 0, 0.7), 2.3), ("sphere", (0, 0.35, 5), 4.3 - 0.606218),
        ("capsule", (3, 0, 0.7), 3 - 0.35), ("capsule", (0.2, 0.1, 5), 5 - 0.7 - 0.35 - 0.269258),
        ("cube", (0.2, 0.1, 5), 3.6), ("cylinder", (0.2, 0.1, 5), 3.6), ("torus", (0, -5, 0.7), math.inf),
    ],
)  # fmt: skip
def test_rays_meet_shapes_where_geometry_says(shape, start, distance):
    """Rays from x = 3, from above, or along y through the ring of the torus, at size 0.7 and no rotation."""
    batch = clevr.make_batch([one_object(shape)])
    origin = torch.tensor(start, dtype=torch.float32)[:, None]
    direction = torch.zeros(3, 1)
    axis = {3: 0, 5: 2, -5: 1}[max(start, key=abs)]
    direction[axis] = -math.copysign(2.0, start[axis])  # length 2: t counts in directions
    t = render.trace(batch, batch.position - origin, direction, torch.zeros(1, dtype=torch.long))
    assert float(t) * 2 == pytest.approx(distance, abs=4e-3)


@pytest.mark.parametrize("size", ["large", "small"])
def test_sphere_silhouette_area(size):
    """A sphere in the middle of the view covers, near enough, a disc of the tangent cone's radius."""
    radius = SIZES[size]
    scene = one_object("sphere", size)
    scene["objects"][0]["3d_coords"] = [0.0, 0.0, 0.0]
    ids = render.id_buffer(clevr.make_batch([scene]), 384, 256)
    distance = math.hypot(*clevr.CAMERA)
    pixels = 35 / 32 * 384 * radius / math.sqrt(distance**2 - radius**2)
    assert int((ids == 0).sum()) == pytest.approx(math.pi * pixels**2, rel=0.01)


def test_square_pictures_are_squashed():
    """Width and height of a sphere keep the ratio of the 3:2 view to the picture."""
    ids = render.id_buffer(clevr.make_batch([one_object()]), 256, 256)[0] == 0
    width, height = int(ids.any(0).sum()), int(ids.any(1).sum())
    assert height / width == pytest.approx(1.5, rel=0.03)


def test_shadow_falls_away_from_the_key_lamp():
    """With the other lamps out of reach, the ground is darker on the far side of the key lamp than on the near side."""
    scene = one_object("cylinder")
    scene["lamps"] = [scene["lamps"][0], [0.0, 0.0, 1e3], [0.0, 0.0, 1e3]]
    batch = clevr.make_batch([scene])
    key = np.array(scene["lamps"][0][:2]) / np.linalg.norm(scene["lamps"][0][:2])
    points = torch.tensor([[*(-1.1 * key), 0.0], [*(1.1 * key), 0.0]], dtype=torch.float32).T
    shaded, open_ = render._ground(batch, points, torch.zeros(2, dtype=torch.long))[1].tolist()
    assert shaded < render.GROUND_SKY < open_ - 0.03  # the sky's light alone, and the lamp's added


def test_metal_differs_from_rubber_and_ground_is_grey():
    pictures = render.render(clevr.make_batch([one_object(material=m) for m in MATERIALS]), 96, 64).float()
    assert pictures[1].amax() > pictures[0].amax() + 30  # highlights
    corner = pictures[:, :8, :8]
    assert (corner.amax(-1) - corner.amin(-1)).max() <= 6 and 90 < corner.mean() < 120


@pytest.mark.parametrize("texture", render.TEXTURES[1:])
def test_textures_change_the_object_alone(texture):
    scene = [one_object("cube", rotation=0.4), one_object("cube", rotation=0.4, texture=texture)]
    batch = clevr.make_batch(scene)
    plain, other = render.render(batch, 96, 64).int()
    inside = render.id_buffer(batch, 96, 64)[0] == 0
    changed = (plain != other).any(-1)
    assert changed[inside].float().mean() > 0.2
    assert not changed[~torch.nn.functional.max_pool2d(inside[None].float(), 3, 1, 1)[0].bool()].any()


def with_ground(texture, scene):
    return {
        **scene,
        "ground": {"texture": texture, "angle": 0.0, "scale": 1.0, "colours": [[1.0, 0.5, 0.2], [0.2, 0.9, 1.0]]},
    }


@pytest.mark.parametrize("texture", render.TEXTURES[1:])
def test_grounds_change_the_ground_alone(texture):
    scene = one_object("cube", rotation=0.4)
    batch = clevr.make_batch([scene, with_ground(texture, scene)])
    plain, other = render.render(batch, 96, 64).int()
    inside = render.id_buffer(batch, 96, 64)[0] == 0
    changed = (plain != other).any(-1)
    assert changed[~inside].float().mean() > 0.9
    inner = -torch.nn.functional.max_pool2d(-inside[None].float(), 3, 1, 1)[0] > 0
    assert not changed[inner].any()  # rubber mirrors nothing


def test_the_grounds_cells_are_where_they_should_be():
    scene = with_ground("checker", one_object())
    turned = {**scene, "ground": {**scene["ground"], "angle": math.pi / 2, "scale": 0.5, "texture": "stripes"}}
    batch = clevr.make_batch([scene, turned])
    one, two = scene["ground"]["colours"]

    def colours(image, *points):
        point = torch.tensor([[*p, 0.0] for p in points]).T
        return render._ground_pattern(batch, point, torch.full((len(points),), image)).T.tolist()

    # cells of one unit; then stripes of two units across y, which is the turned x
    assert colours(0, (0.5, 0.5), (1.5, 0.5), (1.5, 1.5), (-0.5, 0.5)) == [
        pytest.approx(c) for c in (one, two, one, two)
    ]
    assert colours(1, (0.5, 0.5), (5.5, 1.5), (0.5, 2.5), (0.5, -0.5)) == [
        pytest.approx(c) for c in (one, one, two, two)
    ]


def test_a_textures_other_part_has_its_own_colour():
    scene = one_object("sphere", texture="checker")
    scene["objects"][0]["accent"] = [0.9, 0.1, 0.5]
    batch = clevr.make_batch([scene])
    np.testing.assert_allclose((batch.albedo * (1 - batch.fading))[:, 0], [0.9, 0.1, 0.5], atol=1e-6)
    plain = clevr.make_batch([one_object("sphere", texture="checker")])
    np.testing.assert_allclose(1 - plain.fading, 0.3, atol=1e-6)  # a shade


def test_materials_shine_as_they_should():
    names = ["matte", "rubber", "plastic", "lacquer"]
    batch = clevr.make_batch([one_object(material=name) for name in names])
    seen = render.render(batch, 96, 64).float()
    inside = render.id_buffer(batch, 96, 64)[0] == 0
    brightest = {name: float(picture[inside].amax()) for name, picture in zip(names, seen, strict=True)}
    assert brightest["matte"] <= brightest["rubber"] < brightest["plastic"] - 30
    assert brightest["rubber"] < brightest["lacquer"] - 30
    assert (seen[1] - seen[0])[inside].sum() > 0  # rubber's wide sheen
    assert (seen[3] - seen[0])[inside].abs().mean() > 2  # the coat mirrors all over


def test_pictures_of_clevrtex_are_not_squashed():
    ids = render.id_buffer(clevr.make_batch([one_object()], LAYOUTS["clevrtex"].look.tan_y), 320, 240)[0] == 0
    assert int(ids.any(1).sum()) / int(ids.any(0).sum()) == pytest.approx(1, rel=0.03)


def test_the_whole_look_of_clevrtex_in_clevrs_files(tmp_path):
    options = {"grounds": ["noise"], "materials": ["lacquer"], "shapes": ["capsule"], "two_colours": True}
    path = clevr.generate(tmp_path, "ood", 4, (6, 8), resolution=(96, 64), textures=["checker"], **options)
    scenes = json.loads(path.read_text())["scenes"]
    assert all(6 <= len(scene["objects"]) <= 8 for scene in scenes)
    assert {(o["shape"], o["material"], o["texture"]) for scene in scenes for o in scene["objects"]} == {
        ("capsule", "lacquer", "checker")
    }
    assert Clevr(tmp_path, "ood", (6, 8), resolution=32)[3]["mask"].sum() >= 6


def test_clevrtex_does_not_depend_on_the_batch(tmp_path):
    for name, size in (("one", 1), ("many", 8)):
        options = {"layout": "clevrtex", "resolution": (64, 48), "seed": 1, "batch_size": size}
        clevr.generate(tmp_path / name, "camo", 5, (3, 5), **options)
    assert files(tmp_path / "one") == files(tmp_path / "many") and len(files(tmp_path / "one")) == 15


def test_textures_and_shapes_are_written(tmp_path):
    path = clevr.generate(
        tmp_path, "ood", 3, (2, 2), resolution=(48, 32), shapes=["cone", "torus"], textures=["stripes", "noise"]
    )
    things = [o for scene in json.loads(path.read_text())["scenes"] for o in scene["objects"]]
    assert {o["shape"] for o in things} <= {"cone", "torus"} and {o["texture"] for o in things} <= {"stripes", "noise"}


def test_too_many_objects_raise():
    with pytest.raises(clevr.PlacementError, match="80 objects"):
        clevr.sample_scene(np.random.default_rng(0), (80, 80))


def run(*arguments):
    command = [sys.executable, "-m", "igm.data.synthetic.clevr", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_command_line(tmp_path):
    done = run(
        "--out", str(tmp_path), "--split", "test", "--num_images", "2", "--num_objects", "2", "--resolution", "64"
    )
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "images/test/CLEVR_test_000001.png").size == (64, 64)
    assert len(json.loads((tmp_path / "scenes/CLEVR_test_scenes.json").read_text())["scenes"]) == 2


def test_command_line_mistake_is_one_line(tmp_path):
    done = run("--out", str(tmp_path / "new"), "--num_objects", "5-3")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "--num_objects" in done.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (["--num_objects", "many"], "--num_objects"), (["--num_images", "-1"], "--num_images"),
        (["--resolution", "33"], "--resolution"), (["--shapes", "pyramid"], "--shapes"),
        (["--textures", "fur"], "--textures"), (["--seed", "-1"], "--seed"), (["--split", "a/b"], "--split"),
        (["--layout", "clevrtex", "--split", "val"], "--split"), (["--grounds", "lawn"], "--grounds"),
        (["--materials", "glass"], "--materials"), (["--layout", "lsun"], "--layout"),
        (["--num_objects", "80"], "--num_objects"), (["--batch_size", "0"], "--batch_size"),
    ],
)  # fmt: skip
def test_mistakes_name_the_flag(arguments, flag, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["clevr", "--out", str(tmp_path), *arguments])
    with pytest.raises(SystemExit) as stop:
        clevr.main()
    assert stop.value.code == 2
    assert flag in capsys.readouterr().err.splitlines()[-1]


def test_unwritable_folder_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(sys, "argv", ["clevr", "--out", str(tmp_path / "file" / "x"), "--num_images", "1"])
    with pytest.raises(SystemExit) as stop:
        clevr.main()
    assert stop.value.code == 2 and "--out" in capsys.readouterr().err
