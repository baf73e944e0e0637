"""CLEVR's files: what is read, how it is cached, and what is said when it is not there."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import write_clevr
from PIL import Image

import igm.data.clevr
from igm.data import DataError
from igm.data.clevr import Clevr, load_index
from igm.data.images import check_image, decode_image, image_to_tensor, tensor_to_image


def write_scenes(file, change):
    """Rewrite a scenes file after `change(contents)`."""
    contents = json.loads(file.read_text())
    file.write_text(json.dumps(change(contents) or contents))


def refuse(root, *parts, **options):
    """Check that opening the dataset fails with one line that has all the parts."""
    with pytest.raises(DataError) as caught:
        Clevr(root, **{"split": "train", "resolution": 16, **options})
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message
    return message


# What is read


def test_items_keep_the_contract(clevr_root):
    dataset = Clevr(clevr_root, "train", (3, 5), resolution=16)
    assert len(dataset) == 12 and dataset.num_skipped == 0
    for i, count in enumerate([3, 4, 5]):
        item = dataset[i]
        assert set(item) == {"pixel_values", "conds", "mask", "image_id"}
        assert item["pixel_values"].shape == (3, 16, 16) and item["pixel_values"].dtype == torch.float32
        assert -1 <= item["pixel_values"].min() and item["pixel_values"].max() <= 1
        assert item["conds"].shape == (5, 2) and item["conds"].dtype == torch.float32
        assert item["mask"].dtype == torch.float32
        assert item["mask"].tolist() == [1.0] * count + [0.0] * (5 - count)
        assert item["conds"][count:].abs().sum() == 0
        assert item["image_id"] == f"CLEVR_train_{i:06d}"


def test_positions_are_pixel_coords_over_the_own_size(tmp_path):
    coords = [[[12, 8, 9.0], [36, 24, 9.0]], [[12, 8, 9.0], [96, 60, 9.0]]]
    write_clevr(tmp_path, "train", coords=coords, sizes=[(48, 32), (120, 80)])
    dataset = Clevr(tmp_path, "train", (2, 2))
    torch.testing.assert_close(dataset[0]["conds"], torch.tensor([[0.25, 0.25], [0.75, 0.75]]))
    torch.testing.assert_close(dataset[1]["conds"], torch.tensor([[0.1, 0.1], [0.8, 0.75]]))


def test_the_position_is_where_the_object_is_seen(clevr_root):
    item = Clevr(clevr_root, "val", (3, 3), resolution=64)[0]
    for x, y in item["conds"][item["mask"] > 0].tolist():
        seen = item["pixel_values"][:, int(y * 64), int(x * 64)]
        assert (seen - item["pixel_values"][:, 0, 0]).abs().max() > 0.2  # a disc, not the background


@pytest.mark.parametrize(("num_objects", "expected"), [((3, 5), [0, 1, 2, 6]), ((6, 8), [3, 4, 5, 7]), ((8, 9), [5])])
def test_count_filter(clevr_root, num_objects, expected):
    dataset = Clevr(clevr_root, "val", num_objects, resolution=16)
    assert [dataset.annotation(i)["image_id"] for i in range(len(dataset))] == [f"CLEVR_val_{i:06d}" for i in expected]
    assert dataset[0]["conds"].shape == (num_objects[1], 2)


def test_max_images_keeps_the_first_matching(clevr_root):
    dataset = Clevr(clevr_root, "train", (4, 5), max_images=3)
    assert [dataset.annotation(i)["image_id"][-1] for i in range(len(dataset))] == ["1", "2", "4"]


@pytest.mark.parametrize("scenes_dir", ["scenes", ".", "images/train"])
def test_scenes_file_in_each_of_its_places(tmp_path, scenes_dir):
    file = write_clevr(tmp_path, "train", [3], scenes_dir=scenes_dir)
    assert file.is_file() and len(Clevr(tmp_path, "train")) == 1


def test_resize_is_the_whole_image_antialiased(clevr_root):
    path = clevr_root / "images" / "train" / "CLEVR_train_000000.png"
    with Image.open(path) as picture:
        assert picture.mode == "RGBA"
        small = picture.convert("RGB").resize((20, 20), resample=Image.BILINEAR)  # Pillow's resize antialiases
    expected = torch.tensor(np.asarray(small, dtype=np.float32) / 255 * 2 - 1).permute(2, 0, 1)
    difference = (Clevr(clevr_root, "train", resolution=20)[0]["pixel_values"] - expected).abs()
    assert difference.max() < 1.01 * 2 / 255 and difference.mean() < 1e-4  # one level of 255, in few pixels


def test_transparent_pixels_do_not_matter(tmp_path):
    picture = Image.new("RGBA", (8, 8), (200, 100, 50, 0))
    picture.save(tmp_path / "a.png")
    pixels = image_to_tensor(decode_image(tmp_path / "a.png"), 4)
    torch.testing.assert_close(pixels[:, 0, 0], torch.tensor([200.0, 100.0, 50.0]) / 127.5 - 1)


def test_tensor_to_image_undoes_image_to_tensor(clevr_root):
    with Image.open(clevr_root / "images" / "train" / "CLEVR_train_000001.png") as picture:
        picture = picture.convert("RGB").resize((16, 16))
    assert np.array_equal(np.asarray(tensor_to_image(image_to_tensor(picture, 16))), np.asarray(picture))


def test_flip_mirrors_pixels_and_positions(clevr_root):
    dataset = Clevr(clevr_root, "train", (3, 5), resolution=16, flip=True)
    assert len(dataset) == 24
    for i in (0, 7):
        item, mirrored = dataset[i], dataset[i + 12]
        real = item["mask"] > 0
        torch.testing.assert_close(mirrored["pixel_values"], item["pixel_values"].flip(2))
        torch.testing.assert_close(mirrored["conds"][real, 0], 1 - item["conds"][real, 0])
        torch.testing.assert_close(mirrored["conds"][real, 1], item["conds"][real, 1])
        assert mirrored["conds"][~real].abs().sum() == 0 and torch.equal(mirrored["mask"], item["mask"])
        assert mirrored["image_id"] != item["image_id"]
        assert dataset.path_of(i) == dataset.path_of(i + 12)


def test_facts_by_hand(tmp_path):
    coords = [[[10, 10, 9.0], [40, 10, 9.0], [40, 50, 9.0]], [[90, 5, 9.0], [90, 45, 9.0]]]
    write_clevr(tmp_path, "train", coords=coords, size=(100, 100))
    assert Clevr(tmp_path, "train", (2, 3)).facts() == {
        "num_objects": [2, 3],
        "bounds": [0.1, 0.05, 0.9, 0.5],
        "min_separation": 0.301,  # a hundredth of the way from 0.3 in one scene to 0.4 in the other
    }


def test_facts_of_single_objects(tmp_path):
    write_clevr(tmp_path, "train", coords=[[[10, 20, 9.0]]], size=(100, 100))
    assert Clevr(tmp_path, "train", (1, 5)).facts()["min_separation"] == 0.0


def test_fingerprint_follows_what_an_item_depends_on(tmp_path):
    write_clevr(tmp_path, "train", [3, 4, 5])

    def fingerprint(**options):
        return Clevr(tmp_path, "train", **{"resolution": 16, **options}).fingerprint()

    first = fingerprint()
    assert first == fingerprint()
    assert len({first, fingerprint(resolution=8), fingerprint(flip=True), fingerprint(max_images=2)}) == 4
    image = tmp_path / "images" / "train" / "CLEVR_train_000001.png"
    Image.new("RGBA", (48, 32), (1, 2, 3, 255)).save(image)
    assert fingerprint() != first


# The index cache


def test_index_is_parsed_once(clevr_root, monkeypatch):
    first = load_index(igm.data.clevr.find_scenes(clevr_root, "train"))
    monkeypatch.setattr(igm.data.clevr, "parse_scenes", lambda file: pytest.fail("parsed again"))
    second = load_index(igm.data.clevr.find_scenes(clevr_root, "train"))
    assert set(first) == set(second) == set(igm.data.clevr.INDEX_TYPES)
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_index_follows_a_changed_file(tmp_path):
    file = write_clevr(tmp_path, "train", [3, 4, 5])
    assert len(Clevr(tmp_path, "train")) == 3
    write_scenes(file, lambda contents: {**contents, "scenes": contents["scenes"][:2]})
    assert len(Clevr(tmp_path, "train")) == 2


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04torn", b"not a zip file"])
def test_torn_index_is_parsed_again(tmp_path, content):
    write_clevr(tmp_path, "train", [3, 4])
    Clevr(tmp_path, "train")
    (cached,) = igm.data.clevr.cache_dir().glob("*.npz")
    whole = cached.read_bytes()
    for torn in (content, whole[: len(whole) // 2]):
        cached.write_bytes(torn)
        assert len(Clevr(tmp_path, "train")) == 2


def test_index_without_a_cache_folder(tmp_path, monkeypatch):
    write_clevr(tmp_path, "train", [3])
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IGM_CACHE", str(tmp_path / "file" / "cache"))  # cannot be made
    assert len(Clevr(tmp_path, "train")) == 1


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("IGM_CACHE", "/a/b")
    assert str(igm.data.clevr.cache_dir()) == "/a/b"
    monkeypatch.delenv("IGM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert igm.data.clevr.cache_dir() == tmp_path / "igm"


# Bad input


def test_missing_root(tmp_path):
    refuse(tmp_path / "nowhere", "--dataset_root", tmp_path / "nowhere")


def test_missing_scenes_file(tmp_path):
    (tmp_path / "images").mkdir()
    refuse(tmp_path, tmp_path / "scenes" / "CLEVR_train_scenes.json")


@pytest.mark.parametrize(
    "text",
    [
        '{"info": {}, "scenes": [{"image_filename": "CLEVR_tr',
        "",
        "\x00\x01",
        "[1, 2]",
        '{"annotations": []}',
        '{"scenes": []}',
        '{"scenes": 3}',
        '{"scenes": [1]}',
        '{"scenes": [{"image_filename": "a.png"}]}',
        '{"scenes": [{"image_filename": "a.png", "objects": [{"shape": "cube"}]}]}',
        '{"scenes": [{"image_filename": "a.png", "objects": [{"pixel_coords": ["x", "y"]}]}]}',
    ],
)
def test_scenes_file_that_is_not_one(tmp_path, text):
    file = write_clevr(tmp_path, "train", [3])
    file.write_text(text)
    refuse(tmp_path, file)


def test_scenes_file_in_another_encoding(tmp_path):
    file = write_clevr(tmp_path, "train", [3])
    file.write_bytes(b"\xff\xfe{\x00")
    refuse(tmp_path, file)


def test_no_scene_in_the_range(clevr_root):
    message = refuse(clevr_root, "CLEVR_train_scenes.json", "9 to 10", num_objects=(9, 10))
    assert "3 to 5" in message  # what there is


@pytest.fixture
def damaged(tmp_path):
    """Four scenes; the image of number 1 is absent, that of number 2 cut in half. Returns the root and both files."""
    write_clevr(tmp_path, "train", [3, 4, 5, 3])
    absent, cut = (tmp_path / "images" / "train" / f"CLEVR_train_00000{i}.png" for i in (1, 2))
    absent.unlink()
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    return tmp_path, absent, cut


def test_absent_image(damaged):
    root, absent, _ = damaged
    refuse(root, absent, "--skip_bad_images")


def test_truncated_image(damaged):
    root, absent, cut = damaged
    shutil.copy(root / "images" / "train" / "CLEVR_train_000000.png", absent)
    refuse(root, cut, "--skip_bad_images")


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"<html>not found</html>"])
def test_file_that_is_no_image(damaged, content):
    root, absent, _ = damaged
    absent.write_bytes(content)
    refuse(root, absent)


def test_bytes_changed_inside_an_image(damaged):
    root, absent, cut = damaged
    good = root / "images" / "train" / "CLEVR_train_000000.png"
    content = bytearray(good.read_bytes())
    middle = content.index(b"IDAT") + 12
    content[middle : middle + 40] = bytes(byte ^ 0x5A for byte in content[middle : middle + 40])
    for path in (absent, cut):
        path.write_bytes(content)
    with pytest.raises(DataError, match=absent.name):  # header and end are whole: found when it is decoded
        Clevr(root, "train")[1]
    assert Clevr(root, "train", skip_bad_images=True).num_skipped == 2


def test_skip_bad_images_counts_them(damaged):
    root, _, _ = damaged
    dataset = Clevr(root, "train", resolution=16, skip_bad_images=True)
    assert dataset.num_skipped == 2 and len(dataset) == 2
    assert [dataset[i]["image_id"][-1] for i in range(2)] == ["0", "3"]
    assert [int(dataset[i]["mask"].sum()) for i in range(2)] == [3, 3]
    scene = json.loads((root / "scenes" / "CLEVR_train_scenes.json").read_text())["scenes"][3]
    expected = torch.tensor([o["pixel_coords"][:2] for o in scene["objects"]]) / torch.tensor([48.0, 32.0])
    torch.testing.assert_close(dataset[1]["conds"][:3], expected)  # of its own scene, not of the skipped one


def test_no_image_left(damaged):
    root, _, _ = damaged
    shutil.rmtree(root / "images")
    refuse(root, "images", skip_bad_images=True)
    refuse(root, "CLEVR_train_000000.png")


def test_check_image_of_a_cut_jpeg(tmp_path):
    path = tmp_path / "a.jpg"
    Image.effect_noise((64, 48), 50).save(path)
    assert check_image(path) == (64, 48)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="a.jpg"):
        check_image(path)


# Layouts


@pytest.mark.parametrize("split", ["trainA", "valB", "new", "my split"])
def test_any_split_with_a_scenes_file(tmp_path, split):
    write_clevr(tmp_path, split, [3, 4])
    assert Clevr(tmp_path, split)[1]["image_id"] == f"CLEVR_{split}_000001"
    refuse(tmp_path, "CLEVR_val_scenes.json is missing", f"the splits {split}", split="val")


@pytest.mark.parametrize("split", ["new", "train", "val"])
def test_what_the_generator_writes(tmp_path, split):
    file = write_clevr(tmp_path, "new", [3, 4])
    file.rename(tmp_path / "CLEVR_scenes.json")
    for path in (tmp_path / "images" / "new").iterdir():
        path.rename(tmp_path / "images" / path.name)
    dataset = Clevr(tmp_path, split)
    assert [dataset[i]["image_id"] for i in range(2)] == ["CLEVR_new_000000", "CLEVR_new_000001"]


def test_a_split_is_a_name_not_a_path(tmp_path):
    write_clevr(tmp_path / "other", "train", [3])
    (tmp_path / "data").mkdir()
    refuse(tmp_path / "data", "is missing", split="../../other/scenes/CLEVR_train")


def rename_images(root, file, name_of):
    """Give every scene's image another name in the JSON; `name_of(number, old)`."""

    def change(contents):
        for number, scene in enumerate(contents["scenes"]):
            scene["image_filename"] = name_of(number, scene["image_filename"])

    write_scenes(file, change)


