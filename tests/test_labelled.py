"""Pictures with labels of one's own: every form of the files, splits, units, refusals in one line, and the scripts."""

import hashlib
import json

import numpy as np
import pytest
import torch
from conftest import SEPARABLE_UNET, write_celeba, write_clevr
from PIL import Image
from test_scripts import check_refused, records_of

from igm import UserError
from igm.api import load_model
from igm.data import DataError, NothingAsked, find_dataset
from igm.data.clevr import Clevr
from igm.data.labelled import LabelledFaces, LabelledScenes
from igm.data.vocabulary import decode_objects

SIZE = (60, 40)
POINTS = {"a.png": [[6.0, 8.0]], "b.png": [[30, 20], [60, 40]], "c.png": [[0, 0], [15, 30], [45, 10]], "d.png": []}
SHARES = {name: [[x / 60, y / 40] for x, y in points] for name, points in POINTS.items()}


def write_pictures(folder, names=POINTS, size=SIZE):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise(size, 80 + number).convert("RGB").save(folder / name)


def write_jsonl(folder, rows):
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")


def coco_of(points, size=SIZE, **more):
    """A COCO file in which each object has a box of 4 x 2 pixels around its centre."""
    numbers = {name: 7 + i for i, name in enumerate(points)}
    images = [{"id": n, "file_name": name, "width": size[0], "height": size[1]} for name, n in numbers.items()]
    every = [(numbers[name], x, y) for name, own in points.items() for x, y in own]
    boxes = [
        {"id": i, "image_id": n, "category_id": 3, "bbox": [x - 2, y - 1, 4, 2], "iscrowd": 0}
        for i, (n, x, y) in enumerate(every)
    ]
    return {"images": images, "annotations": boxes, "categories": [{"id": 3, "name": "cup"}], **more}


def found(dataset):
    """{name: positions (K, 2)} of a dataset's items."""
    items = [dataset.annotation(i) for i in range(len(dataset))]
    return {f"{item['image_id']}.png": item["conds"][item["mask"] > 0].tolist() for item in items}


def check_found(dataset, expected):
    own = found(dataset)
    assert own.keys() == expected.keys()
    for name, points in expected.items():
        assert own[name] == [pytest.approx(point, abs=1e-6) for point in points]


def opened(root, split="train", counts=(1, 3), **options):
    return LabelledScenes(root, split, counts, resolution=16, **{"val_share": 0.0, **options})


