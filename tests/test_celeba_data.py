"""CelebA: both layouts, attributes by name, splits, and every fault of the files."""

import numpy as np
import pytest
import torch
from conftest import write_celeba
from PIL import Image

import igm.data.celeba
from igm.data import DataError
from igm.data.celeba import CelebA
from igm.data.images import decode_image, image_to_tensor
from igm.encoding import all_concepts, one_hot


def test_items_of_both_layouts(celeba_root):
    female, male = (CelebA(celeba_root, "test", domain, resolution=16) for domain in ("female", "male"))
    assert len(CelebA(celeba_root)) == 8 and len(female) == len(male) == 4
    item = male[2]  # black hair, glasses, not smiling
    assert item["conds"].tolist() == [[0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 0]]
    assert item["mask"].tolist() == [1, 1, 1] and item["image_id"] == "000014"
    with Image.open(male.path_of(2)) as image:
        small = np.asarray(image.convert("RGB").resize((16, 16), Image.Resampling.BILINEAR))
    expected = torch.from_numpy(small / 127.5 - 1).permute(2, 0, 1).float()
    # the file is read at half its size: nearly the same pixels
    assert item["pixel_values"].shape == (3, 16, 16) and (item["pixel_values"] - expected).abs().mean() < 0.05
    assert female[2]["conds"].equal(item["conds"]) and female[2]["image_id"] == "000013"


def test_the_layouts_give_the_same_items(tmp_path):
    rows = [(0, {"Smiling"}), (1, {"Male"}), (0, {"Eyeglasses"})]
    for layout in ("original", "kaggle"):
        write_celeba(tmp_path / layout, rows, layout=layout)
    one, other = (CelebA(tmp_path / layout, resolution=16) for layout in ("original", "kaggle"))
    assert len(one) == len(other) == 2
    for a, b in zip(one, other, strict=True):
        assert a["pixel_values"].equal(b["pixel_values"]) and a["conds"].equal(b["conds"])
        assert a["image_id"] == b["image_id"]
    assert one.fingerprint() != other.fingerprint() != CelebA(tmp_path / "kaggle", resolution=32).fingerprint()


def test_attributes_are_found_by_name_not_by_column(tmp_path):
    write_celeba(tmp_path, [(0, {"Smiling"}), (0, {"Male"})], names=["Male", "Smiling", "Black_Hair", "Eyeglasses"])
    assert CelebA(tmp_path, attributes=["Black_Hair", "Smiling"]).values.tolist() == [[0, 1]]
    assert CelebA(tmp_path, attributes="all", domain="male").values.tolist() == [[1, 0, 0, 0]]
    assert CelebA(tmp_path, attributes=["all"], domain="all").attributes == (
        *("Male", "Smiling", "Black_Hair", "Eyeglasses"),
    )


def test_joint_label_is_the_sum_of_the_concepts(celeba_root):
    separate, joint = (CelebA(celeba_root, joint=j).annotation(2) for j in (False, True))
    assert joint["conds"].tolist() == [[0, 1, 0, 1, 1, 0]] and joint["mask"].tolist() == [1]
    assert separate["conds"].sum(0).equal(joint["conds"][0])
    assert one_hot(torch.tensor([1, 1, 0])).equal(all_concepts(3)[[1, 3, 4]]) and separate["mask"].sum() == 3


def test_mirror_images_follow_the_faces(celeba_root):
    faces = CelebA(celeba_root, resolution=16, flip=True)
    assert len(faces) == 16 and faces[9]["image_id"] == faces[1]["image_id"] + "_mirrored"
    assert faces[9]["pixel_values"].equal(faces[1]["pixel_values"].flip(-1)) and faces[9]["conds"].equal(
        faces[1]["conds"]
    )


def test_without_a_partition_file_the_published_rows(tmp_path, monkeypatch):
    write_celeba(tmp_path, [(2, {"Smiling"} if i in (0, 5) else set()) for i in range(6)], partition=False)
    monkeypatch.setattr(igm.data.celeba, "TRAIN_ROWS", 3)
    monkeypatch.setattr(igm.data.celeba, "TEST_ROWS", 5)
    ids = {split: [item["image_id"] for item in CelebA(tmp_path, split)] for split in ("train", "val", "test")}
    assert ids == {"train": ["000001", "000002", "000003"], "val": ["000004", "000005"], "test": ["000006"]}
    assert (igm.data.celeba.TRAIN_ROWS, igm.data.celeba.TEST_ROWS) == (3, 5)


