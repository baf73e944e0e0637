"""Properties of the readers on inputs that hypothesis makes: right, or refused in one line that names the file.

Each runs on a few inputs, always the same; `-m slow` tries many.
"""

import copy
import io
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_clevr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from igm.data import DataError, printable
from igm.data.animals import Animals
from igm.data.celeba import CelebA
from igm.data.clevr import Clevr
from igm.data.dataset import locate_file, unique_ids
from igm.data.images import FITS, fit_box, image_to_tensor
from igm.data.labelled import LabelledFaces, LabelledScenes
from igm.data.unlabelled import Pictures

effort = pytest.mark.parametrize("examples", [25, pytest.param(1500, marks=pytest.mark.slow)])
ODD_NUMBERS = [0, -1, 1, 2**31, 10**400, 1e308, -1e308, float("nan"), float("inf"), 0.5, True, False]
ODD_TEXTS = [
    "",
    " ",
    "x",
    "12",
    "nan",
    "é\u202e",
    "\0",
    "a\0b",
    "\ud800",
    "x\ny",
    "\x1b[31m",
    "../../x.png",
    "/etc/passwd",
    "..",
]
ODD_VALUES = st.sampled_from([None, *ODD_NUMBERS, *ODD_TEXTS, [], {}, [None], [1], [1, 2], [[1, 2]], {"a": 1}])
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
SEPARATORS = st.sampled_from([",", ";", "\t"])


def explore(examples, check, **strategies):
    """Call `check` with values of the strategies, so many times; the short run is the same each time."""
    config = settings(
        max_examples=examples,
        derandomize=examples < 100,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    config(given(**strategies)(check))()


def refused(opening, file):
    """The dataset that a function opens; None where it refuses, in one line that names the file or its folder."""
    try:
        dataset = opening()
        list(dataset)
        return dataset
    except DataError as error:
        message = str(error)
        assert message.isprintable() and len(message) < 1100, message
        assert str(file) in message or str(file.parent) in message, message


def check_names(dataset, folder):
    """Every image has a name of its own, printable, that leads nowhere, and lies in the folder."""
    ids = [dataset.annotation(i)["image_id"] for i in range(len(dataset))]
    assert len(set(ids)) == len(ids)
    for i, own in enumerate(ids):
        assert own.isprintable() and ".." not in own.split("/") and not own.startswith("/")
        assert dataset.path_of(i).resolve().is_relative_to(folder.resolve())


@st.composite
def spoilt_bytes(draw, content):
    """Bytes with flips, cuts, and insertions."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(["flip", "cut", "drop", "insert", "repeat"]))
        if kind == "flip" and data:
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[place:]
        elif kind == "drop":
            del data[place : place + draw(st.integers(1, 50))]
        elif kind == "insert":
            data[place:place] = draw(
                st.one_of(st.binary(max_size=8), st.sampled_from([b"\n", b",", b'"', b"9" * 5000]))
            )
        else:
            data[place:place] = data[place : place + 20]
    return bytes(data)


# CLEVR


@pytest.fixture(scope="module")
def scenes_root(tmp_path_factory):
    """Four scenes of three objects."""
    root = tmp_path_factory.mktemp("scenes")
    write_clevr(root, "val", [3] * 4, size=(60, 40))
    return root


def check_scenes(root):
    """Whatever the scenes file says: it is refused, or every position is the file's and inside its image."""
    file = root / "scenes" / "CLEVR_val_scenes.json"
    dataset = refused(lambda: Clevr(root, "val", (1, 9), resolution=8), file)
    if dataset is not None:
        check_names(dataset, root)
        scenes = json.loads(file.read_bytes())["scenes"]
        for i, row in enumerate(dataset.rows):
            item = dataset.annotation(i)
            found = item["conds"][item["mask"] > 0]
            expected = [thing["pixel_coords"] for thing in scenes[row]["objects"]]
            assert all(type(x) in (int, float) and math.isfinite(x) for own in expected for x in own)
            torch.testing.assert_close(
                found * torch.tensor([60.0, 40.0]), torch.tensor([p[:2] for p in expected]).float()
            )
            assert 0 <= found.min() and found.max() <= 1


@st.composite
def spoilt_json(draw, value):
    """A JSON value with one to three of its parts replaced, removed, doubled or wrapped."""
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(1, 3))):
        parent, key = value, None
        while isinstance(parent, dict | list) and parent and (key is None or draw(st.integers(0, 3))):
            if key is not None:
                parent = parent[key]
                if not isinstance(parent, dict | list) or not parent:
                    break
            holder = parent
            key = draw(st.sampled_from(sorted(parent) if isinstance(parent, dict) else range(len(parent))))
        if key is None:
            break
        kind = draw(st.sampled_from(["set", "set", "delete", "double", "wrap"]))
        if kind == "set":
            holder[key] = copy.deepcopy(draw(ODD_VALUES))  # what is changed below must not be the strategy's own
        elif kind == "delete":
            del holder[key]
        elif kind == "double" and isinstance(holder, list):
            holder.insert(key, holder[key])
        else:
            holder[key] = [holder[key]]
    return value