FORMS = {
    "jsonl": lambda root: write_jsonl(root, [{"file_name": n, "points": p} for n, p in POINTS.items()]),
    "jsonl of shares": lambda root: write_jsonl(
        root, [{"file_name": n, "points": p, "coordinates": "normalised"} for n, p in SHARES.items()]
    ),
    "csv": lambda root: (root / "metadata.csv").write_text(
        "file_name,points\n" + "".join(f'{name},"{json.dumps(points)}"\n' for name, points in POINTS.items())
    ),
    "csv of Excel": lambda root: (root / "metadata.csv").write_bytes(
        ("\ufefffile_name;points\r\n" + "".join(f"{n};{json.dumps(p)}\r\n" for n, p in POINTS.items())).encode("utf-16")
    ),
    "coco": lambda root: (root / "annotations.json").write_text(json.dumps(coco_of(POINTS))),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_positions(tmp_path, form):
    """A picture's points over its width and height, by hand; the one without objects is left out, and that is said."""
    write_pictures(tmp_path)
    FORMS[form](tmp_path)
    assert find_dataset(tmp_path, "positions") is LabelledScenes
    dataset = opened(tmp_path)
    check_found(dataset, {name: points for name, points in SHARES.items() if points})
    assert "1 pictures with other numbers" in dataset.notes()[0]
    facts = dataset.facts()
    assert facts["num_objects"] == [1, 3] and facts["bounds"] == [0.0, 0.0, 1.0, 1.0]
    mirrored = opened(tmp_path, flip=True)
    assert mirrored.annotation(3)["conds"][0].tolist() == pytest.approx([1 - 0.1, 0.2])


def test_coordinates_may_be_declared_on_the_command_line(tmp_path):
    write_pictures(tmp_path)
    write_jsonl(tmp_path, [{"file_name": n, "points": p} for n, p in SHARES.items()])
    check_found(opened(tmp_path, coordinates="normalised"), {n: p for n, p in SHARES.items() if p})
    refuse(tmp_path, "metadata.jsonl, line 1", "60 x 40", "--coordinates normalised")
    pixels = found(opened(tmp_path, coordinates="pixels"))  # nearly in the corner, but somebody says so
    assert pixels["a.png"][0] == pytest.approx([0.1 / 60, 0.2 / 40])


def refuse(root, *words, kind=opened, **options):
    with pytest.raises(DataError) as caught:
        kind(root, **options)
    message = str(caught.value)
    assert message.isprintable() and all(word in message for word in words), message


GOOD = {"file_name": "a.png", "points": [[6, 8]]}
FAULTS = [
    ([{**GOOD, "points": [[61, 8]]}], ["line 1", "x = 61", "60 x 40", "points"]),
    ([GOOD, {**GOOD, "file_name": "b.png", "points": [[5, -3]]}], ["line 2", "y = -3"]),
    ([GOOD, {"file_name": "b.png"}], ["line 2", "points", "[] for a picture without"]),
    ([{**GOOD, "points": [[1, 2, 3]]}], ["line 1", "[x, y]"]),
    ([{**GOOD, "points": "6 8"}], ["line 1", "[x, y]"]),
    ([{**GOOD, "points": [[True, 2]]}], ["line 1", "[x, y]"]),
    ([{**GOOD, "points": [[float("nan"), 2]]}], ["line 1", "[x, y]"]),
    ([{**GOOD, "points": [[0.5, 0.5]]}], ["line 1", "--coordinates"]),
    ([{**GOOD, "points": [[0.5, 1.5]], "coordinates": "normalised"}], ["line 1", "leave 0 to 1"]),
    ([{**GOOD, "coordinates": "percent"}], ["line 1", "'percent'"]),
    ([{"points": [[6, 8]]}], ["line 1", "file_name"]),
    ([GOOD, GOOD], ["rows 1 and 2", "a.png"]),
    ([{**GOOD, "file_name": "gone.png"}], ["line 1", "gone.png", "missing"]),
    ([{**GOOD, "file_name": "../a.png"}], ["line 1", "../a.png"]),
    ([{**GOOD, "file_name": "\ud800.png"}], ["line 1", "ud800.png' is not the name of an image"]),
    ([{**GOOD, "width": 120, "height": 80}], ["line 1", "120 x 80", "60 x 40"]),
    ([{**GOOD, "split": "train"}, {**GOOD, "file_name": "b.png"}], ["line 2", "split is null"]),
    ([{**GOOD, "split": "dogs"}], ["line 1", "'dogs'"]),
    ([], ["metadata.jsonl", "no picture"]),
]


@pytest.mark.parametrize(("rows", "words"), FAULTS)
def test_faults_of_a_row_end_in_one_line(tmp_path, rows, words):
    write_pictures(tmp_path)
    write_jsonl(tmp_path, rows)
    refuse(tmp_path, *words, val_share=None if any("split" in row for row in rows) else 0.0)


def test_other_faults(tmp_path):
    write_pictures(tmp_path)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "points": [[6, 8]]\n')
    refuse(tmp_path, "line 1", "JSON object")
    (tmp_path / "metadata.csv").write_text("file_name,points\na.png,[[6, 8]]\n")
    refuse(tmp_path, "metadata.csv", "metadata.jsonl", "keep one")
    (tmp_path / "metadata.jsonl").unlink()
    refuse(tmp_path, "line 2", "quotes")
    (tmp_path / "metadata.csv").write_text("name,points\na.png,[]\n")
    refuse(tmp_path, "file_name")
    (tmp_path / "metadata.csv").unlink()
    for change, word in [
        ({"images": 3}, "not a COCO file"),
        ({"annotations": [{"image_id": 99, "bbox": [0, 0, 1, 1]}]}, "annotation 1"),
        ({"annotations": [{"image_id": 7, "bbox": [0, 0, 1]}]}, "annotation 1"),
        ({"categories": [{"id": 3}]}, "category 1"),
    ]:
        (tmp_path / "coco.json").write_text(json.dumps(coco_of(POINTS, **change)))
        refuse(tmp_path, "coco.json", word)
    (tmp_path / "coco.json").write_text(json.dumps(coco_of(POINTS, size=(30, 20))))
    refuse(tmp_path, "image 1", "30 x 20", "60 x 40")


def test_pictures_without_enough_objects(tmp_path):
    write_pictures(tmp_path)
    write_jsonl(tmp_path, [{"file_name": "d.png", "points": []}])
    with pytest.raises(NothingAsked, match="they have 0 to 0"):
        opened(tmp_path)


def test_a_folder_of_two_datasets_is_refused(tmp_path):
    write_clevr(tmp_path, "train", [3, 4])
    assert find_dataset(tmp_path, "positions") is Clevr
    FORMS["jsonl"](tmp_path)
    refuse(tmp_path, "CLEVR", "keep one")
    write_celeba(tmp_path, [(0, {"Smiling"})])
    refuse(tmp_path, "CelebA", kind=LabelledFaces)


def test_crowds_and_keypoints_of_coco(tmp_path):
    """The one visible keypoint is the place; with several the box's centre is; a crowd is no object."""
    write_pictures(tmp_path)
    annotations = [
        {"image_id": 7, "bbox": [0, 0, 10, 10], "keypoints": [30, 10, 2], "category_id": 3},
        {"image_id": 7, "bbox": [0, 0, 10, 10], "keypoints": [30, 10, 2, 12, 12, 1, 0, 0, 0]},
        {"image_id": 7, "bbox": [0, 0, 60, 40], "iscrowd": 1},
    ]
    (tmp_path / "x_coco.json").write_text(json.dumps(coco_of({"a.png": []}, annotations=annotations)))
    dataset = opened(tmp_path)
    check_found(dataset, {"a.png": [[0.5, 0.25], [5 / 60, 5 / 40]]})
    assert dataset.fields(0) == {"category": ["cup", None]}


def test_more_columns_are_kept_for_each_object(tmp_path):
    write_pictures(tmp_path)
    lines = ["file_name,points,colour,source", 'b.png,"[[30, 20], [60, 40]]","[""red"", ""blue""]",phone']
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    assert opened(tmp_path).fields(0) == {"colour": ["red", "blue"]}


# What objects are

KINDS = {"b.png": (["cup", "plate"], [3, 12]), "c.png": (["cup", "fork", "cup"], [12, 2, 3]), "a.png": (["fork"], [2])}


def write_things(root, points=POINTS, **changes):
    """Pictures whose objects have a kind and a number of spots; `changes` to the row of b.png, None takes a column out."""
    write_pictures(root, points)
    rows = [
        {
            "file_name": name,
            "points": points[name],
            "kind": kind,
            "spots": spots,
            "source": "phone",
            "area": [0.5] * len(kind),
        }
        for name, (kind, spots) in KINDS.items()
    ]
    rows[0] = {name: value for name, value in (rows[0] | changes).items() if value is not None}
    write_jsonl(root, rows)


def said(dataset):
    """{name: attributes of each object} as the conditions have them."""
    items = [dataset.annotation(i) for i in range(len(dataset))]
    return {f"{i['image_id']}.png": decode_objects(i["conds"][i["mask"] > 0], dataset.vocabulary) for i in items}


def test_columns_of_objects_become_attributes(tmp_path):
    """Of each object, in the order of the file; whole numbers by size; other columns are named and left alone."""
    write_things(tmp_path)
    dataset = opened(tmp_path, fields=("all",))
    vocabulary = {"kind": ("cup", "fork", "plate"), "spots": ("2", "3", "12")}
    assert dataset.facts()["vocabulary"] == vocabulary
    assert said(dataset) == {
        name: [{"kind": k, "spots": str(s)} for k, s in zip(*own, strict=True)] for name, own in KINDS.items()
    }
    assert "kind (3 values), spots (3 values); not learnt: area" in dataset.notes()[1]
    check_found(opened(tmp_path), {name: SHARES[name] for name in KINDS})  # places alone, as ever
    one = opened(tmp_path, fields=("spots",), flip=True)
    assert list(one.vocabulary) == ["spots"] and "not learnt: kind, area" in one.notes()[1]
    assert one.annotation(1)["conds"][:, 2:].equal(one.annotation(1 + len(KINDS))["conds"][:, 2:])
    one.speak({"spots": ("12", "2", "3", "99")}, "the checkpoint")
    assert said(one)["c.png"] == [{"spots": "12"}, {"spots": "2"}, {"spots": "3"}]


def test_attributes_in_a_table_and_coco(tmp_path):
    write_pictures(tmp_path)
    cell = '"[""red"", true]"'
    (tmp_path / "metadata.csv").write_text(f'file_name,points,colour\nb.png,"[[30, 20], [60, 40]]",{cell}\n')
    assert said(opened(tmp_path, fields=("all",))) == {"b.png": [{"colour": "red"}, {"colour": "true"}]}
    (tmp_path / "metadata.csv").unlink()
    (tmp_path / "annotations.json").write_text(json.dumps(coco_of({"a.png": POINTS["a.png"]})))
    assert said(opened(tmp_path, fields=("category",))) == {"a.png": [{"category": "cup"}]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": None}, ["line 1: it has no kind", "leave kind out of --fields"]),
        ({"kind": ["cup"]}, ["line 1: kind has 1 values for 2 points"]),
        ({"kind": "cup"}, ["line 1: kind is 'cup', expected a list"]),
        ({"kind": ["cup", None]}, ["line 1, object 2: it has no kind"]),
        ({"kind": ["cup", ""]}, ["line 1, object 2: kind is ''"]),
        ({"kind": ["cup", 0.5]}, ["line 1, object 2: kind is 0.5", "whole number"]),
        ({"kind": ["cup", "x" * 101]}, ["line 1, object 2: kind is 'xxx"]),
        ({"kind": ["cup", "a\nb"]}, ["line 1, object 2: kind is"]),
        ({"position": ["left", "right"]}, ["'position' cannot be an attribute", "rename it"]),
        ({"a=b": ["left", "right"]}, ["'a=b' cannot be an attribute"]),
    ],
)
def test_faults_of_attributes_of_objects(tmp_path, changes, words):
    write_things(tmp_path, **changes)
    refuse(tmp_path, *words, fields=("all",))
    assert len(opened(tmp_path)) == 3  # places alone can be learnt all the same


