"""The snippets of README and docs run as they stand; the API takes every kind of picture and says the same about each."""

import re

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from igm import UserError
from igm.api import AttributeModel, PositionModel, load_model
from igm.facts import Facts

PAGES = ["README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]
PAGES.remove("docs/extending.md")  # whole files, which tests/test_extending.py runs
SNIPPETS = {
    page: re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    for page in PAGES
}
QUICK = {"num_candidates": 36, "num_draws": 2, "num_steps": 1, "count_draws": 4, "max_objects": 3}
KNOWN = {name: QUICK[name] for name in ("num_candidates", "num_draws", "num_steps")}
SCENE = ROOT / "sample_images" / "scene.png"


@pytest.mark.parametrize(("page", "number"), [(page, n) for page in PAGES for n in range(len(SNIPPETS[page]))])
def test_snippets_run(page, number, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    names: dict = {}
    for snippet in SNIPPETS[page][:number]:  # a later one may use what an earlier one imported
        exec(compile(imports_of(snippet), page, "exec"), names)
    exec(compile(SNIPPETS[page][number], page, "exec"), names)
    assert capsys.readouterr().out.strip()


def imports_of(snippet: str) -> str:
    return "\n".join(line for line in snippet.splitlines() if line.startswith(("import ", "from ")))


def test_there_are_snippets():
    assert len(SNIPPETS["README.md"]) >= 1 and len(SNIPPETS["docs/api.md"]) >= 3


@pytest.fixture(scope="module")
def model():
    return load_model(device="cpu")


def test_every_kind_of_picture_gives_the_same(model):
    image = Image.open(SCENE).convert("RGB")
    array = np.array(image)
    pixels = torch.from_numpy(array).permute(2, 0, 1).float() / 127.5 - 1
    first = model(SCENE, **QUICK)
    for picture in (str(SCENE), image, array, pixels):
        scene = model(picture, **QUICK)
        assert scene.count == first.count
        np.testing.assert_allclose(scene.positions, first.positions, atol=1e-4)
    assert first.positions.shape == (first.count, 2) and len(first.object_confidence) == first.count


def test_several_pictures_give_a_list(model):
    image = Image.open(SCENE).convert("RGB")
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1
    scenes = model(torch.stack([pixels, pixels]), num_objects=[2, 3], **KNOWN)
    assert [scene.count for scene in scenes] == [2, 3]
    assert [s.count for s in model([SCENE, image], num_objects=1, **KNOWN)] == [1, 1]
    with pytest.raises(UserError, match="2 pictures"):
        model([SCENE, image], num_objects=[1], **KNOWN)


def test_positions_are_where_the_objects_are(model):
    """The sample scene's five centres as its generator wrote them; the last is that of a ball behind the cylinder."""
    true = np.array([[0.475, 0.2812], [0.2292, 0.45], [0.5333, 0.6312], [0.3792, 0.3812], [0.6208, 0.5625]])
    found = model(SCENE)
    distances = np.linalg.norm(found.positions[:, None] - true[None], axis=2)  # (K, 5)
    assert found.count >= 4 and (distances.min(1) < 0.05).all()  # each position is an object's
    assert (distances.min(0) < 0.05).sum() == found.count  # and no two are the same object's


def test_a_checkpoint_for_attributes_names_those_that_hold(make_denoiser, tmp_path):
    class Knows:
        """Predicts the target for the right value of each attribute, and something else for the wrong one."""

        facts, num_timesteps, device = Facts(attributes=("Smiling", "Eyeglasses", "Male")), 1000, torch.device("cpu")
        is_separable = False

        def encode(self, images):
            return torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)

        def add_noise(self, x_0, eps, t):
            return eps

        target = add_noise

        def share(self, x_t, t):
            return (x_t,)

        def predict_shared(self, shared, conds, index):
            right = torch.isin(conds.argmax(1), torch.tensor([1, 2, 5]))  # Smiling yes, Eyeglasses no, Male yes
            return shared[0][index] + (~right).float()[:, None, None, None]

    found = AttributeModel(Knows()).infer(torch.zeros(2, 3, 8, 8), num_draws=4)
    assert [labels.names for labels in found] == [["Smiling", "Male"]] * 2


def test_model_kind_follows_the_checkpoint(model):
    assert isinstance(model, PositionModel)


def test_mistakes_are_said_in_keywords_and_not_in_options(model, tmp_path):
    picture, wrong = np.zeros((32, 32, 3)), []
    wrong += [lambda: load_model("nothing-there"), lambda: load_model("org/model", local_files_only=True)]
    wrong += [lambda: load_model(tmp_path), lambda: load_model("clevr-mini", device="cuda:99")]
    wrong += [lambda: model(tmp_path / "none.png"), lambda: model(picture, num_draws=-1), lambda: model(picture, foo=1)]
    wrong += [
        lambda: model(picture, 0),
        lambda: model(picture, t_range=(5, 1)),
        lambda: model(picture, 2, confidence=0.9),
    ]
    wrong += [lambda: model(picture, 2, t_range=(5, 5000)), lambda: model(picture, timestep_range=(0, 5))]
    for mistake in wrong:
        with pytest.raises(ValueError) as caught:
            mistake()
        message = str(caught.value)
        assert "--" not in message and "\n" not in message and len(message) < 500
    with pytest.raises(UserError, match="foo is no setting; there are seed, t_range,"):
        model(picture, foo=1)
    with pytest.raises(UserError, match=r"t_range 5 5000: must go upwards|t_range=\(5, 5000\)"):
        model(picture, 2, t_range=(5, 5000))
