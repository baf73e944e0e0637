"""Generation: sampling ends where a closed form says, asks are read or refused, and edits stay near the real picture."""

import copy
import json
import pickle
import shlex
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from diffusers import DDPMScheduler
from PIL import Image
from test_animals import write_pipeline
from toy import Toy

from igm import UserError
from igm.api import AttributeModel, ObjectModel, PositionModel, PromptModel
from igm.composition import entering_weights, predictor, weighted_predictor
from igm.facts import Facts
from igm.generation import Composition, SamplingSettings, sample
from igm.kinds import KINDS, attributes_of
from igm.models.codec import PatchPCA
from igm.models.denoiser import Denoiser
from igm.models.sampling import SCHEDULERS
from igm.models.separable import SeparableUNet
from igm.models.stable_diffusion import StableDiffusion

VOCABULARY = {"shape": ("cube", "sphere"), "color": ("blue", "red", "green")}
QUICK = {"num_steps": 4}
PLACES = [(0.3, 0.4), (0.7, 0.6)]


def toy() -> Toy:
    """A denoiser whose picture under concepts is the weighted mean of their bumps, as something to sample from."""
    own = Toy()
    ratios = own.alphas_cumprod / torch.cat([torch.ones(1), own.alphas_cumprod[:-1]])
    own.scheduler = DDPMScheduler(trained_betas=(1 - ratios).numpy(), clip_sample=False)
    assert torch.allclose(own.scheduler.alphas_cumprod, own.alphas_cumprod, atol=1e-5)
    own.predict_weighted, own.composition, own.decode = own.predict_composed, "mean", lambda latents: latents
    return own


def asked(places, **options) -> Composition:
    return Composition(KINDS["positions"], places, **options)


@pytest.mark.parametrize(
    ("options", "shares"),
    [({}, [1 / 2, 1 / 2]), ({"weights": [3, 1]}, [3 / 4, 1 / 4]), ({"negative": [(0.5, 0.2)]}, [2 / 3, 2 / 3, -1 / 3])],
)
@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_sampling_ends_at_the_picture_that_the_concepts_make(options, shares, scheduler):
    """Every step of the toy's composition predicts the same clean picture, so that is where it must end."""
    own = toy()
    found = sample(own, asked(PLACES, **options), 2, SamplingSettings(num_steps=20, scheduler=scheduler))
    bumps = own.bump(torch.tensor([*PLACES, *options.get("negative", [])]))
    picture = (torch.tensor(shares).view(-1, 1, 1, 1) * bumps).sum(0)
    assert torch.allclose(found, picture.expand_as(found), atol=2e-3)
    wrong = own.bump(torch.tensor(PLACES)).sum(0)
    assert not torch.allclose(found, wrong.expand_as(found), atol=0.05)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_pictures_are_the_seeds_and_not_the_batches(make_denoiser, scheduler):
    denoiser = make_denoiser(
        "separable_unet", codec=SimpleNamespace(decode=lambda latents: latents / 20, downsampling=1)
    )

    def draw(seed, **options):
        return sample(
            denoiser, asked(PLACES), 3, SamplingSettings(num_steps=3, seed=seed, scheduler=scheduler, **options)
        )

    one = draw(0)
    assert torch.equal(one, draw(0)) and not torch.allclose(one, draw(1), atol=0.05)
    assert torch.allclose(one, draw(0, sample_batch=2), atol=1e-3) and not torch.allclose(one[0], one[1], atol=0.05)


@pytest.mark.parametrize("kind", ["unet", "position_unet", "separable_unet"])
def test_weights_are_those_of_the_networks_own_composition(make_denoiser, kind):
    """Equal weights give what training composes; weight 0 is no concept; and a negative one counts against."""
    denoiser, generator = make_denoiser(kind), torch.Generator().manual_seed(0)
    x_t, t = torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([100, 600])
    conds = torch.tensor([*PLACES, (0.5, 0.2)])

    def composed(weights):
        entering = entering_weights(torch.tensor(weights), denoiser.composition)
        return weighted_predictor(denoiser, conds, entering, 2)(x_t, t)

    own = predictor(denoiser, conds.expand(2, -1, -1), torch.ones(2, 3))(x_t, t)
    assert torch.allclose(composed([1.0, 1.0, 1.0]), own, atol=1e-5)
    without = predictor(denoiser, conds[:2].expand(2, -1, -1), torch.ones(2, 2))(x_t, t)
    assert torch.allclose(composed([1.0, 1.0, 0.0]), without, atol=1e-5)
    pairs = denoiser.predict(x_t, t, conds.expand(2, -1, -1))  # (2, 3, C, H, W)
    a = torch.tensor([1.0, 1.0, -0.5])
    if denoiser.composition == "mean":
        by_hand = ((a / 1.5).view(1, 3, 1, 1, 1) * pairs).sum(1)
    else:  # each is f_0 + d_k, so that f_0 + sum a_k d_k = sum a_k f_k + (1 - sum a_k) f_0
        by_hand = (a.view(1, 3, 1, 1, 1) * pairs).sum(1) + (1 - a.sum()) * denoiser.share(x_t, t)[0]
    assert torch.allclose(composed(a.tolist()), by_hand, atol=1e-5)