@pytest.mark.parametrize(
    "prefix", ["train\\", "images/train/", "./", "C:\\CLEVR_v1.0\\images\\train\\", "/home/somebody/images/train/"]
)
def test_names_with_the_folders_of_another_machine(tmp_path, prefix):
    file = write_clevr(tmp_path, "train", [3, 4])
    plain = [Clevr(tmp_path, "train", resolution=16)[i] for i in range(2)]
    rename_images(tmp_path, file, lambda number, old: prefix + old)
    dataset = Clevr(tmp_path, "train", resolution=16)
    for i in range(2):
        assert dataset[i]["pixel_values"].equal(plain[i]["pixel_values"])
        assert dataset[i]["image_id"] == plain[i]["image_id"]


@pytest.mark.parametrize(
    "name", ["../secret.png", "..", "", "a\0b.png", "x" * 300 + ".png", "sub/", "train\\..\\..\\a.png", "\ud800.png"]
)
def test_names_that_are_none_or_lead_outside(tmp_path, name):
    file = write_clevr(tmp_path, "train", [3, 4])
    shutil.copy(tmp_path / "images" / "train" / "CLEVR_train_000000.png", tmp_path / "images" / "secret.png")
    rename_images(tmp_path, file, lambda number, old: name if number else old)
    for skip in (False, True):
        refuse(tmp_path, file, "scene 2", skip_bad_images=skip)


