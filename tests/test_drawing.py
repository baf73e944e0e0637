"""Networks that draw: what they are by hand, that objects know of each other, and that they draw while a partner reads."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from conftest import as_flags
from diffusers import DDPMScheduler
from test_scripts import check_refused

from igm import UserError
from igm.api import DrawingModel, ObjectModel, load_model
from igm.composition import predictor
from igm.data.clevr import Clevr
from igm.data.varied import Variation, VariedScenes
from igm.data.vocabulary import cond_size
from igm.facts import Facts
from igm.generation import Composition
from igm.kinds import KINDS
from igm.models.codec import PatchPCA
from igm.models.denoiser import Denoiser
from igm.models.drawing import DrawingUNet
from igm.models.separable import SeparableUNet
from igm.training.drawing import DrawingLearner

VOCABULARY = {"shape": ("cube", "sphere"), "color": ("blue", "red", "green")}
SMALL = {
    "sample_size": 4,
    "in_channels": 48,
    "block_out_channels": (16, 32),
    "rank": 8,
    "hidden": 16,
    "attention": (False, False),
}
SCENE = [{"position": (0.3, 0.4), "color": "red"}, {"position": (0.7, 0.6), "shape": "cube"}]
NOISE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def denoiser(kind: type = DrawingUNet, seed: int = 0, **facts) -> Denoiser:
    """A small random network on 16-pixel pictures, 4 x 4 to a latent."""
    torch.manual_seed(seed)
    codec = PatchPCA(4, 48)
    codec.components.copy_(torch.eye(48))
    known = Facts(task="objects", vocabulary=VOCABULARY, attribute_scale=1.0, **facts)
    return Denoiser(kind(**SMALL, cond_size=7), DDPMScheduler(), codec, known).eval().requires_grad_(False)


def question(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x_t (2, C, H, W), t (2,) and three concepts."""
    generator = torch.Generator().manual_seed(seed)
    x_t = torch.randn(2, 48, 4, 4, generator=generator)
    return x_t, torch.tensor([100, 800]), torch.rand(3, 7, generator=generator)


def predict(own: Denoiser, x_t: torch.Tensor, t: torch.Tensor, conds: torch.Tensor) -> torch.Tensor:
    """The prediction of the same concepts for each image."""
    if not len(conds):
        return own.predict_weighted(x_t, t, conds, torch.empty(0), torch.empty(0, dtype=torch.long))
    return predictor(own, conds.expand(len(x_t), -1, -1), torch.ones(len(x_t), len(conds)))(x_t, t)


def test_the_trunk_sees_the_sum_of_what_the_objects_show():
    """By hand, from the trunk and phi alone; in any order, and with padding of weight 0 as without."""
    own = denoiser()
    (x_t, t, conds), network = question(), own.network
    shown = network.phi(conds).sum(0).expand(2, -1, -1, -1)
    grid = (2 * network.grid - 1).expand(2, -1, -1, -1)
    by_hand = network.trunk(torch.cat([x_t, shown, grid], 1), t).sample
    found = predict(own, x_t, t, conds)
    assert torch.allclose(found, by_hand, atol=1e-5)
    assert torch.allclose(predict(own, x_t, t, conds[[2, 0, 1]]), found, atol=1e-5)
    pairs, index = conds.repeat(2, 1), torch.tensor([0, 0, 0, 1, 1, 1])
    padded = own.predict_weighted(
        x_t, t, torch.cat([pairs, pairs[:1]]), torch.tensor([1.0] * 6 + [0]), torch.cat([index, index[:1]])
    )
    assert torch.allclose(padded, found, atol=1e-5)
    each = own.predict(x_t, t, conds.expand(2, -1, -1))  # (2, 3, C, H, W)
    assert torch.allclose(each[:, 1], predict(own, x_t, t, conds[1:2]), atol=1e-5)


@pytest.mark.parametrize(("kind", "knows"), [(DrawingUNet, True), (SeparableUNet, False)])
def test_objects_know_of_each_other(kind, knows):
    """What two objects change together is the sum of what each changes in a separable network, and not in this one."""
    own = denoiser(kind)
    x_t, t, conds = question()
    none, a, b, both = (predict(own, x_t, t, conds[part]) for part in ([], [0], [1], [0, 1]))
    together = (both - none) - (a - none) - (b - none)
    assert (float(together.abs().max()) > 1e-3) == knows


def test_guidance_leads_away_from_unknown_attributes():
    """u + g (f - u), where u is the prediction of the same places; 1 is the prediction itself."""
    own = denoiser(learner="drawing")
    x_t, t, _ = question()
    composition = Composition(KINDS["objects"], SCENE)
    conds = KINDS["objects"].conds(SCENE, own)
    f, u = predict(own, x_t, t, conds), predict(own, x_t, t, conds * torch.tensor([1.0, 1, 0, 0, 0, 0, 0]))
    assert torch.allclose(composition.predictor(own, 1.0)(2)(x_t, t), f, atol=1e-5)
    assert torch.allclose(composition.predictor(own, 2.5)(2)(x_t, t), u + 2.5 * (f - u), atol=1e-5)
    own.facts = Facts(task="positions", learner="drawing")
    own.network = DrawingUNet(**SMALL, cond_size=2)
    with pytest.raises(UserError, match=r"guidance 2: .*places alone"):
        Composition(KINDS["positions"], [(0.3, 0.4)]).predictor(own, 2.0)