def separable(vocabulary=None) -> Denoiser:
    """A small random network on 16-pixel pictures, 4 x 4 to a latent, which decodes what it encodes."""
    torch.manual_seed(0)
    size = 2 + sum(map(len, (vocabulary or {}).values()))
    network = SeparableUNet(4, 48, (16, 32), rank=8, hidden=16, windows=(0.1, 0.3), cond_size=size)
    codec = PatchPCA(4, 48)
    codec.components.copy_(torch.eye(48))
    facts = Facts(
        task="objects" if vocabulary else "positions", vocabulary=vocabulary, min_separation=0.1, attribute_scale=1.0
    )
    return Denoiser(network, DDPMScheduler(), codec, facts).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def objects():
    return ObjectModel(separable(VOCABULARY))


def test_objects_become_conditions(objects):
    both = [{"position": (0.3, 0.7), "color": "red", "shape": "cube"}, {"position": (0.5, 0.25), "words": ("green",)}]
    conds = KINDS["objects"].conds(both, objects.model)
    assert torch.allclose(conds, torch.tensor([[0.3, 0.7, 1, 0, 0, 1, 0], [0.5, 0.25, 0, 0, 0, 0, 1]]))
    assert KINDS["objects"].read("red cube @0.3,0.7") == {"position": (0.3, 0.7), "words": ("red", "cube")}
    assert attributes_of(KINDS["objects"].read("red cube @0.3,0.7"), VOCABULARY) == {"shape": "cube", "color": "red"}
    places = KINDS["positions"].conds([(0.3, 0.7)], objects.model)
    assert torch.allclose(places, torch.tensor([[0.3, 0.7, 0, 0, 0, 0, 0]]))


def test_attributes_become_conditions():
    denoiser = SimpleNamespace(facts=Facts(attributes=("Smiling", "Male", "Young")))
    conds = KINDS["attributes"].conds(["Young", "-Male"], denoiser)
    assert conds.tolist() == [[0, 0, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0]]


def test_the_api_gives_pictures(objects):
    pictures = objects.generate(objects=[{"position": (0.3, 0.7), "color": "red"}], num_images=2, seed=3, **QUICK)
    assert [picture.size for picture in pictures] == [(16, 16)] * 2
    again = objects.generate(objects=[{"position": (0.3, 0.7), "color": "red"}], num_images=2, seed=3, **QUICK)
    assert pictures[1].tobytes() == again[1].tobytes()
    other = objects.generate(objects=[{"position": (0.3, 0.7), "color": "blue"}], num_images=2, seed=3, **QUICK)
    assert pictures[1].tobytes() != other[1].tobytes()


def test_mistakes_are_one_line(objects):
    ask = objects.generate
    for options, words in [
        ({}, "give one of"),
        ({"positions": PLACES, "objects": []}, "give one of"),
        ({"prompts": ["a cat"]}, "the model is for objects"),
        ({"positions": []}, "at least one"),
        ({"positions": [(0.3, 1.7)]}, "must lie in 0 to 1"),
        ({"positions": [0.3]}, "like 0.3,0.7"),
        ({"objects": [{"color": "red"}]}, '"position"'),
        ({"objects": [{"position": (0, 0), "color": "pink"}]}, "knows blue, red, green"),
        ({"objects": [{"position": (0, 0), "weight": "heavy"}]}, "knows shape, color"),
        ({"positions": PLACES, "weights": [1]}, "give one for each"),
        ({"positions": PLACES, "weights": [1, float("nan")]}, "finite"),
        ({"positions": PLACES, "weights": [-1, 0]}, "above 0"),
        ({"positions": PLACES, "negative": [(0, 0)], "weights": [1, 1, 1]}, "must not be above 0"),
        ({"positions": PLACES, "num_images": 0}, "num_images=0"),
        ({"positions": PLACES, "num_steps": 0}, "num_steps=0"),
        ({"positions": PLACES, "steps": 5}, "steps"),
    ]:
        with pytest.raises(UserError, match=words):
            ask(**options)


