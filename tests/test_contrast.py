"""Telling concepts from mistaken ones: what is mistaken, how all share a pass of the network, and what is minimised."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import SEPARABLE_UNET
from test_objects import VOCABULARY, write_scenes
from test_scripts import check_refused
from test_training import assert_equal

from igm.composition import pack
from igm.data.clevr import Clevr
from igm.data.varied import Forgetting, Variation, VariedScenes
from igm.data.vocabulary import blocks, encode_object, mistake
from igm.models.denoiser import Denoiser
from igm.models.separable import SeparableUNet
from igm.objective import CONTRAST_SCALE, Noise, composed_error
from igm.training.batches import NUM_BUCKETS
from igm.training.compositional import CompositionalLearner


def scene(*codes):
    """Conditions (K, 7) of objects by their (shape, color), None where unknown; the last row is padding."""
    rows = torch.zeros(len(codes) + 1, 7)
    for row, own in zip(rows, codes, strict=False):
        row[:2] = 0.5
        for (_, block), code in zip(blocks(VOCABULARY), own, strict=True):
            if code is not None:
                row[block.start + code] = 1
    return rows


def test_one_known_value_of_each_object_becomes_another():
    conds, rng = scene((0, 2), (1, None), (None, None)), np.random.default_rng(0)
    seen: dict[tuple, int] = {}
    for _ in range(3000):
        wrong = mistake(conds, VOCABULARY, rng)
        assert torch.equal(wrong[2:], conds[2:])  # nothing known; padding
        for row in (0, 1):
            ((name, block),) = [
                own for own in blocks(VOCABULARY) if not torch.equal(wrong[row, own[1]], conds[row, own[1]])
            ]
            assert wrong[row, block].sum() == 1
            place = (row, name, int(wrong[row, block].argmax()))
            seen[place] = seen.get(place, 0) + 1
    share = {(0, "shape", 1): 1 / 2, (0, "color", 0): 1 / 4, (0, "color", 1): 1 / 4, (1, "shape", 0): 1}
    assert seen.keys() == share.keys()
    assert all(abs(seen[place] / 3000 - expected) < 0.04 for place, expected in share.items())
    alike = torch.tensor([[0.5, 0.5, 1.0]])
    assert torch.equal(mistake(alike, {"shape": ("cube",)}, rng), alike)


def test_what_does_not_occur_is_no_mistake():
    """Of the kinds of shape and colour alone, (0, 0), (0, 2) and (1, 1) occur."""
    rng, occurring = np.random.default_rng(0), encode_object(np.array([(0, 0), (0, 2), (1, 1)]), VOCABULARY)
    conds = scene((0, 2), (1, 1), (0, None))
    seen = {
        tuple(map(tuple, mistake(conds, VOCABULARY, rng, None, occurring)[:3, 2:].int().tolist())) for _ in range(100)
    }
    first, second, third = scene((0, 0), (1, 1), (1, None))[:3, 2:].int().tolist()
    assert seen == {(tuple(first), tuple(second), tuple(third))}  # of the second object nothing may be mistaken


def test_attributes_that_are_not_named_are_never_mistaken():
    conds, rng = scene((0, 2), (1, None)), np.random.default_rng(0)
    for _ in range(50):
        wrong = mistake(conds, VOCABULARY, rng, ("color",))
        assert torch.equal(wrong[:, :4], conds[:, :4]) and not torch.equal(wrong[0], conds[0])
        assert torch.equal(wrong[1], conds[1])  # its colour is unknown


def batch_of(conds, mask, mistaken, x_0, noise, static_shapes=False):
    """A batch of items (B, ...), and its noise."""
    items = [
        {"conds": c, "mask": m, "mistaken": w, "posterior_mean": x, "posterior_std": torch.zeros_like(x)}
        for c, m, w, x in zip(conds, mask, mistaken, x_0, strict=True)
    ]
    batch = CompositionalLearner.collate(items, static_shapes=static_shapes)
    return batch | {"t": noise.t, "eps": noise.eps, "posterior_eps": torch.zeros_like(x_0)}


@pytest.mark.parametrize("kind", ["separable_unet", "position_unet", "unet"])
@pytest.mark.parametrize("static_shapes", [False, True])
def test_the_loss_is_that_of_compositions_apart(make_denoiser, kind, static_shapes):
    denoiser, g = make_denoiser(kind), torch.Generator().manual_seed(0)
    kept = 0
    if kind == "separable_unet":  # of whole objects: places stay, as in `mistake`
        kept, network = 2, SeparableUNet(**{n: v for n, v in SEPARABLE_UNET.items() if n[0] != "_"} | {"cond_size": 7})
        denoiser = Denoiser(network, denoiser.scheduler)
    conds = torch.rand(3, 4, denoiser.cond_size, generator=g)
    mask = torch.tensor([[1.0, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]])
    mistaken = conds.clone()
    places = [(0, 0), (0, 1), (1, 2)]  # of mistakes; the third image knows of none
    for place in places:
        mistaken[place][kept:] = 5 * torch.rand(denoiser.cond_size - kept, generator=g)
    x_0, eps = torch.randn(2, 3, 4, 8, 8, generator=g)
    noise = Noise(torch.tensor([10, 400, 900]), eps)
    batch = batch_of(conds, mask, mistaken, x_0, noise, static_shapes)
    for name in ("conds", "mistaken"):
        assert not static_shapes or len(batch[name]) % math.ceil(mask.numel() / NUM_BUCKETS) == 0
    true = composed_error(denoiser, x_0, noise, *pack(conds, mask))  # (B,)
    torch.testing.assert_close(CompositionalLearner(denoiser).held_out_error(batch), true)
    beliefs = []
    for image, row in places:
        own = conds.clone()
        own[image, row] = mistaken[image, row]
        wrong = composed_error(denoiser, x_0, noise, *pack(own, mask))[image]
        assert not torch.isclose(true[image], wrong)
        logits = -256 * torch.stack([true[image], wrong]) / CONTRAST_SCALE  # of squared errors, summed
        beliefs.append(torch.softmax(logits, dim=0)[0])
    expected = true.mean() - 0.3 * torch.stack(beliefs).log().sum() / 3
    torch.testing.assert_close(CompositionalLearner(denoiser, contrast=0.3).loss(batch), expected)


@pytest.mark.parametrize("static_shapes", [False, True])
def test_a_batch_that_knows_of_no_mistake_has_the_plain_loss(make_denoiser, static_shapes):
    denoiser, g = make_denoiser("separable_unet"), torch.Generator().manual_seed(0)
    conds, x_0, eps = torch.rand(2, 1, 2, generator=g), *torch.randn(2, 2, 4, 8, 8, generator=g)
    noise = Noise(torch.tensor([100, 500]), eps)
    batch = batch_of(conds, torch.ones(2, 1), conds, x_0, noise, static_shapes)
    assert len(batch["mistaken"]) == 0
    plain, contrasted = (CompositionalLearner(denoiser, contrast=weight).loss(batch) for weight in (None, 0.3))
    torch.testing.assert_close(contrasted, plain)


def test_items_hold_mistakes_where_they_are_asked_for(tmp_path):
    """Each known object is told from one that is like some object of the scenes, as far as its values are known."""
    write_scenes(tmp_path, "train", [3, 4, 5] * 4)
    dataset = Clevr(tmp_path, "train", (3, 5), resolution=16, fields=("all",))
    things = torch.cat([dataset[i]["conds"][dataset[i]["mask"] > 0, 2:] for i in range(len(dataset))])  # (N, D - 2)
    plain, asked, sizes = (
        VariedScenes(dataset, Variation(), Forgetting(0, 0.3), mistaken=mistaken)
        for mistaken in ((), tuple(dataset.vocabulary), ("size",))
    )
    for i in range(len(dataset)):
        one, other, of_size = (own.varied(i, np.random.default_rng(i)) for own in (plain, asked, sizes))
        assert "mistaken" not in one and torch.equal(one["conds"], other["conds"])
        for row, (true, wrong) in enumerate(zip(other["conds"], other["mistaken"], strict=True)):
            (changed,) = (true != wrong).nonzero(as_tuple=True)
            assert len(changed) in (0, 2) and bool((changed > 1).all())
            agrees = things @ wrong[2:] == wrong[2:].sum()  # (N,)
            assert bool(agrees.any()) or row >= other["mask"].sum()
            assert set((of_size["mistaken"][row] != of_size["conds"][row]).nonzero()[:, 0].tolist()) in (
                set(),
                {len(true) - 2, len(true) - 1},
            )
        assert not torch.equal(other["mistaken"], other["conds"])
    every = Clevr(tmp_path, "train", (3, 5), resolution=16, fields=("shape", "size"))  # all six combinations occur
    asked = VariedScenes(every, Variation(), Forgetting(0, 0.3), mistaken=("shape", "size"))
    assert asked.occurring is None
    for i in range(len(every)):
        other = asked.varied(i, np.random.default_rng(i))
        wrong = (other["mistaken"] != other["conds"]).any(1)  # (K,)
        assert wrong.any() and torch.equal(wrong, other["conds"][:, 2:].any(1))


@pytest.fixture
def arguments(tmp_path, training_args):
    """Of a training on whole objects, in two steps."""
    scenes = write_scenes(tmp_path / "data", "train", [3, 4, 5] * 3)
    size = 2 + sum(len({thing[name] for own in scenes for thing in own["objects"]}) for name in ("shape", "size"))
    config = tmp_path / "network.json"
    config.write_text(json.dumps({**SEPARABLE_UNET, "cond_size": size}))
    return lambda **changes: [
        *training_args(tmp_path / "data", "separable_unet")(**{"unet_config": config, "contrast": 0.1, **changes}),
        *("--fields", "shape", "size", "--tracker_project_name", "run"),
    ]


def test_a_resumed_run_makes_the_same_mistakes(arguments, tmp_path, run_main):
    for name, steps in (("once", (4,)), ("twice", (2, 4))):
        for most in steps:
            more = {"output_dir": tmp_path / name, "max_train_steps": most, "checkpointing_steps": 2}
            code, _, err = run_main("train_clevr", *arguments(**more), "--resume_from_checkpoint", "latest")
            assert code == 0, err
    assert_equal(*(tmp_path / name / "run" / "checkpoint-4" for name in ("once", "twice")))


def test_no_weight_is_no_contrast(arguments, tmp_path, run_main):
    for name, weight in (("none", None), ("zero", 0)):
        more = {"output_dir": tmp_path / name, "max_train_steps": 2, "contrast": weight}
        assert run_main("train_clevr", *arguments(**more))[0] == 0
    assert_equal(*(tmp_path / name / "run" / "checkpoint-2" for name in ("none", "zero")))


def test_where_nothing_can_be_mistaken(arguments, tmp_path, run_main, training_args):
    places = training_args(tmp_path / "data", "separable_unet")(contrast=0.1)
    code, _, err = run_main("train_clevr", *places)
    check_refused(code, err, "--contrast needs attributes", "--fields")
    code, _, err = run_main("train_clevr", *arguments(), "--contrast", -1)
    check_refused(code, err, "--contrast", "0 to")
    code, _, err = run_main("train_clevr", *arguments(unet_config=None), "--learner", "drawing", "--dry_run")
    assert "--contrast has no effect on --learner drawing" in err
    code, _, err = run_main("train_clevr", *arguments(), "--contrast_fields", "size", "color")
    check_refused(code, err, "--contrast_fields color", "shape, size")
    code, _, err = run_main("train_clevr", *arguments(contrast=None), "--contrast_fields", "size")
    assert code == 0 and "--contrast_fields has no effect without --contrast" in err