def test_most_attributes_are_known_in_its_training(tmp_path, clevr_root):
    """All of a picture's are forgotten in 10 %, else each in 5 %."""
    scenes = VariedScenes(
        Clevr(clevr_root, "train", (3, 5), 16, fields=("all",)), Variation(share=0.0), DrawingLearner.forgetting
    )
    rng, known = np.random.default_rng(0), []
    for k in range(3000):
        item = scenes.varied(k % len(scenes), rng)
        known.append(float((item["conds"][item["mask"] > 0][:, 2:].sum(1) / 4).mean()))
    assert np.mean(np.array(known) == 0) == pytest.approx(0.1, abs=0.02)
    assert np.mean([share for share in known if share]) == pytest.approx(0.95, abs=0.01)


@pytest.fixture
def both(tmp_path):
    """A model that reads and one that draws, each the other's partner."""
    reads, draws = tmp_path / "reads", tmp_path / "draws"
    denoiser(SeparableUNet, partner=str(draws)).save_pretrained(reads)
    denoiser(learner="drawing", partner=str(reads)).save_pretrained(draws)
    return reads, draws


def test_one_draws_and_its_partner_reads(both):
    reads, draws = (load_model(folder, "cpu") for folder in both)
    assert isinstance(draws, DrawingModel) and draws.task == "objects" and draws.asks == ObjectModel.asks
    pictures = draws.generate(objects=SCENE, num_images=2, num_steps=3)
    assert [picture.size for picture in pictures] == [(16, 16)] * 2
    assert isinstance(draws.reader, ObjectModel) and draws.drawer is draws and reads.reader is reads
    quick = {"num_candidates": 16, "num_draws": 2, "num_steps": 1, "confidence_draws": 4}
    draws.reader.build = lambda kind, settings, names: ObjectModel.build(reads, kind, {**settings, **quick}, names)
    assert draws.find_again(pictures, objects=SCENE).of == 4
    with pytest.raises(UserError, match="draws scenes, and finds none in pictures; load .*reads"):
        draws(pictures[0])


def test_a_changed_scene_is_drawn_by_the_partner(both):
    """The same edit, noise and strength: with the partner as it would draw it, and else as the reader does."""
    reads = load_model(both[0], "cpu")
    quick = {"num_candidates": 16, "num_draws": 2, "num_steps": 1, "confidence_draws": 4}
    scene = reads(NOISE, num_objects=2, **quick)
    edit = scene.move(0, (0.3, 0.7))
    found = edit.render(0.7, num_steps=5)
    assert isinstance(reads.drawer, DrawingModel) and found.tobytes() == edit.render(0.7, num_steps=5).tobytes()
    reads.model.facts = dataclasses.replace(reads.model.facts, partner=None)
    del reads.partner
    assert reads.drawer is reads and found.tobytes() != edit.render(0.7, num_steps=5).tobytes()


def test_a_drawing_without_a_partner_says_so(tmp_path, run_main):
    denoiser(learner="drawing").save_pretrained(tmp_path / "draws")
    model = load_model(tmp_path / "draws", "cpu")
    with pytest.raises(UserError, match="names no partner"):
        model.find_again(model.generate(objects=SCENE, num_steps=2), objects=SCENE)
    command = ["--checkpoint", tmp_path / "draws", "--num_steps", 2, "--num_images", 1, "--out", tmp_path / "out"]
    code, _, err = run_main("generate", *command, "--objects", "red cube @0.3,0.4")
    check_refused(code, err, "names no partner", "--no_check")
    code, out, err = run_main("generate", *command, "--objects", "red cube @0.3,0.4", "--no_check")
    assert code == 0 and "found again" not in out, err
    assert json.loads((tmp_path / "out" / "generation.json").read_text())["found_again"] is None


def test_weights_are_refused_before_it_loads(both, run_main, no_model, tmp_path):
    command = ["--checkpoint", both[1], "--out", tmp_path / "out", "--positions", "0.3,0.4", "0.7,0.6"]
    for more in (["--negative", "0.5,0.2"], ["--weights", 1, 0.5]):
        code, _, err = run_main("generate", *command, *more)
        check_refused(code, err, "draws the objects of a scene together", "clevr-scene-mini")


def test_a_training_draws_and_infers_nothing(run_main, training_args, clevr_root, tmp_path):
    config = tmp_path / "drawing.json"
    vocabulary = Clevr(clevr_root, "train", (3, 5), 16, fields=("all",)).vocabulary
    network = {**SMALL, "_class_name": "DrawingUNet", "sample_size": 8, "in_channels": 4}
    config.write_text(json.dumps({**network, "cond_size": cond_size(vocabulary)}))
    train = [
        *training_args(clevr_root, "unet")(unet_config=config),
        *as_flags({"fields": "all", "learner": "drawing", "tracker_project_name": "drawn"}),
    ]
    code, _, err = run_main("train_clevr", *train)
    assert code == 0 and "no effect" not in err, err
    checkpoint = tmp_path / "out" / "drawn" / "checkpoint-2"
    facts = Facts.read(checkpoint)
    assert (facts.task, facts.learner) == ("objects", "drawing") and facts.draws
    assert isinstance(load_model(checkpoint, "cpu"), DrawingModel)
    code, _, err = run_main("eval_clevr", "--dataset_root", clevr_root, "--checkpoint", checkpoint)
    check_refused(code, err.splitlines()[-1], "was trained as drawing", "another")
    code, _, err = run_main("scripts.calibrate", "--checkpoint", checkpoint, "--dataset_root", clevr_root)
    check_refused(code, err.splitlines()[-1], "draws scenes and infers nothing")
    assert DrawingLearner(denoiser()).inference_model() is None
    code, _, err = run_main("train_clevr", *train, "--learner", "compositional")
    check_refused(code, err.splitlines()[-1], "--unet_config", "--learner drawing")
    code, _, err = run_main("train_clevr", *train, "--unet_config", "configs/clevr-2D-pos/unet")
    check_refused(code, err.splitlines()[-1], "--unet_config")
