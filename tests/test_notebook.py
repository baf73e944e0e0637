"""The notebook runs as it stands, and says what its stored outputs say; answers draw themselves."""

import ast
import base64
import io
import json
import re

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from igm.api import Labels, Scene, load_model
from igm.figures.marks import draw_points

NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


def run_cell(source: str, names: dict) -> object:
    """What a cell's last expression gives, as a notebook runs it."""
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last else None


def numbers(text: str) -> list[float]:
    return [float(n) for n in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", text)]


def test_the_notebook_says_what_it_said(capsys):
    """Texts are the stored ones, numbers within 0.01, and pictures have the stored ones' size."""
    names: dict = {}
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 4 and all(cell["execution_count"] for cell in cells)
    assert NOTEBOOK.stat().st_size < 400_000
    for cell in cells:
        value = run_cell("".join(cell["source"]), names)
        printed = capsys.readouterr().out
        for output in cell["outputs"]:
            data = output.get("data", {})
            text = "".join(output.get("text") or data["text/plain"])
            own = printed if output["output_type"] == "stream" else re.sub(" at 0x[0-9A-F]+", "", repr(value))
            assert re.findall("[A-Za-z_]{3,}", own) == re.findall("[A-Za-z_]{3,}", text)
            assert numbers(own) == pytest.approx(numbers(text), abs=0.01)
            if "image/png" in data:
                stored, drawn = (Image.open(io.BytesIO(p)) for p in (base64.b64decode(data["image/png"]), png(value)))
                assert stored.size == drawn.size and stored.mode == drawn.mode


def test_the_notebook_shows_what_there_is():
    """The default model, and each of what a model of scenes can be asked for."""
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    source = "\n".join("".join(cell["source"]) for cell in cells)
    for call in ("load_model()", ".draw()", ".find(", ".ask(", ".color", ".generate(", ".find_again(", ".render("):
        assert call in source
    assert sum("image/png" in output.get("data", {}) for cell in cells for output in cell["outputs"]) >= 5


def png(answer) -> bytes:
    return answer._repr_png_()


def a_scene(**changes):
    positions = np.array([[0.25, 0.5], [0.75, 0.5]], dtype=np.float32)
    given = {
        "positions": positions,
        "count": 2,
        "confidence": 0.5,
        "object_confidence": np.array([0.9, 0.4]),
        "error": 0.1,
    }
    return Scene(**{**given, **changes})


def test_a_scene_draws_crosses_at_its_positions():
    """On a black picture what is not black lies around the two positions; of the cross the middle is coloured."""
    drawn = np.asarray(a_scene(image=Image.new("RGB", (400, 200)), object_confidence=None).draw())
    assert drawn.shape == (200, 400, 3)
    ys, xs = np.nonzero(drawn.any(2))
    for x in (100, 300):
        near = np.abs(xs - x) < 100
        assert abs(xs[near].mean() - x) < 2 and abs(ys[near].mean() - 100) < 2
        assert drawn[100, x].any() and np.ptp(xs[near]) < 40
    with_numbers = np.asarray(a_scene(image=Image.new("RGB", (400, 200))).draw())
    assert (with_numbers != drawn).any()


@pytest.mark.parametrize("label", ["90", "small yellow rubber sphere"])
def test_labels_hide_no_cross_and_stay_in_the_picture(label):
    """Around the crosses the picture is as without words, and none is cut off by an edge."""
    points = [(0.373, 0.381), (0.231, 0.443), (0.535, 0.621), (0.476, 0.277), (0.96, 0.04)]
    image = Image.new("RGB", (480, 320))
    bare, drawn = (np.asarray(draw_points(image, points, labels=own)) for own in (None, [label] * len(points)))
    for x, y in points:
        around = np.s_[round(320 * y) - 8 : round(320 * y) + 9, round(480 * x) - 8 : round(480 * x) + 9]
        assert (bare[around] == drawn[around]).all()
    words = (bare != drawn).any(2)  # (H, W)
    assert words.any() and not words[0].any() and not words[:, -1].any()  # the last point is in the upper right corner


def test_small_pictures_are_enlarged_and_none_is_needed():
    assert max(a_scene(image=Image.new("RGB", (64, 48))).draw().size) >= 320
    assert a_scene().draw().size == (512, 512) and png(a_scene()) is None
    other = a_scene().draw(Image.new("RGB", (640, 480)))
    assert other.size == (640, 480)


def test_answers_as_json():
    value = json.loads(json.dumps(a_scene(image=Image.new("RGB", (8, 8))).to_dict()))
    assert value["positions"] == [[0.25, 0.5], [0.75, 0.5]] and value["count"] == 2
    assert value["object_confidence"] == [0.9, 0.4] and set(value) >= {"confidence", "error"} and "image" not in value
    labels = Labels(["cat"], 0.5, 0.1)
    assert json.loads(json.dumps(labels.to_dict())) == {
        "names": ["cat"],
        "confidence": 0.5,
        "error": 0.1,
        "unlike": None,
    }
    assert png(labels) is None and labels.draw().height > labels.draw().width


@pytest.mark.parametrize("several", [False, True])
def test_answers_keep_their_picture(several):
    """A large one in a smaller copy; the answer is printed and compared without it."""
    model = load_model(device="cpu")
    image = Image.new("RGB", (1280, 640), "red")
    quick = {"num_candidates": 16, "num_draws": 2, "num_steps": 1, "num_objects": 1}
    found = model([image, torch.zeros(3, 32, 48)] if several else image, **quick)
    first = found[0] if several else found
    assert first.image.size == (640, 320) and first.image.getpixel((0, 0)) == (255, 0, 0)
    assert "image" not in repr(first) and png(first).startswith(b"\x89PNG")
    if several:
        assert found[1].image.size == (48, 32)