def test_fields_that_do_not_exist_or_are_too_many(tmp_path):
    write_things(tmp_path)
    refuse(tmp_path, "--fields colour", "says kind, spots", fields=("kind", "colour"))
    refuse(tmp_path, "--fields area", "says kind, spots", fields=("area",))
    write_jsonl(tmp_path, [{"file_name": name, "points": points} for name, points in POINTS.items()])
    refuse(tmp_path, "--fields all", "nothing of its objects", fields=("all",))
    many = {f"{n}.png": [[6, 8]] for n in range(45)}
    write_pictures(tmp_path, many)
    names = [{"file_name": n, "points": p, "one": [n], "two": [n]} for n, p in many.items()]
    write_jsonl(tmp_path, names)
    refuse(tmp_path, "one 45, two 45", "2,025 ways", "--fields", fields=("all",))


def test_a_value_that_a_checkpoint_does_not_know(tmp_path):
    write_things(tmp_path)
    dataset = opened(tmp_path)
    with pytest.raises(
        DataError, match=r"line 2, object 2: kind is 'fork', which the checkpoint does not know .*cup, plate"
    ):
        dataset.speak({"kind": ("cup", "plate")}, "the checkpoint")
    with pytest.raises(DataError, match=r"line 1: it has no colour, .*--places_only"):
        dataset.speak({"colour": ("red", "blue")}, "the checkpoint")