def test_equal_names_in_subfolders_are_two_images(tmp_path):
    file = write_clevr(tmp_path, "train", [3, 4, 5])
    for number in range(2):
        folder = tmp_path / "images" / "train" / f"part{number}"
        folder.mkdir()
        (folder.parent / f"CLEVR_train_00000{number}.png").rename(folder / "a.png")
    rename_images(tmp_path, file, lambda number, old: f"part{number}/a.png" if number < 2 else old)
    dataset = Clevr(tmp_path, "train", resolution=16)
    assert [item["image_id"] for item in dataset] == ["part0/a", "part1/a", "CLEVR_train_000002"]
    assert [int(item["mask"].sum()) for item in dataset] == [3, 4, 5]
    assert Clevr(tmp_path, "train", max_images=1)[0]["image_id"] == "part0/a"  # the same in a shorter run


def test_one_image_in_two_scenes(tmp_path):
    file = write_clevr(tmp_path, "train", [3, 4, 5])
    rename_images(tmp_path, file, lambda number, old: old if number < 2 else "CLEVR_train_000000.png")
    refuse(tmp_path, file, "scenes 1 and 3", "CLEVR_train_000000.png")
    rename_images(tmp_path, file, lambda number, old: old if number < 2 else "./CLEVR_train_000000.png")
    refuse(tmp_path, "CLEVR_train_000000.png", "is the same file as")


