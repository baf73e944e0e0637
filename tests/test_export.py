"""Results in other programs' formats, read back by these programs' own readers; numbers by hand."""

import csv
import json
import shutil

import pandas
import pytest
from conftest import ROOT
from PIL import Image
from pycocotools.coco import COCO

from igm.data.clevr import Clevr, parse_scenes
from igm.data.labelled import LabelledScenes
from igm.evaluation.export import FORMATS, relations

SIZE = (200, 100)
BASE = {"error": 0.1, "seconds": 1.0, "seed": 0, "unet_evaluations": {"forward": 1, "backward": 0}, "group": "all"}
SCENES = [
    {
        **BASE,
        "image_id": "a",
        "image_path": "pictures/a.png",
        "conds_true": None,
        "num_true": None,
        "conds_pred": [[0.25, 0.5], [0.5, 0.1]],
        "num_pred": 2,
        "confidence": 0.8,
        "object_confidence": [0.9, 0.7],
        "width": 200,
        "height": 100,
    },
    {
        **BASE,
        "image_id": "b",
        "image_path": "pictures/b.png",
        "conds_true": [[0.5, 0.5]],
        "num_true": 1,
        "conds_pred": [[0.5, 0.5]],
        "num_pred": 1,
        "confidence": None,
        "width": 200,
        "height": 100,
        "fit_box": [50.0, 0.0, 100.0, 100.0],  # --fit crop
    },
]
POINTS = {"a": [(50, 50), (100, 10)], "b": [(100, 50)]}  # by hand: shares of 200 x 100, and of the crop's 100 columns
FACES = [
    {**BASE, "image_id": name, "image_path": f"{name}.png", "conds_true": None, "num_true": None, "confidence": 0.9}
    | {"conds_pred": conds, "num_pred": 2, "concept_names": ["Smiling", "Male"], "width": 20, "height": 10}
    for name, conds in {"a": [[0, 1, 0, 0], [0, 0, 1, 0]], "b": [[0, 1, 0, 0], [0, 0, 0, 1]]}.items()
]
ANIMALS = [
    {**BASE, "image_id": "a.png", "image_path": "a.png", "conds_true": None, "num_true": None, "confidence": 0.9}
    | {"conds_pred": [[0, 0, 1], [1, 0, 0]], "num_pred": 2, "width": 20, "height": 10}
]