# Splits


def test_the_split_is_a_column(tmp_path):
    write_pictures(tmp_path)
    words = {"a.png": "Training", "b.png": "valid", "c.png": "test"}
    write_jsonl(tmp_path, [{"file_name": n, "points": POINTS[n], "split": word} for n, word in words.items()])
    for split, name in (("train", "a.png"), ("val", "b.png"), ("validation", "b.png"), ("test", "c.png")):
        assert list(found(opened(tmp_path, split, val_share=None))) == [name]
    refuse(tmp_path, "--val_share", "column split", val_share=0.5)


@pytest.mark.parametrize("layout", ["metadata", "coco", "roboflow"])
def test_each_split_has_a_file(tmp_path, layout):
    parts = {"train": {"a.png": POINTS["a.png"]}, "val": {"b.png": POINTS["b.png"]}}
    for split, points in parts.items():
        folder = tmp_path / {"metadata": split, "coco": f"{split}2017", "roboflow": f"{split}id"[:5]}[layout]
        write_pictures(folder, points)
        if layout == "metadata":
            write_jsonl(folder, [{"file_name": n, "points": p} for n, p in points.items()])
        elif layout == "coco":
            (tmp_path / "annotations").mkdir(exist_ok=True)
            (tmp_path / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(coco_of(points)))
        else:
            (folder / "_annotations.coco.json").write_text(json.dumps(coco_of(points)))
    for split, points in parts.items():
        check_found(opened(tmp_path, split, val_share=None), {name: SHARES[name] for name in points})
    refuse(tmp_path, "train, val", "--split", split="test", val_share=None)