# Positions


def test_pictures_of_another_size_than_the_positions(tmp_path):
    file = write_clevr(tmp_path, "train", [4, 5], size=(320, 240))
    for path in (tmp_path / "images" / "train").iterdir():
        with Image.open(path) as picture:
            picture.resize((128, 128)).save(path)
    message = refuse(tmp_path, file, "scene 1", "128 x 128 pixels")
    outside = [o["pixel_coords"] for o in json.loads(file.read_text())["scenes"][0]["objects"]]
    x, y, _ = next(p for p in outside if max(p[:2]) > 128)
    assert f"x = {x:g}, y = {y:g}" in message


def test_pictures_larger_than_the_positions_mean_are_told(tmp_path, capsys):
    write_clevr(tmp_path, "train", [5] * 20, size=(60, 40))
    Clevr(tmp_path, "train")
    assert "warning" not in capsys.readouterr().err
    for path in (tmp_path / "images" / "train").iterdir():
        with Image.open(path) as picture:
            picture.resize((120, 80)).save(path)
    assert len(Clevr(tmp_path, "train")) == 20 and "smaller pictures?" in capsys.readouterr().err


NUMBER = "9" * 5000


@pytest.mark.parametrize(
    "coords",
    ["[NaN, 3, 9.5]", "[3, 4, Infinity]", "[3]", "[3, 4, 5, 6]", "[]", "null", '"3, 4"', '["3", "4"]', "[true, 4]"]
    + ["[[3, 4], [5, 6]]", '{"x": 3}', "3", "[-1, 4, 9.5]", "[49, 4]", "[1e400, 4]", f"[{'1' + '0' * 400}, 4]"],
)
def test_positions_are_two_or_three_finite_numbers_in_the_picture(tmp_path, coords):
    file = write_clevr(tmp_path, "train", coords=[[[5, 5, 9.0]] * 3, [[7, 9, 9.0]] * 3])
    file.write_text(file.read_text().replace("[7, 9, 9.0]", coords, 1))
    refuse(tmp_path, file, "scene 2", "object")


