"""Baselines of whole objects: the matched loss against brute force, what is read, and the commands on a toy set."""

import itertools
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import as_flags
from test_baselines_positions import CONFIGS, METHODS, batch_of, losses_of, needs, run_of, vit  # noqa: F401
from test_objects import write_scenes
from test_scripts import check_refused

from igm.baselines.resnet_positions import ResNetPositionsLearner
from igm.baselines.set_prediction import as_set, matched_loss, parts_of, read_sets
from igm.baselines.slot_attention import SlotAttentionLearner
from igm.data.vocabulary import cond_size, decode_objects, encode_object
from igm.facts import Facts
from igm.models.checkpoint import load_network
from igm.models.unet import build_network

VOCABULARY = {"shape": ("cube", "sphere"), "color": ("blue", "red", "yellow")}
FACTS = Facts(task="objects", vocabulary=VOCABULARY)
PARTS = parts_of(FACTS)
SETS = ("resnet50", "slot_attention", "dinosaur", "slot_attention_imagenet")


def random_objects(images, most, seed):
    """Conditions (B, K, 7) with some values unknown, and the numbers of objects."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.stack([torch.randint(-1, n, (images * most,), generator=generator) for n in (2, 3)], dim=1)
    what = torch.from_numpy(encode_object(codes.numpy(), VOCABULARY)).view(images, most, 5)
    conds = torch.cat([torch.rand(images, most, 2, generator=generator), what], dim=2)
    return conds, torch.randint(1, most + 1, (images,), generator=generator)


def brute_loss(found, true):
    """The lowest total over all matchings of one image's rows (S, 8) to its objects (K, 7)."""
    best = float("inf")
    for rows in itertools.permutations(range(len(found)), len(true)):
        presence = torch.zeros(len(found))
        presence[list(rows)] = 1
        total = F.binary_cross_entropy(found[:, 7].sigmoid(), presence, reduction="sum")
        for row, own in zip(rows, true, strict=True):
            apart = (found[row, :2] - own[:2]).abs()
            total = total + 5 * torch.where(apart < 0.05, apart**2 / 0.1, apart - 0.025).sum()
            for low, high in ((2, 4), (4, 7)):
                if own[low:high].any():
                    total = total + F.cross_entropy(found[row, low:high], own[low:high].argmax())
        best = min(best, float(total))
    return best / len(found)


def test_matched_loss_is_the_lowest_over_all_matchings():
    conds, counts = random_objects(30, 4, seed=1)
    found = as_set(2 * torch.randn(30, 5, 8, generator=torch.Generator().manual_seed(0)))
    mask = (torch.arange(4) < counts[:, None]).float()
    expected = [brute_loss(one, true[:k]) for one, true, k in zip(found, conds, counts.tolist(), strict=True)]
    loss = matched_loss(found, conds, mask, PARTS)
    torch.testing.assert_close(loss, torch.tensor(expected), rtol=1e-5, atol=1e-5)
    order = torch.randperm(5)
    torch.testing.assert_close(matched_loss(found[:, order], conds, mask, PARTS), loss)


def test_attributes_decide_a_match_where_places_do_not():
    """Two rows at one place: the red object is matched to the row that says red."""
    found = torch.tensor([[[0.5, 0.5, 0, 0, 0, 9.0, 0, 1], [0.5, 0.5, 0, 0, 9.0, 0, 0, 1]]])
    blue = torch.tensor([[[0.5, 0.5, 0, 0, 1.0, 0, 0]]])
    presences = F.softplus(torch.tensor(1.0)) * 2 - 1
    wanted = (presences + F.cross_entropy(found[0, 1:, 4:7], torch.tensor([0]))) / 2
    torch.testing.assert_close(matched_loss(found, blue, torch.ones(1, 1), PARTS)[0], wanted)


def test_objects_are_read_by_presence_with_their_likeliest_values():
    found = torch.tensor([[[0.1, 0.2, 1, 2, 0, 0, 3.0, -1], [0.3, 0.4, 5, 0, 1, 0, 0, 2.0]]])
    known = read_sets(found, torch.tensor([2]), PARTS)
    assert decode_objects(known.conds[0], VOCABULARY) == [
        {"shape": "cube", "color": "blue"},
        {"shape": "sphere", "color": "yellow"},
    ]
    torch.testing.assert_close(known.conds[0, :, :2], found[0, [1, 0], :2])
    torch.testing.assert_close(known.marginals[0][1], torch.cat([found[0, 0, p].softmax(0) for p in PARTS]))
    sought = read_sets(found, None, PARTS)
    assert [len(own) for own in sought.marginals] == [1] and sought.conds.shape == (1, 1, 7)