def write_results(folder, records, task="positions", **options):
    folder.mkdir(exist_ok=True)
    (folder / "results.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "options.json").write_text(json.dumps({"task": task, **options}))
    return folder


@pytest.fixture
def export(run_main, tmp_path):
    """A function (records, format, task, options) -> the file written, by the command as users start it."""

    def run(records, name, task="positions", **options):
        folder = write_results(tmp_path / "results", records, task, **options)
        output = tmp_path / f"found.{name}"
        code, out, err = run_main("igm.evaluation.export", folder, "--format", name, "--output", output)
        assert code == 0 and f"{len(records)} images" in out, err
        return output

    return run


@pytest.mark.parametrize(("name", "read"), [("csv", pandas.read_csv), ("parquet", pandas.read_parquet)])
def test_tables_have_a_row_for_each_object(export, name, read):
    table = read(export(SCENES, name))
    assert list(zip(table.x, table.y, strict=True)) == [*POINTS["a"], *POINTS["b"]]
    assert list(table.x_share) == [0.25, 0.5, 0.5] and list(table.y_share) == [0.5, 0.1, 0.5]
    assert list(table.image_id) == ["a", "a", "b"] and list(table.file_name) == ["a.png", "a.png", "b.png"]
    assert list(table.confidence[:2]) == [0.9, 0.7] and table.confidence.isna()[2]
    assert set(table.width) == {200} and set(table.height) == {100}
    assert table.unlike.isna().all()  # nobody knows
    judged = read(export([{**record, "unlike": record["image_id"] == "b"} for record in SCENES], name))
    assert list(judged.unlike) == [False, False, True]


@pytest.mark.parametrize(("name", "read"), [("csv", pandas.read_csv), ("parquet", pandas.read_parquet)])
def test_tables_of_attributes_and_classes(export, name, read):
    table = read(export(FACES, name, "attributes"))
    assert list(table.Smiling) == [1, 1] and list(table.Male) == [0, 1] and list(table.confidence) == [0.9, 0.9]
    table = read(export(ANIMALS, name, "classes", classes=["cat", "dog", "fox"]))
    assert list(table["class"]) == ["cat", "fox"] and "x" not in table


def test_coco_is_read_by_pycocotools_and_by_this_package(export, tmp_path):
    coco = COCO(str(export(SCENES, "coco")))
    by_file = {own["file_name"]: own for own in coco.loadImgs(coco.getImgIds())}
    assert set(by_file) == {"a.png", "b.png"}
    for name, points in POINTS.items():
        own = coco.loadAnns(coco.getAnnIds(imgIds=by_file[f"{name}.png"]["id"]))
        assert [tuple(a["keypoints"]) for a in own] == [(*p, 2) for p in points]
        assert [(a["bbox"][0] + a["bbox"][2] / 2, a["bbox"][1] + a["bbox"][3] / 2) for a in own] == points
        assert all(a["bbox"][2] == 5 and a["area"] == 25 for a in own)  # 0.05 of the 100 pixels of the shorter side
    assert coco.loadCats(coco.getCatIds())[0]["keypoints"] == ["centre"]
    labelled = tmp_path / "labelled"
    labelled.mkdir()
    shutil.move(tmp_path / "found.coco", labelled / "coco.json")
    for name in POINTS:
        Image.new("RGB", SIZE).save(labelled / f"{name}.png")
    dataset = LabelledScenes(labelled, num_objects=(1, 2), val_share=0.0)
    assert dataset.annotation(0)["conds"].tolist() == [[0.25, 0.5], pytest.approx([0.5, 0.1])]


def test_clevr_scenes_are_read_as_clevrs(export, tmp_path):
    output = export(SCENES, "clevr")
    index = parse_scenes(output)
    assert index["files"].tolist() == ["a.png", "b.png"] and index["counts"].tolist() == [2, 1]
    assert index["pixel_coords"].tolist() == [[50, 50], [100, 10], [100, 50]]
    (tmp_path / "CLEVR" / "images").mkdir(parents=True)
    shutil.copy(output, tmp_path / "CLEVR" / "CLEVR_scenes.json")
    for name in POINTS:
        Image.new("RGB", SIZE).save(tmp_path / "CLEVR" / "images" / f"{name}.png")
    assert len(Clevr(tmp_path / "CLEVR", "new", (1, 2))) == 2
    scene = json.loads(output.read_text())["scenes"][0]
    assert scene["relationships"] == {
        "left": [[], [0]],  # of the first object none is left; of the second the first is
        "right": [[1], []],
        "behind": [[1], []],
        "front": [[], [0]],
    }


def test_near_objects_are_in_no_relation():
    assert relations([(50, 50), (53, 51.5)], SIZE) == {n: [[], []] for n in ("left", "right", "behind", "front")}


def test_label_studio_has_percent(export):
    """As in its documentation of keypoints: percent of the width and of the height, with the original sizes."""
    tasks = json.loads(export(SCENES, "labelstudio").read_text())
    (prediction,) = tasks[0]["predictions"]
    first = prediction["result"][0]
    assert tasks[0]["data"]["image"] == "a.png" and prediction["score"] == 0.8
    assert (first["value"]["x"], first["value"]["y"], first["score"]) == (25, 50, 0.9)
    assert (first["original_width"], first["original_height"], first["type"]) == (200, 100, "keypointlabels")
    assert [result["value"]["x"] for result in tasks[1]["predictions"][0]["result"]] == [50]
    tasks = json.loads(export(FACES, "labelstudio", "attributes").read_text())
    assert [task["predictions"][0]["result"][0]["value"] for task in tasks] == [
        {"choices": ["Smiling"]},
        {"choices": ["Smiling", "Male"]},
    ]


WHOLE = [  # of the first scene, what each object is
    {**SCENES[0], "objects_pred": [{"color": "red", "shape": "cube"}, {"color": "blue", "shape": "sphere"}]}
]


@pytest.mark.parametrize("name", FORMATS)
def test_whole_objects_keep_their_attributes(export, name):
    """In every format that has a place for them, in the order of the positions; COCO has none."""
    output = export(WHOLE, name, "objects")
    if name in ("csv", "parquet"):
        table = {"csv": pandas.read_csv, "parquet": pandas.read_parquet}[name](output)
        assert list(zip(table.x, table.color, table["shape"], strict=True)) == [
            (50, "red", "cube"),
            (100, "blue", "sphere"),
        ]
    elif name == "coco":
        coco = COCO(str(output))
        assert [own["keypoints"] for own in coco.loadAnns(coco.getAnnIds())] == [[50, 50, 2], [100, 10, 2]]
    elif name == "labelstudio":
        results = json.loads(output.read_text())[0]["predictions"][0]["result"]
        words = [own["value"]["keypointlabels"][0] for own in results]
        assert "red" in words[0] and "cube" in words[0] and "blue" in words[1] and "sphere" in words[1]
    else:
        things = json.loads(output.read_text())["scenes"][0]["objects"]
        assert [(own["color"], own["shape"]) for own in things] == [("red", "cube"), ("blue", "sphere")]


def without(record, *names):
    return {name: value for name, value in record.items() if name not in names}


def test_records_of_earlier_versions(run_main, export, tmp_path):
    """The size is read from the picture; without it, or where a part of it was shown, one line says so."""
    old = [without(SCENES[0], "width", "height")]
    (tmp_path / "results" / "pictures").mkdir(parents=True)
    Image.new("RGB", SIZE).save(tmp_path / "results" / "pictures" / "a.png")
    assert list(pandas.read_csv(export(old, "csv")).x) == [50, 100]
    for options, words in (({"fit": "crop"}, "--fit crop"), ({}, "pictures/a.png")):
        folder = write_results(tmp_path / "results", old, **options)
        if not options:
            (folder / "pictures" / "a.png").unlink()
        code, _, err = run_main("igm.evaluation.export", folder, "--format", "csv", "--output", tmp_path / "x.csv")
        assert code == 2 and words in err and "infer again" in err and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["coco", "clevr"])
