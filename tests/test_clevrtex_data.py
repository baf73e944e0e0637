"""CLEVRTex in its true layout: what is read, the splits, and one line for each fault. Files of the project's generator."""

import json
import os
import shutil
import time

import numpy as np
import pytest
import torch
from conftest import as_flags
from PIL import Image

from igm.cli.labels import PointLabels
from igm.data import DataError, NothingAsked, clevrtex, find_dataset
from igm.data.clevr import Clevr
from igm.data.clevrtex import ClevrTex, split_rows
from igm.data.images import decode_image, image_to_tensor
from igm.data.synthetic import clevr as generator
from igm.reproduction.clevr import MINI_ROWS, on_textures

SIZE = (64, 48)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder with 30 scenes of `full` and 4 of `outd`, of 3 to 8 objects. Read only."""
    root = tmp_path_factory.mktemp("tex")
    for variant, number in (("full", 30), ("outd", 4)):
        generator.generate(root, variant, number, (3, 8), layout="clevrtex", resolution=SIZE, seed=5)
    return root


@pytest.fixture
def root(made, tmp_path):
    """A folder of the test's own with `full` alone."""
    shutil.copytree(made / "clevrtex_full", tmp_path / "clevrtex_full")
    return tmp_path


def scene_file(root, number):
    (path,) = root.glob(f"**/CLEVRTEX_full_{number:06d}.json")
    return path


def change(root, number, **values):
    path = scene_file(root, number)
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refuse(root, *words, split="test", num_objects=(1, 10), **options):
    with pytest.raises(DataError) as caught:
        ClevrTex(root, split, num_objects, **options)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def test_an_item_is_the_picture_and_its_pixel_coords(made):
    """Read again by hand, from the files."""
    data = ClevrTex(made, "test", (1, 10), resolution=32, variant="full")
    assert isinstance(data, Clevr) and len(data) == 3
    for i, item in enumerate(data):
        path = made / "clevrtex_full" / "0" / f"CLEVRTEX_full_{i:06d}.png"
        scene = json.loads(path.with_suffix(".json").read_text())
        assert item["image_id"] == path.stem and data.path_of(i) == path
        torch.testing.assert_close(item["pixel_values"], image_to_tensor(decode_image(path), 32), rtol=0, atol=0)
        expected = [[o["pixel_coords"][0] / SIZE[0], o["pixel_coords"][1] / SIZE[1]] for o in scene["objects"]]
        np.testing.assert_allclose(item["conds"][item["mask"] > 0], expected, atol=1e-6)


def test_the_generated_files_are_those_of_the_format(made):
    folder = made / "clevrtex_full" / "0"
    scene = json.loads((folder / "CLEVRTEX_full_000007.json").read_text())
    assert scene.keys() >= {"num_objects", "split", "image_index", "image_filename", "ground_material", "directions"}
    assert scene["split"] == "full" and scene["num_objects"] == len(scene["objects"])
    keys = {"shape", "rotation", "color", "material", "size", "3d_coords", "pixel_coords"}
    assert all(thing.keys() >= keys for thing in scene["objects"])
    picture, mask = (Image.open(folder / f"CLEVRTEX_full_000007{end}.png") for end in ("", "_flat"))
    assert picture.size == mask.size == SIZE and mask.mode == "L"
    numbers = np.asarray(mask)
    assert set(np.unique(numbers)) == set(range(len(scene["objects"]) + 1))  # 0 is the ground
    hits = [numbers[min(y, 47), min(x, 63)] == k + 1 for k, (x, y, _) in
            enumerate(o["pixel_coords"] for o in scene["objects"])]  # fmt: skip
    assert np.mean(hits) > 0.5  # the others are hidden there, or have a hole


def test_splits_are_tenths_of_the_sorted_numbers(made):
    ids = {split: [item["image_id"] for item in map(ClevrTex(made / "clevrtex_full", split, (1, 10)).annotation, range(n))]
           for split, n in (("test", 3), ("val", 3), ("train", 24))}  # fmt: skip
    assert [int(name[-6:]) for split in ("test", "val", "train") for name in ids[split]] == list(range(30))