def test_an_object_that_is_listed_twice(tmp_path):
    file = write_clevr(tmp_path, "train", [3, 4])
    contents = json.loads(file.read_text())
    objects = contents["scenes"][1]["objects"]
    objects.append(dict(objects[2]))
    file.write_text(json.dumps(contents))
    refuse(tmp_path, file, "scene 2", "objects 3 and 5 are the same")


def test_two_numbers_are_a_position(tmp_path):
    file = write_clevr(tmp_path, "train", coords=[[[12, 8, 9.0], [36, 24, 9.0]]])
    file.write_text(file.read_text().replace("[12, 8, 9.0]", "[12, 8]"))
    torch.testing.assert_close(Clevr(tmp_path, "train", (2, 2))[0]["conds"], torch.tensor([[0.25, 0.25], [0.75, 0.75]]))


@pytest.mark.parametrize(
    "old, new, words",
    [
        ('"objects": [', '"objects": null, "others": [', ["scene 1", "objects is null", "expected a list"]),
        ('"image_filename": "CLEVR_train_000001.png"', '"image_filename": 5', ["scene 2", "image_filename is 5"]),
        ('"scenes": [', '"scenes": ["x", ', ["scene 1", "'x'"]),
        ('"rotation": 10.0', f'"rotation": {NUMBER}', ["thousands of digits"]),
        ('"rotation": 10.0', '"rotation": ' + "[" * 100_000, ["thousands deep"]),
        ('"rotation": 10.0', '"rotation": x', ["line 1, column"]),
    ],
)
def test_faults_of_a_scenes_file_are_named(tmp_path, old, new, words):
    file = write_clevr(tmp_path, "train", [3, 3])
    file.write_text(file.read_text().replace(old, new, 1))
    assert "unpack" not in refuse(tmp_path, file, *words)