def test_formats_of_positions_refuse_others(run_main, tmp_path, name):
    folder = write_results(tmp_path / "results", FACES, "attributes")
    code, _, err = run_main("igm.evaluation.export", folder, "--format", name, "--output", tmp_path / "x")
    assert code == 2 and f"--format {name}" in err and not (tmp_path / "x").exists()


def test_other_mistakes(run_main, tmp_path):
    folder = write_results(tmp_path / "results", SCENES)
    for arguments, words in [
        ([tmp_path / "nowhere", "--output", tmp_path / "x"], "no results"),
        ([folder, "--output", tmp_path / "nowhere" / "x"], "--output"),
        ([write_results(tmp_path / "animals", ANIMALS, "classes"), "--output", tmp_path / "x"], "names"),
    ]:
        code, _, err = run_main("igm.evaluation.export", *arguments, "--format", "csv")
        assert code == 2 and words in err and len(err.strip().splitlines()) == 1


def test_what_an_evaluation_writes_can_be_exported(run_script, run_main, tmp_path):
    """The shipped model on a wide picture whose middle is shown; then the command of the docs."""
    width, height = 96, 64
    with Image.open(ROOT / "sample_images" / "scene.png") as image:
        image.convert("RGB").resize((width, height)).save(tmp_path / "wide.png")
    given = ["--images", tmp_path / "wide.png", "--num_objects", 2, "--fit", "crop", "--no_figures"]
    quick = ["--num_candidates", 36, "--num_draws", 2, "--num_steps", 1, "--output_dir", tmp_path / "outputs"]
    code, _, err = run_main("eval_clevr", *given, *quick)
    assert code == 0, err
    folder = tmp_path / "outputs" / "clevr" / "eval-pursuit-images"
    record = json.loads((folder / "results.jsonl").read_text())
    assert (record["width"], record["height"]) == (width, height)
    for name in FORMATS:
        code, _, err = run_main("igm.evaluation.export", folder, "--format", name, "--output", tmp_path / f"f.{name}")
        assert code == 0, err
    done = run_script("-m", "igm.evaluation.export", folder, "--format", "csv", "--output", tmp_path / "again.csv")
    assert done.returncode == 0 and (tmp_path / "again.csv").read_text() == (tmp_path / "f.csv").read_text()
    rows = list(csv.DictReader((tmp_path / "f.csv").open()))
    left, top, side = (width - height) / 2, 0, height  # of the middle square, by hand
    for row, (x, y) in zip(rows, record["conds_pred"], strict=True):
        assert float(row["x"]) == pytest.approx(left + x * side, abs=0.01)
        assert float(row["y"]) == pytest.approx(top + y * side, abs=0.01)