@effort
def test_spoilt_scenes(scenes_root, tmp_path, examples):
    root = Path(shutil.copytree(scenes_root, tmp_path / "data"))
    file = root / "scenes" / "CLEVR_val_scenes.json"
    contents = json.loads(file.read_text())
    for scene in contents["scenes"]:
        scene.pop("directions"), scene.pop("relationships")

    def check_tree(value):
        file.write_text(json.dumps(value))
        check_scenes(root)

    def check_bytes(data):
        file.write_bytes(data)
        check_scenes(root)

    explore(examples, check_tree, value=spoilt_json(contents))
    explore(examples, check_bytes, data=spoilt_bytes(json.dumps(contents).encode()))


@effort
def test_sound_scenes(tmp_path, examples):
    point = st.tuples(st.floats(0, 60, width=32), st.floats(0, 40, width=32), st.floats(1, 20))
    scenes = st.lists(st.lists(point, min_size=1, max_size=9, unique=True), min_size=1, max_size=3)

    def check(coords, encoding, slashes):
        root = tmp_path / "data"
        shutil.rmtree(root, ignore_errors=True)
        whole = [[[round(x), round(y), 9.0] for x, y, _ in own] for own in coords]  # what is drawn
        file = write_clevr(root, "val", coords=whole, size=(60, 40))
        contents = json.loads(file.read_text())
        for scene, own in zip(contents["scenes"], coords, strict=True):
            scene["image_filename"] = slashes + scene["image_filename"]
            for thing, p in zip(scene["objects"], own, strict=True):
                thing["pixel_coords"] = list(p)
        file.write_text(json.dumps(contents), encoding=encoding)
        check_scenes_of(Clevr(root, "val", (1, 9), resolution=8), coords)

    def check_scenes_of(dataset, coords):
        assert len(dataset) == len(coords)
        for i, own in enumerate(coords):
            expected = torch.tensor([p[:2] for p in own]) / torch.tensor([60.0, 40.0])
            torch.testing.assert_close(dataset.annotation(i)["conds"][: len(own)], expected)

    explore(examples, check, coords=scenes, encoding=ENCODINGS, slashes=st.sampled_from(["", "./", "val\\", "/a/val/"]))


# CelebA

NAMES = ["Male", "Smiling", "Eyeglasses"]
ROWS = st.lists(st.lists(st.sampled_from([1, -1]), min_size=3, max_size=3), min_size=1, max_size=5)


def face_folder(root, number):
    """A folder of CelebA's with so many images, and no tables."""
    shutil.rmtree(root, ignore_errors=True)
    (root / "img_align_celeba").mkdir(parents=True)
    picture = Image.new("RGB", (9, 11), "green")
    for i in range(number):
        picture.save(root / "img_align_celeba" / f"{i + 1:06d}.jpg")
    return root


@effort
def test_sound_tables(tmp_path, examples):
    def check(rows, encoding, separator, quoted, index, decimals, count):
        root = face_folder(tmp_path / "data", len(rows))
        lines = [["image_id", *NAMES], *([f"{i + 1:06d}.jpg", *map(str, row)] for i, row in enumerate(rows))]
        if decimals:
            lines = [[cell + ".0" if cell in ("1", "-1") else cell for cell in own] for own in lines]
        if index:
            lines = [[str(n - 1) if n else "", *own] for n, own in enumerate(lines)]
        if quoted:
            lines = [[f'"{cell}"' for cell in own] for own in lines]
        text = "\n".join([*([str(len(rows))] if count else []), *(separator.join(own) for own in lines)])
        (root / "list_attr_celeba.csv").write_text(text, encoding=encoding)
        faces = CelebA(root, "train", "all", "all", resolution=8)
        assert faces.attributes == tuple(NAMES) and faces.values.tolist() == [[int(x > 0) for x in row] for row in rows]

    flags = {name: st.booleans() for name in ("quoted", "index", "decimals", "count")}
    explore(examples, check, rows=ROWS, encoding=ENCODINGS, separator=SEPARATORS, **flags)