@pytest.mark.parametrize("kind", ["resnet50", "slot_attention"])
def test_loss_falls_to_what_knows_the_objects(kind):
    """On one batch whose objects have the brightness of their colour, places and values are all found."""
    torch.manual_seed(0)
    config = {**CONFIGS[kind], "cond_size": cond_size(VOCABULARY)}
    learner = {"resnet50": ResNetPositionsLearner, "slot_attention": SlotAttentionLearner}[kind](
        build_network(config), FACTS
    )
    batch = coloured(batch_of(4))
    if kind == "slot_attention":
        batch |= learner.noise({}, None).draw(4, torch.Generator().manual_seed(0))
    losses = losses_of(learner, batch, 300)
    assert losses[-1] < 0.12 * losses[0]
    found = read_sets(learner.found(batch).detach(), None, PARTS)
    assert found.num_concepts.tolist() == batch["mask"].sum(1).tolist()
    for row, k in enumerate(found.num_concepts.tolist()):
        true = batch["conds"][row, batch["mask"][row] > 0]
        nearest = torch.cdist(found.conds[row, :k, :2], true[:, :2]).argmin(1)
        assert torch.equal(found.conds[row, :k, 2:], true[nearest, 2:])


def coloured(batch):
    """The batch of places with attributes: the squares' channels say the colour, their brightness the shape."""
    images, most = batch["mask"].shape
    codes = torch.randint(0, 6, (images, most), generator=torch.Generator().manual_seed(5))
    what = torch.from_numpy(encode_object(torch.stack([codes % 2, codes // 2], 2).flatten(0, 1).numpy(), VOCABULARY))
    conds = torch.cat([batch["conds"], what.view(images, most, 5)], dim=2) * batch["mask"][..., None]
    pixels = batch["pixel_values"].clone()
    for image, k in batch["mask"].nonzero().tolist():
        x, y = (batch["conds"][image, k] * 16 - 1).long().tolist()
        pixels[image, :, y : y + 2, x : x + 2] = -1
        pixels[image, codes[image, k] // 2, y : y + 2, x : x + 2] = 1.0 - codes[image, k] % 2
    return {**batch, "conds": conds, "pixel_values": pixels}


# The commands


@pytest.fixture(scope="module")
def scenes_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("objects")
    write_scenes(root, "train", [3, 4, 5] * 4)
    write_scenes(root, "val", [3, 4, 6, 7])
    return root


@pytest.fixture
def arguments(training_args, scenes_root, tmp_path, vit):  # noqa: F811
    """A function (learner, **changes) -> arguments of a training on whole objects."""

    def of(learner, **changes):
        (tmp_path / f"{learner}.json").write_text(json.dumps(CONFIGS[learner]))
        backbone = {"backbone": vit} if learner == "dinosaur" else {}
        own = {"unet_config": tmp_path / f"{learner}.json", "num_validation_images": None}
        idle = {"scheduler_config": None, "pretrained_model_name": None}
        return [
            *training_args(scenes_root, "unet")(**own, **idle, **backbone, **changes),
            *as_flags({"learner": learner, "seed": 3, "train_batch_size": 4}),
            *("--fields", "all", "--vary", "0.5"),
        ]

    return of


@pytest.mark.parametrize("learner", SETS)
def test_resume_is_exact_and_records_are_those_of_objects(learner, run_main, arguments, scenes_root, tmp_path):
    """2 steps, a resume and 2 more are 4 steps; the records have the very keys of the inverse model's."""
    needs(learner)
    runs = (("a", 4, []), ("b", 2, []), ("b", 4, ["--resume_from_checkpoint", "latest"]))
    for name, steps, more in runs:
        command = arguments(learner, max_train_steps=steps, output_dir=tmp_path / name)
        code, _, err = run_main("train_clevr", *command, *more)
        assert code == 0 and "no effect" not in err, err
    one, other = (run_of(tmp_path / name, learner) / "checkpoint-4" for name in "ab")
    weights = "unet2dconditionmodel/diffusion_pytorch_model.safetensors"
    assert (one / weights).read_bytes() == (other / weights).read_bytes()
    facts = Facts.read(one)
    assert (facts.task, facts.learner) == ("objects", learner)
    assert facts.vocabulary["shape"] == ("cube", "cylinder", "sphere") and len(facts.vocabulary) == 4
    size = cond_size(facts.vocabulary)
    assert load_network(one).config.cond_size == size
    method = METHODS.get(learner, learner)
    options = ["--dataset_root", scenes_root, "--checkpoint", one, "--method", method, "--output_dir", tmp_path / "e"]
    code, out, err = run_main("eval_clevr", *options)
    assert code == 0, err
    assert "object accuracy" in out and "AP 0.05" in out
    folder = next((tmp_path / "e").rglob("results.jsonl")).parent
    for record in (json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()):
        assert len(record["objects_pred"]) == len(record["attribute_confidence"]) == record["num_pred"]
        assert len(record["objects_true"]) == record["num_true"]
        for thing in record["objects_pred"]:
            assert all(thing[name] in values for name, values in facts.vocabulary.items())
        assert all(1 / len(facts.vocabulary[n]) <= p <= 1 for o in record["attribute_confidence"] for n, p in o.items())
    assert (folder / "figures" / "scenes_3-5.png").is_file()


def test_objects_of_own_pictures_and_places_alone(run_main, arguments, scenes_root, tmp_path):
    code, _, err = run_main("train_clevr", *arguments("slot_attention", max_train_steps=1))
    assert code == 0, err
    common = ["--method", "slot_attention", "--output_dir", tmp_path / "out", "--no_figures"]
    picture = next((scenes_root / "images" / "val").iterdir())
    code, _, err = run_main("eval_clevr", *common, "--images", picture, "--num_objects", 2)
    assert code == 0, err
    (line,) = next((tmp_path / "out").rglob("eval-*-images/results.jsonl")).read_text().splitlines()
    assert [set(own) for own in json.loads(line)["objects_pred"]] == [{"shape", "color", "material", "size"}] * 2
    code, _, err = run_main("eval_clevr", *common, "--dataset_root", scenes_root, "--places_only")
    assert code == 0, err
    code, _, err = run_main("train_clevr", *arguments("resnet50"), "--learner", "joint_label")
    check_refused(code, err.splitlines()[-1], "resnet50.json", "is for other conditions")


def test_a_training_of_places_does_not_go_on_with_objects(run_main, arguments):
    command = arguments("resnet50", max_train_steps=1)
    code, _, err = run_main("train_clevr", *command[: command.index("--fields")])
    assert code == 0, err
    code, _, err = run_main("train_clevr", *command, "--resume_from_checkpoint", "latest")
    check_refused(code, err.splitlines()[-1], "checkpoint-1")


def test_several_splits_are_groups_and_a_training_takes_one(run_main, arguments, tmp_path):
    """Trained on trainA, valA held out; valA and valB side by side in one evaluation."""
    for split, seed in (("trainA", 1), ("valA", 2), ("valB", 3)):
        write_scenes(tmp_path / "cogent", split, [3, 4, 5], seed=seed)
    command = [*arguments("resnet50", max_train_steps=1), "--dataset_root", tmp_path / "cogent"]
    code, out, err = run_main(
        "train_clevr", *command, "--split", "trainA", "--train_batch_size", 2, "--held_out_images", 2
    )
    assert code == 0 and "no validation split" not in out and "show training images" not in out, err
    common = ["--dataset_root", tmp_path / "cogent", "--method", "resnet", "--output_dir", tmp_path / "out"]
    code, out, err = run_main("eval_clevr", *common, "--split", "valA", "valB", "--object_counts", "3-5")
    assert code == 0 and "valA/3-5" in out and "valB/3-5" in out, err
    folder = next((tmp_path / "out").rglob("eval-resnet"))
    records = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert [(r["group"], Path(r["image_path"]).parent.name) for r in records] == [
        (f"{split}/3-5", split) for split in ("valA", "valB") for _ in range(3)
    ]
    assert all(len(r["sizes_true"]) == len(r["hidden_true"]) == r["num_true"] for r in records)
    assert (folder / "figures" / "scenes_valB_3-5.png").is_file()
    code, _, err = run_main("train_clevr", *command, "--split", "trainB")
    check_refused(code, err.splitlines()[-1], "CLEVR_trainB_scenes.json is missing", "valB")
