"""Whole objects: the reader's fields, the network's phi, the search of attributes against brute force, scores by hand."""

import dataclasses
import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SEPARABLE_UNET, write_clevr
from diffusers import DDPMScheduler
from test_scripts import check_refused

from igm import UserError
from igm.api import ObjectModel
from igm.average_precision import average_precision
from igm.calibration.objects import fit_attribute_scale
from igm.data import DataError
from igm.data.clevr import Clevr
from igm.data.varied import Forgetting, Variation, VariedScenes
from igm.data.vocabulary import (
    FIELDS,
    blocks,
    cond_size,
    decode_objects,
    encode_object,
    forget,
    names_of,
    vocabulary_of,
)
from igm.error_form import ErrorForm
from igm.evaluation.summary import rescore
from igm.facts import Facts
from igm.figures.objects import attribute_confusion, confusion, label_of, scene_sheet, true_objects
from igm.inference import describing
from igm.inference.closed_form_refine import refine
from igm.inference.describing import combinations, describe, evidence, marginals, omissions
from igm.inference.objects import ObjectsMethod, SceneSearch
from igm.inference.phi import Phi
from igm.inference.settings import PursuitSettings
from igm.inference.types import Posterior
from igm.inference.views import views_of
from igm.models import ModelError
from igm.models.codec import PatchPCA
from igm.models.denoiser import Denoiser
from igm.models.separable import SeparableUNet
from igm.tasks import find_task
from igm.tasks.objects import SceneObject

VOCABULARY = {"shape": ("cube", "sphere"), "color": ("blue", "red", "yellow")}
SETTINGS = PursuitSettings(
    num_candidates=25, num_draws=6, count_draws=5, confidence_draws=4, min_separation=0.2, max_objects=3
)


@pytest.fixture(scope="module")
def network() -> SeparableUNet:
    torch.manual_seed(0)
    return (
        SeparableUNet(4, 3, (32, 32), rank=8, hidden=16, windows=(0.1, 0.3), cond_size=7).eval().requires_grad_(False)
    )


PLACES = torch.tensor([[0.3, 0.3], [0.7, 0.4], [0.45, 0.8]])
TRUE = (1, 5, 3)  # their combinations


@pytest.fixture(scope="module")
def form(network) -> ErrorForm:
    """An error form whose least error is that of three objects, nearly: g = H m + noise, m theirs; H positive."""
    generator = torch.Generator().manual_seed(3)
    root = torch.randn(1, 16, 8, 8, generator=generator) * 0.2
    H = root @ root.transpose(2, 3) + 0.01 * torch.eye(8)
    m = Phi(network)(torch.cat([PLACES, combinations(VOCABULARY)[list(TRUE)]], dim=1)).sum(0)  # (P, R)
    g = (H @ m[None, :, :, None])[..., 0]
    noise = torch.randn(g.shape, generator=generator) * g.std() * 1e-3
    return ErrorForm(torch.tensor([1.0]), g + noise, H)


def write_scenes(root, split, counts, seed=4, **changes):
    """CLEVR scenes whose objects differ in every attribute; `changes` to the first object of the first scene."""
    file = write_clevr(root, split, counts, seed=seed)
    found = json.loads(file.read_text())
    rng = np.random.default_rng(0)
    for thing in (thing for scene in found["scenes"] for thing in scene["objects"]):
        thing["shape"] = str(rng.choice(["cube", "sphere", "cylinder"]))
        thing["size"] = str(rng.choice(["large", "small"]))
        thing["material"] = str(rng.choice(["metal", "rubber"]))
    first = found["scenes"][0]["objects"][0]
    first.update(changes)
    for name in [name for name, value in changes.items() if value is None]:
        del first[name]
    file.write_text(json.dumps(found))
    return found["scenes"]


# Conditions


def test_conditions_say_what_the_json_says(tmp_path):
    scenes = write_scenes(tmp_path, "train", [3, 4, 5])
    dataset = Clevr(tmp_path, "train", (3, 5), fields=("all",))
    vocabulary = dataset.facts()["vocabulary"]
    assert list(vocabulary) == ["shape", "color", "material", "size"]
    assert vocabulary["shape"] == ("cube", "cylinder", "sphere") and vocabulary["size"] == ("large", "small")
    for item, scene in zip(dataset, scenes, strict=True):
        own = item["conds"][item["mask"] > 0]
        assert own.shape == (len(scene["objects"]), cond_size(vocabulary))
        said = [{name: thing[name] for name in vocabulary} for thing in scene["objects"]]
        assert decode_objects(own, vocabulary) == said
        plain = Clevr(tmp_path, "train", (3, 5))
        torch.testing.assert_close(own[:, :2], plain.annotation(scene["image_index"])["conds"][: len(own)])
    assert (
        Facts.from_json(json.loads(json.dumps(Facts(task="objects", **dataset.facts()).to_json()))).vocabulary
        == vocabulary
    )