def test_without_a_split_the_names_decide(tmp_path):
    """SHA-256 of the name, its first 8 bytes as a fraction: a picture keeps its split when others are added."""
    names = [f"{i}.png" for i in range(40)]
    write_pictures(tmp_path, names)
    share = {n: int(hashlib.sha256(n.encode()).hexdigest()[:16], 16) / 16**16 for n in names}

    def split_of(listed, split):
        write_jsonl(tmp_path, [{"file_name": name, "points": [[6, 8]]} for name in listed])
        return set(found(opened(tmp_path, split, val_share=0.3)))

    assert split_of(names, "val") == {n for n in names if share[n] < 0.3}
    assert split_of(names, "train") == {n for n in names if share[n] >= 0.3}
    assert split_of(names[20:], "val") == {n for n in names[20:] if share[n] < 0.3}
    refuse(tmp_path, "split test", "train (", split="test")


# Attributes


def write_attributes(root, lines, header="file_name,Smiling,Round"):
    write_pictures(root, [line.partition(",")[0] for line in lines])
    (root / "metadata.csv").write_text("\n".join([header, *lines]) + "\n")


def faces(root, **options):
    return LabelledFaces(root, **{"attributes": "all", "resolution": 16, "val_share": 0.0, **options})


@pytest.mark.parametrize("cells", [("1", "-1"), ("1", "0"), ("true", "False")])
def test_attributes_are_columns(tmp_path, cells):
    yes, no = cells
    write_attributes(tmp_path, [f"a.png,{yes},{no}", f"b.png,{no},{no}", f"c.png,{yes},{yes}"])
    assert find_dataset(tmp_path, "attributes") is LabelledFaces
    dataset = faces(tmp_path)
    assert dataset.facts() == {"attributes": ["Smiling", "Round"], "frequencies": [0.6667, 0.3333]}
    expected = torch.tensor([[0, 1, 0, 0], [0, 0, 1, 0]]).float()  # Smiling is 1, Round is 0
    assert dataset.annotation(0)["conds"].equal(expected)
    one = faces(tmp_path, attributes=["Round"])
    assert [one.annotation(i)["conds"].tolist() for i in range(3)] == [[[1, 0]], [[1, 0]], [[0, 1]]]
    assert faces(tmp_path, attributes=["Smiling"], max_images=1).doubts()


def test_domains_are_told_by_a_column_male(tmp_path):
    write_attributes(tmp_path, ["a.png,1,0", "b.png,0,1"], "file_name,Smiling,Male")
    assert [faces(tmp_path, domain=d).annotation(0)["image_id"] for d in ("female", "male")] == ["a", "b"]
    write_attributes(tmp_path, ["a.png,1,0", "b.png,0,1"])
    refuse(tmp_path, "Male", "--domain all", kind=faces, domain="female")


