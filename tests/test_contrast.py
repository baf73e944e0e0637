"""Telling concepts from mistaken ones: what is mistaken, how two compositions share a pass, and what is minimised."""

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
from igm.data.vocabulary import blocks, mistake
from igm.objective import CONTRAST_SCALE, Noise, composed_error, contrastive_error
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


def test_one_known_value_becomes_another():
    conds, rng = scene((0, 2), (1, None)), np.random.default_rng(0)
    seen: dict[tuple, int] = {}
    for _ in range(3000):
        wrong = mistake(conds, VOCABULARY, rng)
        (row,) = (wrong != conds).any(1).nonzero()[:, 0].tolist()
        ((name, block),) = [
            own for own in blocks(VOCABULARY) if not torch.equal(wrong[row, own[1]], conds[row, own[1]])
        ]
        assert wrong[row, block].sum() == 1
        place = (row, name, int(wrong[row, block].argmax()))
        seen[place] = seen.get(place, 0) + 1
    share = {(0, "shape", 1): 1 / 3, (0, "color", 0): 1 / 6, (0, "color", 1): 1 / 6, (1, "shape", 0): 1 / 3}
    assert seen.keys() == share.keys()
    assert all(abs(seen[place] / 3000 - expected) < 0.04 for place, expected in share.items())
    unknown, alike = scene((None, None)), torch.tensor([[0.5, 0.5, 1.0]])
    assert torch.equal(mistake(unknown, VOCABULARY, rng), unknown)
    assert torch.equal(mistake(alike, {"shape": ("cube",)}, rng), alike)


def test_belief_is_a_softmax_of_squared_errors():
    error, mistaken = torch.tensor([0.1, 0.3]), torch.tensor([0.2, 0.25])
    logits = -torch.stack([error, mistaken], dim=1) * 48 / CONTRAST_SCALE
    expected = torch.nn.functional.cross_entropy(logits, torch.zeros(2, dtype=torch.long), reduction="none")
    torch.testing.assert_close(contrastive_error(error, mistaken, 48), expected)


@pytest.mark.parametrize("kind", ["separable_unet", "position_unet", "unet"])
@pytest.mark.parametrize("static_shapes", [False, True])
def test_the_loss_is_that_of_two_compositions_apart(make_denoiser, kind, static_shapes):
    denoiser, g = make_denoiser(kind), torch.Generator().manual_seed(0)
    conds, mask = torch.rand(3, 4, 2, generator=g), torch.tensor([[1.0, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]])
    mistaken = conds.clone()
    mistaken[0, 1], mistaken[1, 0] = torch.rand(2, 2, generator=g)  # the third image knows of no mistake
    x_0, eps = torch.randn(2, 3, 4, 8, 8, generator=g)
    t = torch.tensor([10, 400, 900])
    items = [
        {"conds": c, "mask": m, "mistaken": w, "posterior_mean": x, "posterior_std": torch.zeros_like(x)}
        for c, m, w, x in zip(conds, mask, mistaken, x_0, strict=True)
    ]
    batch = CompositionalLearner.collate(items, static_shapes=static_shapes)
    assert batch["weights"].shape[0] == 2
    assert not static_shapes or len(batch["conds"]) % math.ceil(mask.numel() / NUM_BUCKETS) == 0
    batch |= {"t": t, "eps": eps, "posterior_eps": torch.zeros_like(eps)}
    true, wrong = (composed_error(denoiser, x_0, Noise(t, eps), *pack(own, mask)) for own in (conds, mistaken))
    torch.testing.assert_close(CompositionalLearner(denoiser).held_out_error(batch), torch.stack([true, wrong]))
    assert torch.equal(true[2], wrong[2]) and not torch.isclose(true[:2], wrong[:2]).any()
    expected = true.mean() + 0.3 * torch.log1p(torch.exp(256 * (true - wrong) / CONTRAST_SCALE)).mean()
    torch.testing.assert_close(CompositionalLearner(denoiser, contrast=0.3).loss(batch), expected)


def test_items_hold_a_mistake_where_it_is_asked_for(tmp_path):
    write_scenes(tmp_path, "train", [3, 4])
    dataset = Clevr(tmp_path, "train", (3, 5), resolution=16, fields=("all",))
    plain, asked = (
        VariedScenes(dataset, Variation(), Forgetting(0, 0.3), mistakes=mistakes) for mistakes in (False, True)
    )
    for i in (0, 1):
        one, other = (own.varied(i, np.random.default_rng(i)) for own in (plain, asked))
        assert "mistaken" not in one and torch.equal(one["conds"], other["conds"])
        assert (other["mistaken"] != other["conds"]).any(1).sum() == 1


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


def test_where_nothing_can_be_mistaken(arguments, tmp_path, run_main, training_args):
    places = training_args(tmp_path / "data", "separable_unet")(contrast=0.1)
    code, _, err = run_main("train_clevr", *places)
    check_refused(code, err, "--contrast needs attributes", "--fields")
    code, _, err = run_main("train_clevr", *arguments(), "--contrast", -1)
    check_refused(code, err, "--contrast", "above 0")
    code, _, err = run_main("train_clevr", *arguments(unet_config=None), "--learner", "drawing", "--dry_run")
    assert "--contrast has no effect on --learner drawing" in err