def test_a_mean_has_no_picture_without_concepts(make_denoiser):
    model = PositionModel(make_denoiser("position_unet"))
    with pytest.raises(UserError, match="guidance 2"):
        model.generate(positions=PLACES, guidance=2.0)
    with pytest.raises(UserError, match="a sum above 0"):
        model.generate(positions=PLACES, weights=[1, -1])
    faces = AttributeModel(make_denoiser("face_unet", attributes=("Smiling", "Male", "Young")))
    with pytest.raises(UserError, match="named twice"):
        faces.generate(attributes=["Smiling", "-Smiling"])


class Sees:
    """Answers as of a model that sees the same in every picture."""

    def __init__(self, answer, **facts):
        self.answer, self.model = answer, SimpleNamespace(facts=Facts(**facts))

    def __call__(self, pictures, *classes, **settings):
        return [self.answer] * len(pictures)


def test_found_again_is_counted_by_hand():
    """One of two places is 0.01 off; its colour is right and its shape is wrong; the other object is far away."""
    at = np.array([[0.31, 0.4], [0.1, 0.9]])
    seen = SimpleNamespace(positions=at, objects=[SimpleNamespace(attributes={"shape": "cube", "color": "red"})] * 2)
    model, pictures = Sees(seen, vocabulary=VOCABULARY), [None] * 4
    again = KINDS["positions"].find_again(model, pictures, PLACES)
    assert (again.found, again.of) == (4, 8) and str(again) == "found again: 50.0 % of 8 objects within 0.05"
    red = [{"position": place, "color": "red"} for place in PLACES]
    assert KINDS["objects"].find_again(model, pictures, red).whole == 4
    spheres = [{**own, "shape": "sphere"} for own in red]
    assert (again := KINDS["objects"].find_again(model, pictures, spheres)).whole == 0 and again.found == 4
    faces = KINDS["attributes"].find_again(
        Sees(SimpleNamespace(names=["Young"])), [None] * 2, ["Young", "-Male", "Old"]
    )
    assert (faces.found, faces.of) == (4, 6)
    zoo = Sees(SimpleNamespace(names=["cat", "cow"]), classes=("cat", "cow", "dog"))
    assert KINDS["prompts"].find_again(zoo, [None] * 3, ["a photo of a cat", "one dog"]).found == 3
    assert KINDS["prompts"].find_again(zoo, [None] * 3, ["a photo of a car"]) is None


@pytest.fixture(scope="module")
def scene(objects):
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return objects(
        Image.fromarray(noise), num_objects=2, num_candidates=16, num_draws=2, num_steps=1, confidence_draws=4
    )


def test_an_edit_of_little_strength_leaves_the_picture(scene):
    """The last step alone starts at timestep 0, where the noise has a standard deviation of 0.01."""
    real = np.asarray(scene.image, dtype=float)

    def change(strength):
        return np.abs(np.asarray(scene.move(0, (0.3, 0.7)).render(strength, num_steps=50), dtype=float) - real).mean()

    assert change(0.001) < 5 < change(1.0)
    assert change(0.001) < change(0.5)


def test_edits_are_the_objects_that_are_to_be(scene):
    assert scene.move(1, (0.3, 0.7)).objects[1] == {**scene.parts()[1], "position": (0.3, 0.7)}
    assert scene.remove(0).objects == (scene.parts()[1],)
    assert scene.add((0.1, 0.2), color="red").objects[2] == {"position": (0.1, 0.2), "color": "red"}
    assert scene.recolour(0, "green").remove(1).objects == ({**scene.parts()[0], "color": "green"},)
    assert scene.parts()[0]["color"] in VOCABULARY["color"]
    for edit, words in [
        (lambda: scene.move(2, (0, 0)), "numbered from 0"),
        (lambda: scene.move(0, (0, 2)), "0 to 1"),
        (lambda: scene.recolour(0, "pink"), "pink"),
        (lambda: scene.edit().render(0.0), "strength"),
        (lambda: scene.remove(0).remove(0).render(), "at least one"),
    ]:
        with pytest.raises(UserError, match=words):
            edit()