def test_the_whole_table_is_split_by_rows_and_smaller_ones_by_the_file(tmp_path, monkeypatch):
    write_celeba(tmp_path, [(2, {"Smiling"} if i in (0, 5) else set()) for i in range(6)])
    by_file = CelebA(tmp_path, "test")
    assert len(by_file) == 6 and "list_eval_partition.txt" in by_file.partition_note
    monkeypatch.setattr(igm.data.celeba, "TRAIN_ROWS", 3)
    monkeypatch.setattr(igm.data.celeba, "TEST_ROWS", 5)  # the six rows are the whole table now
    published = CelebA(tmp_path, "test")
    assert [item["image_id"] for item in published] == ["000006"] and "published" in published.partition_note
    assert len(CelebA(tmp_path, "test", partition="official")) == 6
    monkeypatch.setattr(igm.data.celeba, "TEST_ROWS", 6)
    assert len(CelebA(tmp_path, "test")) == 6
    assert len(CelebA(tmp_path, "train", partition="rows")) == 3
    (tmp_path / "list_eval_partition.txt").unlink()
    with pytest.raises(DataError, match="list_eval_partition.txt .* is missing, which --partition official needs"):
        CelebA(tmp_path, "train", partition="official")
    with pytest.raises(ValueError, match="'files'"):
        CelebA(tmp_path, partition="files")


def test_facts_and_attributes_without_contrast(celeba_root):
    faces = CelebA(celeba_root, attributes=["Black_Hair", "Male", "Smiling"])
    assert faces.facts() == {"attributes": ["Black_Hair", "Male", "Smiling"], "frequencies": [0.5, 0.0, 0.25]}
    assert faces.constant_attributes() == ["Male"]


def change_line(path, number, old, new):
    lines = path.read_text().split("\n")
    assert old in lines[number - 1]
    lines[number - 1] = lines[number - 1].replace(old, new, 1)
    path.write_text("\n".join(lines))


def spoil(root, path, fault):
    images = sorted(root.rglob("*.jpg"))
    if fault == "no attribute file":
        path.unlink()
    elif fault == "row without image":
        images[1].unlink()
    elif fault == "image without row":
        images[0].with_name("000099.jpg").write_bytes(images[0].read_bytes())
    elif fault == "truncated":
        images[1].write_bytes(images[1].read_bytes()[:-200])
    elif fault == "cut short":
        path.write_text("\n".join(path.read_text().split("\n")[:4]) + "\n")
    elif fault == "not a number":
        change_line(path, 4, "-1", "x")
    elif fault == "value":
        change_line(path, 4, "-1", "0")
    elif fault == "short row":
        change_line(path, 4, " -1", "")
    elif fault == "not in partition":
        change_line(root / "list_eval_partition.txt", 2, "000002", "000042")
    elif fault == "split number":
        change_line(root / "list_eval_partition.txt", 2, " 0", " 7")


@pytest.mark.parametrize(
    "fault, parts",
    [
        ("no attribute file", ["list_attr_celeba", "missing"]),
        ("row without image", ["list_attr_celeba.txt, line 4", "000002.jpg is missing"]),
        ("image without row", ["000099.jpg has no row in", "list_attr_celeba.txt"]),
        ("truncated", ["list_attr_celeba.txt, line 4", "000002.jpg is cut short"]),
        ("cut short", ["announces 3 rows and has 2"]),
        ("not a number", ["list_attr_celeba.txt, line 4", "'x'"]),
        ("value", ["list_attr_celeba.txt, line 4", "5_o_Clock_Shadow is 0", "1 or -1"]),
        ("short row", ["list_attr_celeba.txt, line 4", "39 values, expected 40"]),
        ("not in partition", ["list_attr_celeba.txt, line 4", "000002.jpg is not in", "list_eval_partition.txt"]),
        ("split number", ["list_eval_partition.txt, line 2", "split 7"]),
    ],
)
def test_faults_name_file_and_row(tmp_path, fault, parts):
    path = write_celeba(tmp_path, [(0, {"Smiling"}), (0, set()), (0, {"Eyeglasses"})])
    spoil(tmp_path, path, fault)
    with pytest.raises(DataError) as error:
        CelebA(tmp_path)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize(
    "options, parts",
    [
        ({"attributes": ["Eyeglases"]}, ["Eyeglases", "did you mean Eyeglasses?"]),
        ({"attributes": ["smiling"]}, ["did you mean Smiling?"]),
        ({"attributes": ["Smiling", "Smiling"]}, ["names one twice"]),
        ({"domain": "male"}, ["no male row in the train split"]),
        ({"split": "test"}, ["no row is in the test split"]),
    ],
)
def test_wrong_choices(tmp_path, options, parts):
    write_celeba(tmp_path, [(0, {"Smiling"}), (0, set())])
    with pytest.raises(DataError) as error:
        CelebA(tmp_path, **options)
    for part in parts:
        assert part in str(error.value)