def test_fields_are_chosen_and_the_order_is_one(tmp_path):
    write_scenes(tmp_path, "train", [3])
    dataset = Clevr(tmp_path, "train", (3, 5), fields=("size", "shape"), flip=True)
    assert list(dataset.vocabulary) == ["shape", "size"]
    first, mirrored = dataset.annotation(0)["conds"], dataset.annotation(1)["conds"]
    assert torch.equal(first[:, 2:], mirrored[:, 2:]) and not torch.equal(first[:, 0], mirrored[:, 0])


def test_a_missing_field_and_a_foreign_value_are_named(tmp_path):
    write_scenes(tmp_path, "train", [3, 4], material=None)
    with pytest.raises(DataError, match=r"CLEVR_train_scenes.json, scene 1, object 1: it has no material; .*--fields"):
        Clevr(tmp_path, "train", (3, 5), fields=("all",))
    assert len(Clevr(tmp_path, "train", (3, 5), fields=("shape",))) == 2
    write_scenes(tmp_path, "val", [3, 4], shape="teapot")
    scenes = Clevr(tmp_path, "val", (3, 5), fields=("shape",))
    with pytest.raises(DataError, match=r"object 1: shape is 'teapot', which the checkpoint does not know"):
        scenes.speak({"shape": ("cube", "cylinder", "sphere")}, "the checkpoint")
    scenes.speak({"shape": ("sphere", "teapot", "cube", "cylinder")}, "the checkpoint")
    assert decode_objects(scenes[0]["conds"][:1], scenes.vocabulary) == [{"shape": "teapot"}]


def test_values_are_forgotten_by_blocks_as_often_as_said():
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, 2, 5), rng.integers(0, 3, 5)], axis=1)
    conds = torch.cat([torch.rand(5, 2), torch.from_numpy(encode_object(codes, VOCABULARY))], dim=1)
    kept = torch.stack([forget(conds, VOCABULARY, rng, whole=0.25, block=0.2) for _ in range(4000)])
    assert bool((kept[..., :2] == conds[:, :2]).all())
    shares = [float(kept[..., part].sum(-1).mean()) for _, part in blocks(VOCABULARY)]
    np.testing.assert_allclose(shares, 0.75 * 0.8, atol=0.02)
    whole = (kept[..., 2:].sum((1, 2)) == 0).float().mean()
    assert abs(float(whole) - 0.25) < 0.03


def test_a_changed_colour_has_no_name(tmp_path):
    write_scenes(tmp_path, "train", [3, 4, 5])
    look = Variation(share=1.0, frame=(0.85, 1.2))  # nothing so large that its size has no name
    scenes = VariedScenes(Clevr(tmp_path, "train", (3, 5), fields=("all",)), look, Forgetting(0, 0))
    seen = [scenes.varied(i, np.random.default_rng([i, n])) for i in range(3) for n in range(20)]
    named = [decode_objects(item["conds"][item["mask"] > 0], scenes.vocabulary) for item in seen]
    assert {own[0]["color"] is None for own in named} == {True, False}  # the hue turns in half of them
    assert all(thing["shape"] and thing["size"] for own in named for thing in own)


def test_what_is_enlarged_has_no_size(tmp_path):
    write_scenes(tmp_path, "train", [3, 4, 5])
    clevr = Clevr(tmp_path, "train", (3, 5), fields=("all",))
    for widest, known in ((0.75, {True, False}), (1.0, {True})):  # half of the pictures are framed anew
        look = Variation(share=1.0, frame=(widest, widest), margin=-1.0)  # a negative one: whatever the places are
        scenes = VariedScenes(clevr, look, Forgetting(0, 0))
        seen = [scenes.varied(i, np.random.default_rng([i, n])) for i in range(3) for n in range(20)]
        named = [decode_objects(item["conds"][item["mask"] > 0], scenes.vocabulary) for item in seen]
        assert {own[0]["size"] is not None for own in named} == known