@pytest.mark.parametrize(
    ("lines", "words", "options"),
    [
        (["a.png,1,-1", "b.png,0,1", "c.png,-1,1"], ["line 3", "Smiling is 0", "-1 in other rows"], {}),
        (["a.png,1,-1", "b.png,perhaps,1"], ["line 3", "'perhaps'"], {}),
        (["a.png,red,blue"], ["no column of 1 and -1"], {}),
        (["a.png,1,-1"], ["Smilng", "Smiling"], {"attributes": ["Smilng"]}),
        (["a.png,1,-1"], ["--partition rows"], {"partition": "rows"}),
        (["a.png,1"], ["line 2", "2 cells"], {}),
    ],
)
def test_faults_of_attributes(tmp_path, lines, words, options):
    write_attributes(tmp_path, lines)
    refuse(tmp_path, *words, kind=faces, **options)


# The scripts


def test_training_and_evaluation_on_own_labels(run_main, training_args, tiny_vae_dir, tmp_path):
    root = tmp_path / "own"
    write_pictures(root)
    FORMS["jsonl of shares"](root)
    arguments = training_args(root, "position_unet")
    flags = ["--object_counts", "1-3", "--val_share", "0", "--coordinates", "normalised"]
    code, out, err = run_main("train_clevr", *arguments(), *flags)
    assert code == 0, err
    assert "3 training images" in out and "Validation pictures show training images" in out
    facts = json.loads((tmp_path / "out" / "clevr" / "checkpoint-2" / "igm.json").read_text())
    assert facts["num_objects"] == [1, 3]
    quick = f"--num_candidates 16 --num_draws 2 --num_steps 1 --no_figures --output_dir {tmp_path / 'out'}".split()
    given = ["--dataset_root", root, "--split", "train", "--object_counts", "1-3", "--val_share", 0]
    code, _, err = run_main("eval_clevr", *given, *quick, "--pretrained_model_name", tiny_vae_dir)
    assert code == 0, err
    truth = {r["image_id"]: r["conds_true"] for r in records_of(tmp_path / "out" / "clevr" / "eval-pursuit")}
    for name in ("a", "b", "c"):
        assert truth[name] == [pytest.approx(point, abs=1e-6) for point in SHARES[f"{name}.png"]]


def test_attributes_of_objects_from_training_to_answers(run_main, training_args, tiny_vae_dir, tmp_path):
    """Trained, evaluated, exported, and asked in Python by the names of the labels."""
    root, config = tmp_path / "own", tmp_path / "network.json"
    write_things(root)
    config.write_text(json.dumps({**SEPARABLE_UNET, "cond_size": 8}))
    train = [*training_args(root, "separable_unet")(unet_config=config), "--object_counts", "1-3", "--val_share", "0"]
    code, out, err = run_main("train_clevr", *train, "--fields", "all")
    assert code == 0 and "kind (3 values), spots (3 values)" in out, err
    checkpoint = tmp_path / "out" / "clevr" / "checkpoint-2"
    facts = json.loads((checkpoint / "igm.json").read_text())
    assert facts["task"] == "objects" and facts["vocabulary"]["spots"] == ["2", "3", "12"]
    quick = f"--num_candidates 16 --num_draws 2 --num_steps 1 --no_figures --output_dir {tmp_path / 'out'}".split()
    quick += ["--pretrained_model_name", tiny_vae_dir, "--checkpoint", checkpoint]
    given = ["--dataset_root", root, "--split", "train", "--object_counts", "1-3", "--val_share", 0]
    code, out, err = run_main("eval_clevr", *given, *quick)
    assert code == 0 and "kind" in out and "spots" in out, err
    folder = tmp_path / "out" / "clevr" / "eval-pursuit"
    records = {record["image_id"]: record for record in records_of(folder)}
    assert records["b"]["objects_true"] == [{"kind": "cup", "spots": "3"}, {"kind": "plate", "spots": "12"}]
    code, _, err = run_main("igm.evaluation.export", folder, "--format", "coco", "--output", tmp_path / "found.json")
    assert code == 0, err
    coco = json.loads((tmp_path / "found.json").read_text())
    names = {own["id"]: own["name"] for own in coco["categories"]}
    for own, thing in zip(coco["annotations"], (o for r in records.values() for o in r["objects_pred"]), strict=True):
        assert names[own["category_id"]] == f"{thing['kind']} {thing['spots']}" and own["attributes"] == thing
    model = load_model(str(checkpoint))
    scene = model(root / "b.png", num_objects=2, num_candidates=16, num_draws=2)
    for own in scene.objects:
        assert own.spots == own.attributes["spots"] and own.kind in facts["vocabulary"]["kind"]
        assert own.likely(spots="3") == own.shares["spots"]["3"]
    assert isinstance(model.find(root / "b.png", 2, spots=3), list)
    with pytest.raises(UserError, match="knows 2, 3, 12"):
        model.find(root / "b.png", 2, spots=4)
    write_things(tmp_path / "odd", kind=["cup", "knife"])
    code, _, err = run_main("eval_clevr", "--dataset_root", tmp_path / "odd", *given[2:], *quick)
    check_refused(
        code, err, "line 1, object 2: kind is 'knife', which the checkpoint does not know", "cup, fork, plate"
    )
    code, _, err = run_main("train_clevr", *train, "--fields", "kind")
    check_refused(code, err, "of size 8", "have size 5", "cond_size")