@effort
def test_spoilt_tables(tmp_path, examples):
    root = face_folder(tmp_path / "data", 4)
    rows = [f"{i + 1:06d}.jpg,-1,{i % 2 * 2 - 1},1" for i in range(4)]
    table = "\n".join([",".join(["image_id", *NAMES]), *rows]) + "\n"
    partition = "image_id,partition\n" + "".join(f"{i + 1:06d}.jpg,0\n" for i in range(4))
    files = {"list_attr_celeba.csv": table, "list_eval_partition.csv": partition}

    def check(name, data):
        for own, text in files.items():
            (root / own).write_text(text)
        (root / name).write_bytes(data)
        faces = refused(lambda: CelebA(root, "train", "all", "all", resolution=8), root / name)
        if faces is not None:
            check_names(faces, root)
            assert set(np.unique(faces.values)) <= {0, 1} and 1 <= len(faces) <= 4

    spoilt = st.one_of(*(st.tuples(st.just(name), spoilt_bytes(text.encode())) for name, text in files.items()))
    explore(examples, lambda pair: check(*pair), pair=spoilt)


# Animals

CLASSES = ["cat", "dog", "polar bear"]
LABELS = st.lists(st.lists(st.sampled_from(CLASSES), min_size=1, max_size=3, unique=True), min_size=1, max_size=3)


def labels_text(labels, form):
    """The labels as people write them in a cell."""
    return {"list": repr(labels), "json": json.dumps(labels).replace('"', '""')}.get(form) or form.join(labels)


@effort
def test_sound_metadata(tmp_path, examples):
    def check(labels, encoding, separator, form, kind):
        root = tmp_path / "data"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        for i in range(len(labels)):
            Image.new("RGB", (6, 6)).save(root / f"{i}.png")
        rows = [(f"{i}.png", own) for i, own in enumerate(labels)]
        if kind == "jsonl":
            text = "\n".join(json.dumps({"file_name": name, "labels": own}) for name, own in rows)
        elif kind == "one-hot":
            text = separator.join(["file_name", *CLASSES])
            text += "".join("\n" + separator.join([n, *(str(int(c in own)) for c in CLASSES)]) for n, own in rows)
        else:
            text = f"file_name{separator}labels"
            text += "".join(f'\n{name}{separator}"{labels_text(own, form)}"' for name, own in rows)
        file = root / ("metadata.jsonl" if kind == "jsonl" else "metadata.csv")
        file.write_text(text, encoding=encoding)
        animals = Animals(root, CLASSES, (1, 3), resolution=8)
        assert [set(own) for own in animals.shown_classes] == [set(own) for own in labels]

    explore(
        examples,
        check,
        labels=LABELS,
        encoding=ENCODINGS,
        separator=SEPARATORS,
        form=st.sampled_from([";", ", ", "|", "list", "json"]),
        kind=st.sampled_from(["csv", "one-hot", "jsonl"]),
    )


@effort
def test_spoilt_metadata(tmp_path, examples):
    for i in range(3):
        Image.new("RGB", (6, 6)).save(tmp_path / f"{i}.png")
    table = "file_name,labels\n" + "".join(f"{i}.png,cat;dog\n" for i in range(3))
    rows = [{"file_name": f"{i}.png", "labels": ["cat", "dog"]} for i in range(3)]

    def check(name, data):
        for own in tmp_path.glob("metadata.*"):
            own.unlink()
        (tmp_path / name).write_bytes(data)
        animals = refused(lambda: Animals(tmp_path, CLASSES, (1, 3), resolution=8), tmp_path / name)
        if animals is not None:
            check_names(animals, tmp_path)
            assert all(own and set(own) <= set(CLASSES) and len(set(own)) == len(own) for own in animals.shown_classes)

    def check_lines(values):
        check("metadata.jsonl", "\n".join(map(json.dumps, values if isinstance(values, list) else [values])).encode())

    explore(examples, lambda data: check("metadata.csv", data), data=spoilt_bytes(table.encode()))
    explore(
        examples,
        lambda data: check("metadata.jsonl", data),
        data=spoilt_bytes("\n".join(map(json.dumps, rows)).encode()),
    )
    explore(examples, check_lines, values=spoilt_json(rows))


LISTS = {
    "metadata.jsonl": [
        {"file_name": f"{i}.png", "points": [[2, 3], [5, 1.5]], "split": "train", "Smiling": i % 2} for i in range(3)
    ],
    "coco.json": {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 6, "height": 6} for i in range(3)],
        "annotations": [
            {"image_id": i % 3, "category_id": 1, "bbox": [1, 1, 2, 3], "keypoints": [2, 2, i % 3]} for i in range(5)
        ],
        "categories": [{"id": 1, "name": "cup"}],
    },
}