def test_a_single_attribute_is_unknown_of_all_objects_or_of_none(tmp_path):
    write_scenes(tmp_path, "train", [3, 4, 5])
    scenes = VariedScenes(
        Clevr(tmp_path, "train", (3, 5), fields=("shape",)), Variation(share=0.0), Forgetting(0.3, 0.9)
    )
    seen = [scenes.varied(i, np.random.default_rng([i, n])) for i in range(3) for n in range(100)]
    shares = [float(item["conds"][item["mask"] > 0][:, 2:].sum(1).mean()) for item in seen]
    assert set(shares) == {0.0, 1.0} and abs(np.mean(shares) - 0.7) < 0.1


def test_names_and_vocabularies_are_each_others_inverse():
    assert vocabulary_of(names_of(VOCABULARY)) == VOCABULARY and cond_size(VOCABULARY) == 7


# The network


def test_slopes_of_phi_are_its_derivatives_in_the_place(network):
    conds = torch.cat([torch.rand(3, 2), combinations(VOCABULARY)[:3]], dim=1)
    value, slope = network.phi_and_slopes(conds)
    torch.testing.assert_close(value, network.phi(conds))
    wanted = torch.func.jacfwd(lambda own: network.phi(own[None])[0])
    for own, found in zip(conds, slope, strict=True):
        torch.testing.assert_close(found, wanted(own)[..., :2].movedim(-1, 0), atol=1e-5, rtol=1e-4)


def test_places_alone_are_objects_of_unknown_attributes(network):
    places = torch.rand(4, 2)
    whole = torch.nn.functional.pad(places, (0, 5))
    torch.testing.assert_close(Phi(network)(places), Phi(network)(whole), atol=1e-4, rtol=1e-3)  # of the table


def test_refinement_moves_places_and_keeps_attributes(network, form):
    conds = torch.cat([PLACES + torch.tensor([0.04, -0.03]), combinations(VOCABULARY)[list(TRUE)]], dim=1)
    real = torch.ones(1, 1, 3, dtype=torch.bool)
    start = refine(form, Phi(network), conds[None, None], real, min_separation=0.1, num_steps=0)
    found = refine(form, Phi(network), conds[None, None], real, min_separation=0.1, num_steps=10)
    assert torch.equal(found.conds[0, 0, :, 2:], conds[:, 2:]) and float(found.error) < float(start.error)
    assert float((found.conds[0, 0, :, :2] - PLACES).norm(dim=1).max()) < 0.01  # back where the objects are


# The search of attributes


def brute_force(form, phi, places, values):
    """The error of every assignment of combinations to objects: {numbers: error}."""
    errors = {}
    for numbers in itertools.product(range(len(values)), repeat=len(places)):
        m = phi(torch.cat([places, values[list(numbers)]], dim=1)).sum(0)
        errors[numbers] = float(form.error_at_best_gain(m[None, None])[0])
    return errors


def test_attributes_are_the_best_given_all_others_and_here_the_best_of_all(network, form):
    phi, values, places = Phi(network), combinations(VOCABULARY), PLACES
    errors = brute_force(form, phi, places, values)
    conds = describe(form, phi, places, values)
    numbers = tuple(int((values == own).all(1).nonzero()) for own in conds[:, 2:])
    for k, number in itertools.product(range(3), range(len(values))):
        other = (*numbers[:k], number, *numbers[k + 1 :])
        assert errors[numbers] <= errors[other] + 1e-7
    assert errors[numbers] == pytest.approx(min(errors.values()), abs=1e-6) and numbers == TRUE
    lower = evidence(form, phi, conds, values)
    base = float(form.const)
    for k, number in itertools.product(range(3), range(len(values))):
        other = (*numbers[:k], number, *numbers[k + 1 :])
        assert float(lower[k, number]) == pytest.approx((base - errors[other]) * 16 * 3, abs=1e-3)