def test_a_scenes_file_that_is_cut_short_says_so(tmp_path):
    file = write_clevr(tmp_path, "train", [3, 3])
    file.write_text(file.read_text()[:-30])
    refuse(tmp_path, file, "cut short", "unpack")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_scenes_file_in_every_unicode_encoding(tmp_path, encoding):
    file = write_clevr(tmp_path, "train", [3, 4])
    plain = [Clevr(tmp_path, "train").annotation(i)["conds"] for i in range(2)]
    file.write_text(file.read_text(), encoding=encoding)
    assert all(torch.equal(Clevr(tmp_path, "train").annotation(i)["conds"], plain[i]) for i in range(2))


def test_positions_follow_the_fit(tmp_path):
    """The object is seen where its position says, in every fit; one that is cut off is refused."""
    write_clevr(tmp_path, "train", coords=[[[40, 22, 9.0]]], size=(60, 40))
    for fit in ("squeeze", "crop", "pad"):
        item = Clevr(tmp_path, "train", (1, 1), resolution=64, fit=fit)[0]
        x, y = (item["conds"][0] * 64).tolist()
        assert (item["pixel_values"][:, int(y), int(x)] - item["pixel_values"][:, 32, 16]).abs().max() > 0.2
    write_clevr(tmp_path, "val", coords=[[[4, 20, 9.0]]], size=(60, 40))
    refuse(tmp_path, "CLEVR_val_000000.png", "--fit crop", split="val", num_objects=(1, 1), fit="crop")


def test_an_index_of_another_version_is_not_read(tmp_path, monkeypatch):
    write_clevr(tmp_path, "train", [3])
    Clevr(tmp_path, "train")
    monkeypatch.setattr(igm.data.clevr, "INDEX_VERSION", 0)
    Clevr(tmp_path, "train")
    cached = sorted(igm.data.clevr.cache_dir().iterdir())
    assert len(cached) == 2 and all(path.suffix == ".npz" for path in cached)  # and nothing of a temporary name


@pytest.mark.parametrize(
    "content", [{"files": np.array(["a"])}, {"files": 1, "counts": 1, "starts": 1, "pixel_coords": 1}]
)
def test_an_index_of_something_else_is_not_read(tmp_path, content):
    write_clevr(tmp_path, "train", [3])
    Clevr(tmp_path, "train")
    (cached,) = igm.data.clevr.cache_dir().iterdir()
    np.savez(cached, **content)
    assert len(Clevr(tmp_path, "train")) == 1


def test_a_user_without_a_home_gets_a_passing_cache(monkeypatch, tmp_path):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("IGM_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(igm.data.clevr.Path, "home", no_home)
    write_clevr(tmp_path, "train", [3])
    assert len(Clevr(tmp_path, "train")) == 1
    assert igm.data.clevr.cache_dir() == igm.data.clevr.cache_dir() and igm.data.clevr.cache_dir().is_dir()