@pytest.mark.parametrize("total", [10, 19, 99, 1234, 50_000])
def test_splits_are_those_of_the_data_sets_loader(total, tmp_path):
    """bias, limit = int(low * total), int(high * total)."""
    for split, (low, high) in {"test": (0.0, 0.1), "val": (0.1, 0.2), "train": (0.2, 1.0)}.items():
        assert split_rows(total, tmp_path, "full", split) == slice(int(low * total), int(high * total))


def test_a_variant_without_splits_is_all_test(made):
    assert len(ClevrTex(made, "test", (1, 10), variant="outd")) == 4
    refuse(made, "no split 'val'", "--split test", split="val", variant="outd")


def test_variants_are_listed_and_chosen(made, root):
    refuse(made, "full, outd", "--variant")
    refuse(made, "--variant camo", "full, outd", variant="camo")
    kind, given = PointLabels(dataset_variant="full").find(made, "positions")
    assert len(kind(made, "test", (1, 10), **given)) == 3
    assert find_dataset(root, "positions") is ClevrTex
    for own in (root / "clevrtex_full", root):
        assert len(ClevrTex(own, "test", (1, 10))) == 3
    loose = root / "anything"
    (root / "clevrtex_full").rename(loose)  # told by what it holds
    assert find_dataset(loose, "positions") is ClevrTex and len(ClevrTex(loose, "test", (1, 10))) == 3


def test_a_variant_of_a_dataset_that_has_none(clevr_root):
    with pytest.raises(DataError, match="--variant full is for CLEVRTex; .* is read as Clevr: leave it out"):
        PointLabels(dataset_variant="full").find(clevr_root, "positions")
    assert find_dataset(clevr_root, "positions") is Clevr


def test_pictures_lie_at_any_depth(root):
    folder = root / "clevrtex_full"
    for number in range(30):
        place = folder / f"part{number % 3}" / "a" / "b"
        place.mkdir(parents=True, exist_ok=True)
        for file in folder.glob(f"0/*_{number:06d}*"):
            file.rename(place / file.name)
    data = ClevrTex(root, "val", (1, 10))
    assert [data.annotation(i)["image_id"] for i in range(3)] == [f"CLEVRTEX_full_{n:06d}" for n in (3, 4, 5)]


def test_counts_filter(made):
    data = ClevrTex(made, "train", (3, 5), variant="full")
    assert {int(data.annotation(i)["mask"].sum()) for i in range(len(data))} <= {3, 4, 5} and data.max_objects == 5
    with pytest.raises(NothingAsked, match="no scene with 9 to 9"):
        ClevrTex(made, "train", (9, 9), variant="full")


# Faults


def test_nothing_there(tmp_path):
    (tmp_path / "clevrtex_camo").mkdir()
    refuse(tmp_path, "CLEVRTEX_camo_000000.png", "unpack")
    refuse(tmp_path / "clevrtex_camo" / "x", "--dataset_root")


def test_a_split_that_there_is_not(root):
    refuse(root, "no split 'valA'", "test, val, train", split="valA")
    for number in range(9, 30):
        scene_file(root, number).with_suffix(".png").unlink()
    refuse(root, "9 pictures", "too few")


def test_missing_numbers_are_said(root, capsys):
    scene_file(root, 4).with_suffix(".png").unlink()
    assert len(ClevrTex(root, "test", (1, 10))) == 2
    assert "1 of the numbers to 29 are missing" in capsys.readouterr().err


def test_one_number_twice(root):
    (root / "clevrtex_full" / "again").mkdir()
    shutil.copy(scene_file(root, 3).with_suffix(".png"), root / "clevrtex_full" / "again")
    refuse(root, "again/CLEVRTEX_full_000003.png", "both picture 3")


def test_a_scene_file_that_is_not_there_or_none(root):
    path = scene_file(root, 1)
    whole = path.read_text()
    for text, words in (
        (whole[:100], ["cut short"]), ("[]", ["no list 'objects'"]), ("{", ["cut short"]),
        ('{"objects": 3}', ["objects is 3"]), ("\\x00", ["not JSON"]),
    ):  # fmt: skip
        path.write_text(text)
        refuse(root, path.name, *words)
    path.unlink()
    refuse(root, path.name, "restore it")