def test_bad_images_are_left_out_on_request(tmp_path):
    path = write_celeba(tmp_path, [(0, {"Smiling"}), (0, set()), (0, {"Eyeglasses"})])
    for fault in ("truncated", "image without row"):
        spoil(tmp_path, path, fault)
    faces = CelebA(tmp_path, skip_bad_images=True)
    assert faces.num_skipped == 1 and [item["image_id"] for item in faces] == ["000001", "000003"]
    assert faces.values.tolist() == [[0, 0, 1], [0, 1, 0]]


def test_reading_a_jpeg_at_a_fraction_of_its_size(tmp_path):
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (7, 6, 3), dtype=np.uint8)).resize(
        (178, 218), Image.Resampling.BICUBIC
    )
    smooth.save(tmp_path / "face.jpg", quality=95)
    path = tmp_path / "face.jpg"
    assert decode_image(path, 64).size == (89, 109) and decode_image(path).size == (178, 218)
    whole, part = (image_to_tensor(decode_image(path, size), 64) for size in (None, 64))
    assert (whole - part).abs().mean() * 127.5 < 1  # grey levels
    assert image_to_tensor(decode_image(path, 128), 128).equal(image_to_tensor(decode_image(path), 128))


# The forms that tables come in


def rewrite(path, change, encoding="utf-8"):
    """Write a text file again after `change` of its lines."""
    path.write_text("\n".join(change(path.read_text().split("\n"))), encoding=encoding)