@effort
def test_spoilt_labels(tmp_path, examples):
    """Labels of one's own, spoilt: refused in one line, or positions within the picture and values that are 0 or 1."""
    for i in range(3):
        Image.new("RGB", (6, 6)).save(tmp_path / f"{i}.png")

    def check(name, data):
        for own in (*tmp_path.glob("metadata.*"), *tmp_path.glob("*.json")):
            own.unlink()
        (tmp_path / name).write_bytes(data)
        scenes = refused(lambda: LabelledScenes(tmp_path, "train", (1, 3), resolution=8), tmp_path / name)
        faces = refused(lambda: LabelledFaces(tmp_path, "train", attributes="all", resolution=8), tmp_path / name)
        for dataset in filter(None, (scenes, faces)):
            check_names(dataset, tmp_path)
            for i in range(len(dataset)):
                conds = dataset.annotation(i)["conds"]
                assert ((conds >= 0) & (conds <= 1)).all() and dataset.annotation(i)["mask"].sum() >= 1

    def text_of(name, value):
        lines = value if name.endswith("l") and isinstance(value, list) else [value]
        return "\n".join(map(json.dumps, lines)).encode()

    table = "file_name;points;Smiling\n" + "".join(f"{i}.png;[[2, 3], [4, {i}]];{i % 2}\n" for i in range(3))
    explore(examples, lambda data: check("metadata.csv", data), data=spoilt_bytes(table.encode()))
    for name, value in LISTS.items():
        explore_one(examples, check, text_of, name, value)


def explore_one(examples, check, text_of, name, value):
    """Spoil one file in its bytes, and in its values."""
    explore(examples, lambda data: check(name, data), data=spoilt_bytes(text_of(name, value)))
    explore(examples, lambda spoilt: check(name, text_of(name, spoilt)), spoilt=spoilt_json(value))


# Pictures


@effort
def test_spoilt_pictures(tmp_path, examples):
    scene = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8))
    contents = {}
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        buffer = io.BytesIO()
        scene.save(buffer, kind)
        contents[kind] = buffer.getvalue()

    def check(data):
        path = tmp_path / "a.png"
        path.write_bytes(data)
        pictures = refused(lambda: Pictures([path], resolution=8), path)
        if pictures is not None:
            assert pictures[0]["pixel_values"].abs().max() <= 1
        skipping = refused(lambda: Pictures([path], resolution=8, skip_bad_images=True), path)
        assert (skipping is None) == (pictures is None)

    explore(examples, check, data=st.one_of(*(spoilt_bytes(content) for content in contents.values())))


@effort
def test_every_size_fits_the_square(examples):
    side = st.integers(1, 400)

    def check(width, height, resolution, fit):
        pixels = image_to_tensor(Image.new("RGB", (width, height), "white"), resolution, fit)
        assert pixels.shape == (3, resolution, resolution) and pixels.max() == 1
        left, top, shown_width, shown_height = fit_box((width, height), resolution, fit)
        inside = left >= 0 and top >= 0 and left + shown_width <= width + 1e-6 and top + shown_height <= height + 1e-6
        assert inside or fit in ("pad", "frame")  # these may show more than the picture
        if fit == "crop":  # a square of the picture, but for the rounding of its scaled side
            assert min(shown_width, shown_height) == pytest.approx(min(width, height))
            assert shown_width / shown_height == pytest.approx(1, abs=1 / resolution + 1e-6)
        if fit not in ("pad", "frame"):
            assert pixels.min() == 1

    explore(examples, check, width=side, height=side, resolution=st.integers(1, 64), fit=st.sampled_from(FITS))


# Names


NAME_PARTS = st.text(st.characters(exclude_categories=()), max_size=6).filter(lambda part: "\0" not in part)
FILE_NAMES = st.lists(NAME_PARTS, min_size=1, max_size=3).map("/".join)


@effort
def test_names_of_results_differ_where_the_files_do(examples):
    def check(names):
        ids = unique_ids(names)
        assert all(own.isprintable() for own in ids)
        full = {printable(name.replace("\\", "/")) for name in names}
        assert len(set(ids)) == len(names) or len(full) < len(names) or clash_of_stem_and_path(names)

    def clash_of_stem_and_path(names):
        """ "a.png" and "a.jpg" are called so in full, as a third file's stem may be: `admit` refuses that."""
        return len({os.path.splitext(name)[0] for name in names}) < len(names)

    explore(examples, check, names=st.lists(FILE_NAMES, min_size=1, max_size=5, unique=True))


@effort
def test_no_name_leads_out_of_its_folder(tmp_path, examples):
    folder = tmp_path / "images"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(b"")

    def check(name):
        try:
            found = locate_file(folder, name, "scenes.json, scene 1")
        except DataError as error:
            assert "scenes.json, scene 1" in str(error) and str(error).isprintable()
            return
        assert not os.path.isabs(found) and ".." not in found.replace("\\", "/").split("/")

    odd = st.sampled_from(["", ".", "..", "/", "\\", "secret.png", "C:", "a"])
    explore(
        examples,
        check,
        name=st.one_of(FILE_NAMES, st.lists(odd, max_size=5).map("/".join), st.lists(odd).map("\\".join)),
    )