def test_what_has_none_of_the_known_values_stays_unknown(network, form):
    """Two objects are of the vocabulary; the third's colour is none of it."""
    phi, values, omitted = Phi(network), combinations(VOCABULARY), omissions(VOCABULARY)
    assert omitted.tolist() == [[0, 0, 0, 0, 0], [0, 0, 1, 1, 1], [1, 1, 0, 0, 0]]
    choices = torch.cat([values, (values[:, None] * omitted).flatten(0, 1)]).unique(dim=0)
    assert len(choices) == 3 * 4
    conds = torch.cat([PLACES, combinations(VOCABULARY)[list(TRUE)]], dim=1)
    conds[2, 4:] = 0
    odd = ErrorForm(form.const, (form.H @ phi(conds).sum(0)[None, :, :, None])[..., 0], form.H)
    found = describe(odd, phi, PLACES, values, omitted=omitted)
    assert torch.equal(found, conds) and not torch.equal(describe(odd, phi, PLACES, values), conds)
    errors = brute_force(odd, phi, PLACES, choices)
    numbers = tuple(int((choices == own).all(1).nonzero()) for own in found[:, 2:])
    assert errors[numbers] == pytest.approx(min(errors.values()), abs=1e-6)


def test_a_short_list_gives_what_all_combinations_give(network, form, monkeypatch):
    """Where phi is cut off nowhere, the scores that choose the short list are exact, too."""
    phi, values = Phi(network), combinations(VOCABULARY)
    conds = describe(form, phi, PLACES, values)
    lower = evidence(form, phi, conds, values)
    monkeypatch.setattr(describing, "SHORT", 2)
    assert torch.equal(describe(form, phi, PLACES, values), conds)
    torch.testing.assert_close(evidence(form, phi, conds, values), lower, atol=1e-3, rtol=1e-4)
    monkeypatch.setattr(describing, "NEAR", 9)  # of 16 places
    assert torch.equal(describe(form, phi, PLACES, values), conds)


def test_phi_at_places_around_an_object_is_that_of_all(network):
    phi = Phi(network, views_of(4, mirrored=True))
    place, values = torch.rand(2), combinations(VOCABULARY)[:3]
    conds = torch.cat([place.expand(3, -1), values], dim=1)
    near = phi.around(place, 5)
    torch.testing.assert_close(phi.at(place, values, near), phi(conds)[:, near])
    both = torch.stack([conds, conds.flip(0) * 0.9])  # (K, T, D)
    of_values = phi.of_values(torch.stack([place, 0.9 * place]), both[:, :, 2:])
    torch.testing.assert_close(of_values, torch.stack([phi(own) for own in both]))
    grid = network.grid.flatten(1).T
    for view, own in zip(phi.views, near.view(2, 5) - torch.tensor([[0], [16]]), strict=True):
        distances = torch.cdist(view.concepts(place[None]), grid)[0]
        assert float(distances[own].max()) <= float(distances.sort().values[4]) + 1e-6


def test_marginals_are_the_sums_of_a_softmax():
    values, lower = combinations(VOCABULARY), torch.tensor([[0.0, 1.0, 2.0, 0.5, 0.5, 0.0]])
    weights = np.exp(2 * lower.numpy()[0])
    shares = marginals(lower, values, 2.0)[0].numpy()
    np.testing.assert_allclose(shares[0], weights[:3].sum() / weights.sum(), rtol=1e-5)  # cube: the first three
    np.testing.assert_allclose(shares[2], (weights[0] + weights[3]) / weights.sum(), rtol=1e-5)  # blue
    np.testing.assert_allclose([shares[:2].sum(), shares[2:].sum()], 1, rtol=1e-6)
    np.testing.assert_allclose(marginals(lower, values, 0.0)[0], [1 / 2] * 2 + [1 / 3] * 3, rtol=1e-6)


def test_the_scale_is_that_of_the_truth():
    """Truths drawn from a softmax of a known scale give that scale back."""
    generator, values = torch.Generator().manual_seed(0), combinations(VOCABULARY)
    lower = torch.randn(4000, 6, generator=generator)
    numbers = torch.multinomial(torch.softmax(3 * lower, 1), 1, generator=generator)[:, 0]
    assert 2.4 < fit_attribute_scale(lower, values[numbers], values) < 3.8


@pytest.fixture(scope="module")
def denoiser(network) -> Denoiser:
    facts = Facts(task="objects", vocabulary=VOCABULARY)
    return Denoiser(network, DDPMScheduler(prediction_type="v_prediction"), facts=facts).eval()