FORMS = {
    "byte order mark": (lambda lines: lines, "utf-8-sig"),
    "UTF-16": (lambda lines: lines, "utf-16"),
    "UTF-16 without a mark": (lambda lines: lines, "utf-16-le"),
    "Windows lines": (lambda lines: [line + "\r" for line in lines], "utf-8"),
    "semicolons": (lambda lines: [line.replace(",", ";") for line in lines], "utf-8"),
    "tabs": (lambda lines: [line.replace(",", "\t") for line in lines], "utf-8"),
    "blanks": (lambda lines: [line.replace(",", "  ") for line in lines], "utf-8"),
    "blanks after commas": (lambda lines: [line.replace(",", ", ") for line in lines], "utf-8"),
    "quotes": (lambda lines: ['"' + line.replace(",", '","') + '"' if line else "" for line in lines], "utf-8"),
    "index": (lambda lines: [f"{n - 1 if n else ''},{line}" if line else "" for n, line in enumerate(lines)], "utf-8"),
    "named index": (
        lambda lines: [f"{n - 1 if n else 'Unnamed: 0'},{line}" for n, line in enumerate(lines) if line],
        "utf-8",
    ),
    "index without a name": (
        lambda lines: [f"{n},{line}" if n and line else line for n, line in enumerate(lines)],
        "utf-8",
    ),
    "floats": (lambda lines: [line.replace(",1", ",1.0").replace(",-1", ",-1.0") for line in lines], "utf-8"),
    "commas at the end": (lambda lines: [line + "," if line else "" for line in lines], "utf-8"),
    "blank lines": (lambda lines: [part for line in lines for part in (line, "", ",,")], "utf-8"),
    "Excel's first line": (lambda lines: ["sep=;", *(line.replace(",", ";") for line in lines)], "utf-8"),
    "count of rows": (lambda lines: ["4", *lines], "utf-8"),
    "no name for the images": (lambda lines: [lines[0].removeprefix("image_id,"), *lines[1:]], "utf-8"),
    "Windows paths": (lambda lines: [line.replace("0000", "img_align_celeba\\0000") for line in lines], "utf-8"),
    "another suffix": (lambda lines: [line.replace(".jpg", ".png") for line in lines], "utf-8"),
    "no suffix": (lambda lines: [line.replace(".jpg", "") for line in lines], "utf-8"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_table_reads_as_the_plain_one(tmp_path, form):
    rows = [(0, {"Smiling"}), (0, {"Eyeglasses", "Black_Hair"}), (1, set()), (0, {"5_o_Clock_Shadow"})]
    names = ["5_o_Clock_Shadow", "Black_Hair", "Eyeglasses", "Male", "Smiling"]
    path = write_celeba(tmp_path, rows, layout="kaggle", names=names)
    plain = CelebA(tmp_path, attributes="all")
    rewrite(path, *FORMS[form])
    found = CelebA(tmp_path, attributes="all")
    assert found.attributes == plain.attributes and found.values.tolist() == plain.values.tolist()
    assert [found.path_of(i).name for i in range(3)] == ["000001.jpg", "000002.jpg", "000004.jpg"]
    assert [item["image_id"] for item in found] == ["000001", "000002", "000004"]


@pytest.mark.parametrize("words", [("train", "val", "test"), ("Training", "validation", "TEST"), ("0.0", "1.0", "2.0")])
def test_splits_in_words(tmp_path, words):
    write_celeba(tmp_path, [(0, set()), (1, set()), (2, {"Smiling"})], layout="kaggle")
    path = tmp_path / "list_eval_partition.csv"
    for number, word in enumerate(words):
        path.write_text(path.read_text().replace(f".jpg,{number}", f".jpg,{word}"))
    assert [CelebA(tmp_path, split)[0]["image_id"] for split in ("train", "val", "test")] == [
        "000001",
        "000002",
        "000003",
    ]


@pytest.mark.parametrize("suffix", [".png", ".JPG", ".jpeg"])
def test_files_of_another_suffix_than_listed(tmp_path, suffix):
    write_celeba(tmp_path, [(0, {"Smiling"}), (0, set())])
    plain = CelebA(tmp_path, resolution=16).values
    for path in sorted((tmp_path / "img_align_celeba").iterdir()):
        with Image.open(path) as picture:
            picture.save(path.with_suffix(suffix))
        path.unlink()
    faces = CelebA(tmp_path, resolution=16)
    assert faces.values.tolist() == plain.tolist() and faces[1]["image_id"] == "000002"
    assert faces.path_of(0).suffix == suffix
    faces.path_of(1).with_name("000077" + suffix).write_bytes(faces.path_of(1).read_bytes())
    with pytest.raises(DataError, match="000077.* has no row"):
        CelebA(tmp_path)


def test_hidden_files_and_other_files_beside_the_images(tmp_path):
    write_celeba(tmp_path, [(0, {"Smiling"}), (0, set())])
    for name in ("._000001.jpg", ".DS_Store", "readme.txt"):
        (tmp_path / "img_align_celeba" / name).write_bytes(b"no picture")
    assert len(CelebA(tmp_path)) == 2


def test_a_partition_file_that_lists_fewer_images(tmp_path, capsys):
    write_celeba(tmp_path, [(0, {"Smiling"}), (0, set()), (0, set()), (1, set())])
    path = tmp_path / "list_eval_partition.txt"
    rewrite(path, lambda lines: [lines[0], lines[2], lines[3]])
    igm.data.celeba.warn_once.cache_clear()
    assert [item["image_id"] for item in CelebA(tmp_path)] == ["000001", "000003"]
    assert len(CelebA(tmp_path, "val")) == 1 and "without 1 rows" in CelebA(tmp_path).partition_note
    assert capsys.readouterr().err.count("1 are left out") == 1
    rewrite(path, lambda lines: ["000098.jpg 0", "000099.jpg 0"])
    with pytest.raises(DataError, match="000001.jpg is not in .*list_eval_partition.txt"):
        CelebA(tmp_path)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda lines: [*lines[:-1], lines[1]], ["lines 2 and 5", "000001.jpg"]),
        (lambda lines: [*lines[:2], lines[2].replace("-1", "0"), lines[3]], ["line 3", "is 0", "expected 1 or -1"]),
        (lambda lines: [*lines[:2], lines[2].replace("-1", "--1", 1)], ["line 3", "'--1'", "whole number"]),
        (lambda lines: [*lines[:2], lines[2].replace("-1", "9" * 5000, 1)], ["line 3", "whole number"]),
        (lambda lines: [*lines[:2], lines[2].replace("-1", "nan", 1)], ["line 3", "'nan'"]),
        (lambda lines: [*lines[:2], lines[2].replace("-1", "\u0663", 1)], ["line 3", "whole number"]),
        (lambda lines: [*lines[:2], lines[2] + ",1"], ["line 3", "41 values, expected 40"]),
        (lambda lines: [*lines[:2], '"' + lines[2], lines[3]], ["line 3", "quote"]),
        (lambda lines: [*lines[:2], lines[2].replace("000002", "../000002")], ["line 3", "not the name of an image"]),
        (lambda lines: [*lines[:2], lines[2].replace("000002", "a\0b")], ["line 3", "zero byte"]),
        (lambda lines: lines[1:], ["no header"]),
        (lambda lines: lines[:1], ["has no rows"]),
        (lambda lines: [], ["has no rows"]),
    ],
)
def test_faults_of_a_table_name_the_row_and_never_ask_to_unpack_a_whole_file(tmp_path, change, words):
    path = write_celeba(tmp_path, [(0, {"Smiling"}), (0, set()), (0, {"Eyeglasses"})], layout="kaggle")
    rewrite(path, change)
    with pytest.raises(DataError) as error:
        CelebA(tmp_path)
    message = str(error.value)
    assert "\n" not in message and "unpack" not in message and str(path) in message
    assert all(word in message for word in words), message


def test_a_table_in_another_encoding_names_the_line(tmp_path):
    path = write_celeba(tmp_path, [(0, {"Smiling"}), (0, set())])
    path.write_bytes(path.read_bytes().replace(b"000002", "\xe9".encode("latin1")))
    with pytest.raises(DataError, match="list_attr_celeba.txt, line 4: byte 0xe9 is not UTF-8"):
        CelebA(tmp_path)