def test_places_alone_have_no_colour():
    model = PositionModel(separable())
    found = model(np.zeros((16, 16, 3)), num_objects=1, num_candidates=16, num_draws=2, num_steps=1, confidence_draws=4)
    assert found.move(0, (0.2, 0.2)).render(0.5, **QUICK).size == (16, 16)
    with pytest.raises(UserError, match="places alone"):
        found.recolour(0, "red")


def test_a_pickled_scene_has_no_model(scene):
    for own in (pickle.loads(pickle.dumps(scene)), copy.copy(scene)):
        assert own.model is None and own.to_dict() == scene.to_dict()
        with pytest.raises(UserError, match="infer its picture again"):
            own.move(0, (0.5, 0.5))
    assert scene.model is not None and "model" not in scene.to_dict()


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return write_pipeline(tmp_path_factory.mktemp("sd"), "epsilon")


def test_guidance_of_a_pipeline_is_the_usual_formula(pipeline):
    """u + g (f - u), where u is the prediction of the empty prompt and f the mean of those of the prompts."""
    model = StableDiffusion.from_pretrained(pipeline)
    x_t, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    composition = Composition(KINDS["prompts"], ["a cat", "a dog"])
    found = composition.predictor(model, None)(1)(x_t, t)
    cat, dog, u = model.predict(x_t, t, model.encode_prompts(["a cat", "a dog", ""])[None])[0]
    assert torch.allclose(found[0], u + 7.5 * ((cat + dog) / 2 - u), atol=1e-4)
    one = PromptModel(model).generate(prompts=["a cat"], negative=["a dog"], num_steps=2)
    assert [picture.size for picture in one] == [(16, 16)]


def test_the_command_writes_pictures_and_what_is_found_again(tmp_path, run_script, run_main):
    ObjectModel(separable(VOCABULARY)).model.save_pretrained(tmp_path / "model")
    folder = tmp_path / "out"
    options = ["--checkpoint", tmp_path / "model", "--num_images", 3, "--num_steps", 2, "--out", folder]
    done = run_script(
        "generate.py", *options, "--objects", "red cube @0.3,0.4", "@0.7,0.6", "--negative", "blue @0.5,0.2"
    )
    assert done.returncode == 0, done.stderr
    assert sorted(file.name for file in folder.glob("*.png")) == ["0000.png", "0001.png", "0002.png", "grid.png"]
    record = json.loads((folder / "generation.json").read_text())
    again = record["found_again"]
    assert again["of"] == 6 and again["share"] == again["found"] / 6 and record["options"]["guidance"] == 1.5
    assert f"found again: {100 * again['share']:.1f} % of 6 objects within 0.05" in done.stdout
    code, _, err = run_main("generate", *options, "--objects", "red cube @0.3,0.4")
    assert code == 2 and err.count("\n") == 1 and "--out" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--checkpoint animals-mini --positions 0.3,0.7", "knows --prompts"),
        ("--checkpoint celeba-mini --attributes Smiling -Male", "attribute Male: the model knows Black_Hair"),
        ("--positions 0.3;0.7", "like 0.3,0.7"),
        ("--checkpoint clevr-scene-mini --objects 'red cube'", "say where with @x,y"),
        ("--checkpoint clevr-scene-mini --objects 'red blue cube @0.3,0.7'", "two values of color"),
        ("--positions 0.3,0.7 --prompts 'a cat'", "--positions and --prompts"),
        ("--num_images 2", "nothing asked for"),
        ("--positions 0.3,0.7 --weights 1 2", "give one for each"),
    ],
)
def test_mistakes_show_before_a_model_loads(arguments, words, run_main, no_model, tmp_path):
    code, _, err = run_main("generate", *shlex.split(arguments), "--out", tmp_path / "out")
    assert code == 2 and words in err and err.count("\n") == 1


def shown_commands() -> list[str]:
    text = (
        (ROOT / "docs" / "generation.md").read_text()
        + (ROOT / "README.md").read_text()
        + (ROOT / "generate.py").read_text()
    )
    return sorted({line.strip() for line in text.splitlines() if line.strip().startswith("python generate.py")})


@pytest.mark.parametrize("command", shown_commands())
def test_commands_that_are_shown_run(command, run_main, tmp_path):
    small = ["--num_images", 1, "--num_steps", 2, "--no_check", "--out", tmp_path / "out"]
    code, _, err = run_main("generate", *shlex.split(command)[2:], *small)
    assert code == 0, err
    assert (tmp_path / "out" / "0000.png").is_file()