@pytest.mark.parametrize("count", ["known", "infer"])
def test_an_image_becomes_objects(denoiser, count):
    mean = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    method = ObjectsMethod(denoiser, dataclasses.replace(SETTINGS, count=count))
    known = torch.tensor([2, 3]) if count == "known" else None
    found = method.infer(Posterior(mean, torch.zeros_like(mean)), known, image_numbers=None, batch_size=64)
    task = find_task("objects")
    if found.count_errors is not None:  # one of every number, in order
        assert all(own.shape == (5, 3) for own in found.count_errors)
    for row, k in enumerate(found.num_concepts.tolist()):
        record = task.record(found, row, method.names)
        assert len(record["objects_pred"]) == len(record["attribute_confidence"]) == k
        assert all(own["shape"] in VOCABULARY["shape"] for own in record["objects_pred"])
        assert all(0 <= sure <= 1 for own in record["attribute_confidence"] for sure in own.values())
        scene = task.answer(found, row, method.names)
        assert scene.positions.shape == (k, 2) and scene.objects[0].color == record["objects_pred"][0]["color"]
        shares = scene.objects[0].shares["color"]
        assert sum(shares.values()) == pytest.approx(1) and scene.objects[0].likely(color="red") == shares["red"]
        with pytest.raises(AttributeError, match="no 'weight'"):
            _ = scene.objects[0].weight
        assert json.dumps(scene.to_dict()) and scene.draw().size == (512, 512)


def test_an_unknown_task_of_a_checkpoint_is_named_with_its_file(denoiser, tmp_path, run_main):
    denoiser.save_pretrained(tmp_path)
    facts = json.loads((tmp_path / "igm.json").read_text())
    (tmp_path / "igm.json").write_text(json.dumps({**facts, "task": "birds"}))
    code, _, err = run_main("eval_clevr", "--checkpoint", tmp_path, "--output_dir", tmp_path / "out")
    check_refused(code, err, f"--checkpoint {tmp_path}, igm.json: no task is called 'birds'")


def test_partial_questions(denoiser):
    model, picture = ObjectModel(denoiser), torch.rand(3, 32, 32)
    denoiser.codec, before = PatchPCA(patch_size=8, latent_channels=3), denoiser.codec
    try:
        settings = {"num_candidates": 16, "num_draws": 4, "count_draws": 4, "max_objects": 3}
        asked = model.ask(picture, [[0.3, 0.4], [0.8, 0.7]], **settings)
        np.testing.assert_allclose([own.position for own in asked], [[0.3, 0.4], [0.8, 0.7]], rtol=1e-6)
        found = model.find(picture, 3, shape="cube")
        assert all(own.likely(shape="cube") >= 0.5 for own in found)
        for wrong, part in (({"weight": "1"}, "knows shape, color"), ({"color": "mauve"}, "knows blue, red, yellow")):
            with pytest.raises(UserError, match=part):
                model.find(picture, **wrong)
        for places in ([[0.5, 1.5]], [], [0.5, 0.5], [[float("nan"), 0.5]]):
            with pytest.raises(UserError, match=r"in 0 to 1 of the picture"):
                model.ask(picture, places)
    finally:
        denoiser.codec = before


def test_what_is_found_comes_the_surest_first_and_otherwise_as_in_the_scene(denoiser, monkeypatch):
    """Rounding, which differs from one processor to another, decides nothing."""
    sure = [0.99999994, 0.4, 0.7, 0.99999997, 0.8]
    objects = [SceneObject((i / 10, 0.5), {}, None, {"color": {"red": own}}) for i, own in enumerate(sure)]
    monkeypatch.setattr(ObjectModel, "__call__", lambda self, picture, number=None: SimpleNamespace(objects=objects))
    found = ObjectModel(denoiser).find(None, color="red")
    assert [round(10 * own.position[0]) for own in found] == [0, 3, 4, 2]


def test_attributes_lower_the_error_of_a_set(denoiser):
    mean = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(5))
    search = SceneSearch(denoiser, Posterior(mean, torch.zeros_like(mean)), SETTINGS)
    before = search.known(torch.tensor([2]))[0]
    after = search.described(0, before)
    assert float(after.error) < float(before.error)