def test_the_small_models_config_trains_on_own_labels(run_main, tmp_path):
    """The codec is fitted to these pictures; a share of them is varied."""
    write_pictures(tmp_path / "own", [f"{i}.png" for i in range(12)])
    points = np.random.default_rng(0).uniform(4, 36, (12, 2, 2)).round(1).tolist()
    write_jsonl(tmp_path / "own", [{"file_name": f"{i}.png", "points": own} for i, own in enumerate(points)])
    flags = [
        "--object_counts",
        "1-3",
        "--max_train_steps",
        1,
        "--train_batch_size",
        2,
        "--output_dir",
        tmp_path / "out",
    ]
    command = ["--config", "configs/clevr-mini/train.yaml", "--dataset_root", tmp_path / "own"]
    code, out, err = run_main("train_clevr", *command, *flags)
    assert code == 0 and "Codec:" in out, err
    assert (tmp_path / "out" / "clevr-mini" / "checkpoint-1" / "igm.json").is_file()


def test_attributes_of_ones_own_and_pictures_without_labels(run_main, training_args, tiny_vae_dir, tmp_path):
    root = tmp_path / "own"
    write_attributes(root, ["a.png,1,-1,1", "b.png,-1,1,-1", "c.png,1,1,1"], "file_name,Smiling,Round,Tall")
    three = ["--attributes", "Smiling", "Round", "Tall"]
    arguments = training_args(root, "attribute_unet")()
    code, out, err = run_main("train_celeba", *arguments, *three, "--domain", "all", "--val_share", 0)
    assert code == 0 and "own" in out, err
    quick = ["--num_draws", 2, "--no_figures", "--output_dir", tmp_path / "out"]
    quick += ["--pretrained_model_name", tiny_vae_dir]
    given = ["--dataset_root", root, "--split", "train", "--domains", "all", "--val_share", 0]
    code, out, err = run_main("eval_celeba", *given, *three, *quick)
    assert code == 0 and "exact match" in out, err
    folder = tmp_path / "out" / "celeba"
    assert [r["num_true"] for r in records_of(folder / "eval-discrete")] == [3, 3, 3]
    code, out, err = run_main(
        "eval_celeba", "--images", root / "a.png", *three, *quick, "--checkpoint", folder / "checkpoint-2"
    )
    assert code == 0, err
    (record,) = records_of(folder / "eval-discrete-images")
    assert record["conds_true"] is None and record["concept_names"] == three[1:] and record["num_pred"] == 3


def test_options_of_own_labels_are_refused_elsewhere(run_main, no_model, clevr_root, celeba_root):
    for script, root in (("train_clevr", clevr_root), ("eval_clevr", clevr_root), ("train_celeba", celeba_root)):
        code, _, err = run_main(script, "--dataset_root", root, "--val_share", "0.2")
        assert code == 2 and "--val_share" in err and len(err.strip().splitlines()) == 1