@pytest.mark.parametrize(
    "coords", [None, [1], [1, float("nan"), 3], [float("inf"), 1, 3], [True, 1], ["1", 2, 3], [1, 2, 3, 4]]
)
def test_coordinates_that_are_none(root, coords):
    change(root, 1, objects=[{"pixel_coords": coords}])
    refuse(root, scene_file(root, 1).name, "pixel_coords of object 1")


@pytest.mark.parametrize("coords", [[64.5, 5], [-1, 5], [5, 49]])
def test_a_position_outside_its_picture(root, coords):
    change(root, 1, objects=[{"pixel_coords": coords}])
    refuse(root, scene_file(root, 1).name, "outside its picture")


def test_a_picture_that_is_cut_short_or_turned(root):
    path = scene_file(root, 1).with_suffix(".png")
    whole = path.read_bytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).rotate(90, expand=True).save(path, exif=exif)  # upright again for who heeds it
    assert Image.open(path).size == SIZE[::-1]
    data = ClevrTex(root, "test", (1, 10), resolution=32)
    assert data.sizes[1].tolist() == list(SIZE)
    path.write_bytes(whole[: len(whole) // 2])
    refuse(root, path.name, "cut short")
    data = ClevrTex(root, "test", (1, 10), skip_bad_images=True)
    assert len(data) == 2 and data.num_skipped == 1
    assert data.annotation(1)["image_id"] == "CLEVRTEX_full_000002"


# Cache


def test_scenes_are_parsed_once_and_again_when_one_changes(root, monkeypatch):
    parsed = []
    parse = clevrtex.parse_scenes
    monkeypatch.setattr(clevrtex, "parse_scenes", lambda *given: parsed.append(given) or parse(*given))
    first = ClevrTex(root, "val", (1, 10))
    again = ClevrTex(root, "val", (1, 10))
    assert len(parsed) == 1
    np.testing.assert_array_equal(first.index["pixel_coords"], again.index["pixel_coords"])
    objects = json.loads(scene_file(root, 4).read_text())["objects"][:2]
    change(root, 4, objects=objects)
    os.utime(scene_file(root, 4), ns=(time.time_ns(), time.time_ns()))
    data = ClevrTex(root, "val", (1, 10))
    assert len(parsed) == 2 and int(data.annotation(1)["mask"].sum()) == 2


# Commands


def test_training_and_evaluation_run_on_it(made, run_main, training_args, tmp_path):
    code, _, err = run_main("train_clevr", *training_args(made, "separable_unet")(object_counts="3-8", variant="full"))
    assert code == 0, err
    options = {"dataset_root": made, "checkpoint": tmp_path / "out" / "clevr" / "checkpoint-2", "num_images": 1}
    common = as_flags({**options, "object_counts": "3-8", "output_dir": tmp_path / "out"})
    code, out, err = run_main("eval_clevr", *common, "--variant", "outd", "--split", "test")
    assert code == 0, err
    assert "found within 0.05" in out
    code, _, err = run_main("eval_clevr", *common)
    assert code == 2 and "holds the variants full, outd; choose one by --variant" in err and err.count("\n") == 1
    code, _, err = run_main("train_clevr", *training_args(made, "separable_unet")(variant="outd"))
    assert code == 2 and "--split" in err


def test_the_tables_rows_of_shipped_models_run_on_shapes_that_these_do_not_know(made, run_main, tmp_path):
    rows = [row for row in on_textures(MINI_ROWS) if row.checkpoint]
    assert {row.checkpoint for row in rows} == {"clevr-mini", "clevr-scene-mini"}
    (tmp_path / "clevrtex_outd").symlink_to(made / "clevrtex_outd")
    for row in rows:
        name, *words = row.evaluation
        place = as_flags({"dataset_root": tmp_path, "checkpoint": row.checkpoint, "output_dir": tmp_path / "out"})
        code, out, err = run_main(name.removesuffix(".py"), *words, *place, "--dry_run")
        assert code == 0 and "3-5" in out, err