def test_unknown_values_are_named_by_the_best_known_ones(denoiser):
    mean = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(5))
    search = SceneSearch(denoiser, Posterior(mean, torch.zeros_like(mean)), SETTINGS)
    values = combinations(VOCABULARY)
    conds = torch.cat([PLACES, values[list(TRUE)]], dim=1)
    whole = search.still(conds[None, None])
    assert search.named(0, whole) is whole
    conds[1, 2:4] = 0
    tried = [torch.cat([conds[:1], torch.cat([PLACES[1], own])[None], conds[2:]]) for own in values]
    errors = [float(search.still(own[None, None]).error) for own in tried]
    named = search.named(0, search.still(conds[None, None]))
    assert torch.equal(named.conds[0, 0], tried[int(np.argmin(errors))])
    assert float(named.error) == pytest.approx(min(errors))
    alone = dataclasses.replace(denoiser.facts, vocabulary={"digit": ("0", "1")})  # unknown of all objects, or of none
    search.denoiser = Denoiser(denoiser.network, denoiser.scheduler, facts=alone)
    assert search.omitted is None


def test_the_search_goes_on_from_a_first_look_and_ends_no_higher(denoiser):
    """A first look is the likely set of those begun; afterwards each of them is as low or lower, and has attributes."""
    mean = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(6))
    settings = dataclasses.replace(SETTINGS, count_penalty=1e-3, max_objects=4)
    search = SceneSearch(denoiser, Posterior(mean, torch.zeros_like(mean)), settings)
    for i, begun in enumerate(search.begun):
        told = search.told(i)
        assert [own.conds.shape[2] for own in told] == [1, 2, 3, 4] and 2 <= len(begun) <= 3
        for k, own in begun.items():
            assert own.conds.shape[2:] == (k + 1, denoiser.cond_size)
            assert float(told[k].error) <= float(own.error) + 1e-6
    looked, begun = search.first_look(), list(search.begun[0].values())
    costs = [float(own.error) + 1e-3 * float(search.prices([own])) for own in begun]
    assert int(looked.num_concepts) == begun[costs.index(min(costs))].conds.shape[2]
    assert looked.marginals[0].shape == (int(looked.num_concepts), denoiser.cond_size - 2) and looked.confidence is None


# Scores


def scene(conds_pred, objects_pred, conds_true, objects_true, confidence=None, **more):
    return {
        "conds_pred": conds_pred, "objects_pred": objects_pred, "conds_true": conds_true, "objects_true": objects_true,
        "num_true": len(conds_true), "num_pred": len(conds_pred), "object_confidence": confidence, **more,
    }  # fmt: skip


RED, BLUE = {"color": "red", "shape": "cube"}, {"color": "blue", "shape": "cube"}
RIGHT = scene([[0.2, 0.2], [0.8, 0.8]], [RED, BLUE], [[0.8, 0.82], [0.2, 0.2]], [BLUE, RED], [0.9, 0.6])
WRONG = scene([[0.5, 0.5], [0.1, 0.1]], [RED, RED], [[0.5, 0.5]], [BLUE], [0.8, 0.7])


def test_scores_of_two_scenes_by_hand():
    metrics, ci95 = find_task("objects").score([RIGHT, WRONG])
    assert metrics["perception_rate"]["0.05"] == 1 and metrics["count_accuracy"] == 0.5
    assert metrics["attribute_accuracy"] == {"color": pytest.approx(2 / 3), "shape": 1.0}
    assert metrics["object_accuracy"] == pytest.approx(2 / 3) and metrics["scene_accuracy"] == 0.5
    assert set(ci95["attribute_accuracy"]) == {"color", "shape"}


def test_average_precision_by_hand():
    """Ranked by confidence: hit (0.9), miss (0.8), miss (0.7), hit (0.6) of three objects: (1 + 2 / 4) / 3."""
    assert average_precision([RIGHT, WRONG], 0.05) == pytest.approx((1 + 0.5) / 3)
    assert average_precision([RIGHT, WRONG], 0.01) == pytest.approx(1 / 3)  # the second hit is 0.02 away
    assert average_precision([WRONG], np.inf) == 0 and average_precision([], 0.1) is None
    sure = scene([[0.2, 0.2]] * 2, [RED, RED], [[0.2, 0.2]], [RED], [0.5, 0.9])
    assert average_precision([sure], 0.1) == 1.0  # what follows the last hit costs nothing
    weighed = {**sure, "attribute_confidence": [{"color": 1.0, "shape": 1.0}, {"color": 0.5, "shape": 0.5}]}
    assert average_precision([weighed], 0.1) == 1.0


