"""What a checkpoint knows about itself: both versions of the file, and what is refused."""

import json

import pytest

from igm.facts import Facts
from igm.models import ModelError
from igm.resources import PRETRAINED

V1 = {
    "clevr-mini": {"task": "clevr", "num_objects": [3, 5], "bounds": [0.1, 0.2, 0.9, 0.8], "min_separation": 0.07},
    "celeba-gc": {"task": "celeba-gc", "attributes": ["A", "B"], "frequencies": [0.1, 0.2], "timestep_range": [1, 9]},
    "animals": {"task": "animals", "classes": ["cat", "dog"], "t_range": [200, 600]},
}


def test_files_of_the_first_version_still_load():
    assert Facts.from_json(V1["clevr-mini"]).task == "positions"
    gc = Facts.from_json(V1["celeba-gc"])
    assert (gc.task, gc.learner, gc.t_range, gc.attributes) == ("attributes", "joint_label", (1, 9), ("A", "B"))
    assert Facts.from_json(V1["animals"]).t_range == (200, 600)


@pytest.mark.parametrize("name", ["clevr-mini", "celeba-mini", "animals-mini"])
def test_shipped_models(name):
    facts = Facts.read(PRETRAINED / name)
    assert facts.task and Facts.from_json(json.loads(json.dumps(facts.to_json()))) == facts


def test_a_folder_without_facts_says_nothing(tmp_path):
    assert Facts.read(tmp_path) == Facts() and Facts().known() == {"learner": "compositional", "pixel_range": (-1, 1)}


@pytest.mark.parametrize(
    "values, part",
    [
        ({"version": 99}, "99"),
        ({"version": "2"}, "version"),
        ({"version": 2, "task": 5}, "task is 5"),
        ({"task": "birds"}, "birds"),
        ({"version": 2, "t_range": [500, 100]}, "t_range"),
        ({"version": 2, "num_objects": "x\ny"}, r"num_objects is 'x\\ny'"),
        ({"version": 2, "attributes": [["A"], "B"]}, "attributes"),
        ({"version": 2, "t_range": [0, 1, 2]}, "t_range"),
        ({"version": 2, "bounds": [0, 0, 1]}, "bounds"),
        ({"version": 2, "min_separation": float("nan")}, "min_separation"),
        ({"version": 2, "attributes": ["A", "A"]}, "attributes"),
        ({"version": 2, "attributes": ["A"], "frequencies": [0.1, 0.2]}, "frequencies"),
        ({"version": 2, "resolution": True}, "resolution"),
        ({"version": 2, "colour": "red"}, "colour"),
        ([], "JSON object"),
        ("x" * 3, "JSON object"),
    ],
)
def test_what_is_refused(values, part, tmp_path):
    (tmp_path / "igm.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match=part) as error:
        Facts.read(tmp_path)
    assert "igm.json" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")])
def test_no_json(text, tmp_path):
    (tmp_path / "igm.json").write_text(text, encoding="latin-1")
    with pytest.raises(ModelError, match="igm.json"):
        Facts.read(tmp_path)
