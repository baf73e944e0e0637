"""Pictures that are unlike all that a model was measured on: who is told, and when nobody can tell."""

import json
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, write_clevr
from PIL import Image
from test_scripts import checkpoint, eval_args, records_of  # noqa: F401  (fixtures)

from igm.api import load_model
from igm.data.synthetic.faces import draw_face, sample_face
from igm.evaluation.answers import MOST_PICTURES, format_answers
from igm.evaluation.records import write_json
from igm.tasks.task import Task


def with_usual_error(checkpoint, usual):  # noqa: F811
    facts = json.loads((checkpoint / "igm.json").read_text())
    (checkpoint / "igm.json").write_text(json.dumps({**facts, "usual_error": usual}))


@pytest.mark.parametrize(("usual", "expected"), [(1e-6, True), (1e6, False)])
def test_pictures_far_above_the_usual_error_are_named(usual, expected, run_main, eval_args, checkpoint, tmp_path):  # noqa: F811
    with_usual_error(checkpoint, usual)
    pictures = tmp_path / "own" / "images" / "val"
    write_clevr(tmp_path / "own", "val", coords=[[[12, 8, 9.0]], [[36, 24, 9.0]]])
    code, out, err = run_main("eval_clevr", *eval_args("--images", pictures, "--num_objects", 1))
    assert code == 0, err
    records = records_of(tmp_path / "results" / "clevr" / "eval-pursuit-images")
    assert [record["unlike"] for record in records] == [expected] * 2
    assert ("images: 2 of 2 pictures are unlike" in err) is ("unlike training" in out) is expected
    assert all(record["image_id"] in out for record in records)


def test_nobody_can_tell_at_other_noise_levels_or_without_the_fact(run_main, eval_args, checkpoint, tmp_path):  # noqa: F811
    for usual, more in ((1e-6, ["--timestep_range", 0, 100]), (None, [])):
        with_usual_error(checkpoint, usual)
        code, out, err = run_main("eval_clevr", *eval_args("--object_counts", "3-5", *more))
        assert code == 0, err
        assert "unlike" not in out + err
        assert all("unlike" not in own for own in records_of(tmp_path / "results" / "clevr" / "eval-pursuit"))


def test_a_task_that_names_no_findings_keeps_its_table(run_main, eval_args, clevr_root, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setattr("igm.tasks.positions.Positions.findings", Task.findings)
    code, out, err = run_main("eval_clevr", *eval_args("--images", clevr_root / "images" / "val", "--num_objects", 1))
    assert code == 0, err
    assert "have no form for other programs" in out and "per image: " in out and "Figures: " in out


def test_calibration_notes_the_highest_error_of_its_images(clevr_root, checkpoint, run_main):  # noqa: F811
    args = ("--dataset_root", clevr_root, "--checkpoint", checkpoint, "--num_images", 2, "--max_objects", 2)
    code, _, err = run_main("scripts.calibrate", *args, "--object_counts", "1-5")
    assert code == 0, err
    usual = json.loads((checkpoint / "igm.json").read_text())["usual_error"]
    scenes = json.loads((clevr_root / "scenes" / "CLEVR_train_scenes.json").read_text())["scenes"][:2]
    model, errors = load_model(checkpoint, "cpu"), []
    for scene in scenes:
        picture = clevr_root / "images" / "train" / scene["image_filename"]
        errors.append(model(picture, num_objects=len(scene["objects"]), seed=42).error)
    assert usual == pytest.approx(max(errors), rel=0.1)  # other noise than that of the second image's number


@pytest.fixture(scope="module")
def shipped():
    return load_model(device="cpu")


def test_the_shipped_model_knows_its_scenes_from_other_pictures(shipped, capsys):
    """A photograph is not at hand here; a drawn face, noise and stripes are no scenes of objects either."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (96, 144, 3), dtype=np.uint8))
    bars = np.repeat(np.tile(np.array([0, 255], dtype=np.uint8), 6), 12)  # (144,)
    stripes = Image.fromarray(np.tile(bars, (96, 1))).convert("RGB")
    settings = {"num_objects": 3, "num_draws": 16}
    assert not shipped(ROOT / "sample_images" / "scene.png", **settings).unlike
    assert "unlike" not in capsys.readouterr().err
    for picture in (noise, stripes, draw_face(sample_face(rng, male=False))):
        scene = shipped(picture, **settings)
        assert scene.unlike and scene.to_dict()["unlike"], scene.error
        assert capsys.readouterr().err.startswith("warning: the picture is unlike all")
    scene_and_noise = [ROOT / "sample_images" / "scene.png", noise]
    assert [scene.unlike for scene in shipped(scene_and_noise, **settings)] == [False, True]
    assert "warning: 1 of 2 pictures are unlike all" in capsys.readouterr().err
    few = {"max_objects": 2, "num_draws": 4, "count_draws": 4}
    shipped.ask(noise, [(0.5, 0.5)], **few)
    shipped.find(noise, num_objects=1, color="red")
    assert capsys.readouterr().err.count("warning: the picture is unlike all") == 2
    assert shipped.measure(noise, max_objects=2, num_draws=4, count_draws=4).scene(2).unlike


def test_a_row_for_each_finding_and_the_picture_named_once(tmp_path):
    """The other pictures are had by the command that stands there, whatever the folder is called."""
    tmp_path = tmp_path / "my results"
    tmp_path.mkdir()

    def record(i, unlike):
        found = {"conds_pred": [[0.5, 0.25], [0.1, 0.9]][: 2 - i % 2], "num_pred": 2 - i % 2}
        size = {"image_path": f"/p/{i:02}.png", "width": 200, "height": 100, "unlike": unlike}
        cost = {"unet_evaluations": {"forward": 1, "backward": 0}, "seconds": 1.0, "seed": 0, "error": 0.1}
        known = {"conds_true": None, "num_true": None, "confidence": None, "object_confidence": [1.0, 0.5][: 2 - i % 2]}
        return {"image_id": f"{i:02}", "group": "images", **found, **size, **cost, **known}

    records = [record(i, unlike=i == 1) for i in range(MOST_PICTURES + 2)]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    write_json(tmp_path / "options.json", {"task": "positions"})
    lines = format_answers(tmp_path, {"groups": {"images": {"metrics": {}}}}).splitlines()
    assert lines[0].split() == ["picture", "found", "x", "y", "sure", "unlike", "training"]
    assert lines[2].split() == ["00", "object", "100", "25", "100", "%"]
    assert lines[3].split() == ["object", "20", "90", "50", "%"]
    assert lines[4].split() == ["01", "object", "100", "25", "100", "%", "yes"]
    assert len(lines) == 2 + 3 * MOST_PICTURES // 2 + 1 and lines[-1].startswith("2 more pictures: ")
    program, *args = shlex.split(lines[-1].partition(": ")[2])
    assert program == "python"
    subprocess.run([sys.executable, *args], cwd=tmp_path, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert len((tmp_path / "found.csv").read_text().splitlines()) == 1 + 3 * len(records) // 2
    assert format_answers(tmp_path, {"groups": {"images": {"metrics": {"perception_rate": {}}}}}) == ""