def test_labels_are_said_as_people_say_them():
    assert label_of({"shape": "cube", "color": "red", "material": "metal", "size": "small"}) == "small red metal cube"
    assert label_of({"shape": "cube", "weight": "heavy", "color": None}) == "cube heavy"


def test_figures_of_objects(tmp_path):
    pictures = {name: torch.zeros(3, 32, 48) for name in "ab"}
    records = [{**RIGHT, "image_id": "a", "error": 0.1}, {**WRONG, "image_id": "b", "error": 0.2}]
    scene_sheet(pictures, records, tmp_path / "scenes.png")
    assert true_objects(RIGHT) == [RED, BLUE] and true_objects(WRONG) == [BLUE, None]
    assert true_objects({**RIGHT, "objects_true": None}) is None
    pairs = [(RED, RED), (RED, BLUE), (BLUE, BLUE)]
    np.testing.assert_array_equal(confusion(pairs, "color", ["blue", "red"]), [[1, 0], [1, 1]])
    figure = attribute_confusion(pairs, tmp_path / "confusion.png")
    assert [axes.get_title() for axes in figure.axes] == ["color: 66.7 %", "shape: 100.0 %"]
    assert (tmp_path / "scenes.png").stat().st_size > 1000


def test_a_checkpoint_without_a_vocabulary_is_refused():
    with pytest.raises(ModelError, match="does not say which attributes"):
        find_task("objects").check_facts(Facts(task="objects"), (), "folder")


# The commands


def test_from_training_to_records_and_figures(tmp_path, run_main, training_args):
    scenes = write_scenes(tmp_path / "data", "train", [3, 4, 5] * 3)
    write_scenes(tmp_path / "data", "val", [3, 4, 6])
    values = {(name, thing[name]) for own in scenes for thing in own["objects"] for name in FIELDS}
    config = tmp_path / "network.json"
    config.write_text(json.dumps({**SEPARABLE_UNET, "cond_size": 2 + len(values)}))
    train = training_args(tmp_path / "data", "separable_unet")(unet_config=config, output_dir=tmp_path / "runs")
    code, _, err = run_main("train_clevr", *train, "--fields", "all", "--tracker_project_name", "clevr")
    assert code == 0, err
    checkpoint = tmp_path / "runs" / "clevr" / "checkpoint-2"
    assert Facts.read(checkpoint).task == "objects" and len(Facts.read(checkpoint).vocabulary["shape"]) == 3
    evaluate = ["--dataset_root", tmp_path / "data", "--checkpoint", checkpoint, "--output_dir", tmp_path / "out",
                "--num_draws", 4, "--num_candidates", 16, "--device", "cpu"]  # fmt: skip
    code, out, err = run_main("eval_clevr", *evaluate)
    assert code == 0, err
    assert "object accuracy" in out and "AP 0.05" in out
    folder = tmp_path / "out" / "clevr" / "eval-pursuit"
    records = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert all(len(own) == 2 for record in records for own in record["conds_pred"])
    assert all(len(record["objects_true"]) == record["num_true"] for record in records)
    assert (folder / "figures" / "scenes_3-5.png").is_file()
    before = json.loads((folder / "summary.json").read_text())["groups"]
    assert rescore(folder)["groups"] == before
    for name in ("csv", "clevr"):
        code, _, err = run_main(
            "igm.evaluation.export", folder, "--format", name, "--output", tmp_path / f"found.{name}"
        )
        assert code == 0, err
    written = json.loads((tmp_path / "found.clevr").read_text())["scenes"]
    by_name = {record["image_id"]: record for record in records}
    for own in written:
        record = by_name[Path(own["image_filename"]).stem]
        assert [{name: thing[name] for name in FIELDS} for thing in own["objects"]] == record["objects_pred"]
    assert {"shape", "color"} <= set((tmp_path / "found.csv").read_text().splitlines()[0].split(","))
    code, out, err = run_main("eval_clevr", *evaluate, "--places_only", "--no_figures")
    assert code == 0, err
    code, _, err = run_main("eval_clevr", *evaluate, "--method", "gradient")
    check_refused(code, err, "--method gradient is not for objects; choose pursuit")
    write_scenes(tmp_path / "odd", "val", [3, 4], color="mauve")
    code, _, err = run_main("eval_clevr", *evaluate, "--dataset_root", tmp_path / "odd")
    check_refused(code, err, "scene 1, object 1: color is 'mauve'", "--fields")
