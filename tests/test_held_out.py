"""The error on held-out images: its values, that it leaves the training alone, and that no line is lost or repeated."""

import json

import pytest
import torch
from accelerate import Accelerator
from conftest import ATTRIBUTE_UNET, NETWORK_CONFIGS, UNET
from test_processes import fork_processes
from test_scripts import train_args  # noqa: F401
from test_training import SETTINGS, Latents, assert_equal
from toy import SCENES, Toy, scenes

from igm.facts import Facts
from igm.training.compositional import CompositionalLearner
from igm.training.held_out import HeldOut, Inference, encoded, method_for, read_lines
from igm.training.loop import train
from igm.training.settings import TrainSettings


def items_of(dataset, number=5):
    return [dataset[i] for i in range(number)]


def run(make_denoiser, folder, *, measured=True, kill_at=None, kind="unet", **changes):
    """Train a tiny network with held-out items; what the held-out error said by step."""
    settings = TrainSettings(**{**SETTINGS, "validation_steps": 2, **changes})
    accelerator, denoiser = Accelerator(cpu=True), make_denoiser(kind)
    denoiser.network.requires_grad_(True)
    learner = CompositionalLearner(denoiser)
    held_out = HeldOut(accelerator, learner, items_of(Latents()), folder, settings)

    def validate(step):
        if step == kill_at:
            raise InterruptedError
        return held_out(step)

    hooks = {"validate": validate, "on_begin": held_out.begin} if measured else {}
    train(accelerator, learner, Latents(), folder, settings, **hooks)


def lines(folder):
    return [json.loads(line) for line in (folder / "validation.jsonl").read_text().splitlines()]


@pytest.fixture
def dropout_unet(monkeypatch):
    """A network whose training draws from the global generator."""
    monkeypatch.setitem(NETWORK_CONFIGS, "dropout_unet", {**UNET, "dropout": 0.3})
    return "dropout_unet"


@pytest.mark.parametrize("settings", [{}, {"gradient_accumulation_steps": 1, "set_grads_to_none": False}])
def test_measuring_changes_no_weight(make_denoiser, tmp_path, dropout_unet, settings):
    for name in ("with", "without"):
        torch.manual_seed(1)
        run(make_denoiser, tmp_path / name, kind=dropout_unet, measured=name == "with", validation_steps=1, **settings)
    assert_equal(tmp_path / "with" / "checkpoint-4", tmp_path / "without" / "checkpoint-4")
    assert len(lines(tmp_path / "with")) == 4


def test_the_error_is_that_of_the_mean_of_the_predictions(make_denoiser, tmp_path):
    """Written out image by image, from predictions for single concepts."""
    denoiser, items = make_denoiser("unet"), items_of(Latents())
    settings = TrainSettings(**{**SETTINGS, "train_batch_size": 2})
    held_out = HeldOut(Accelerator(cpu=True), CompositionalLearner(denoiser), items, tmp_path, settings)
    values, noise = held_out.errors(), held_out.noise
    assert noise["t"].shape == (4, 5) and held_out.bounds == [0, 250, 500, 750, 1000]
    by_range, shuffled = [], []
    for r in range(4):
        assert ((noise["t"][r] >= 250 * r) & (noise["t"][r] < 250 * (r + 1))).all()
        assert len((noise["t"][r] // 50).unique()) == 5  # stratified
        for others, found in ((items, by_range), ([*items[1:], items[0]], shuffled)):
            errors = []
            for i, (item, other) in enumerate(zip(items, others, strict=True)):
                t, eps = noise["t"][r, i : i + 1], noise["eps"][r, i : i + 1]
                x_0 = item["posterior_mean"] + item["posterior_std"] * noise["posterior_eps"][r, i]
                abar = denoiser.alphas_cumprod[t]
                x_t = abar.sqrt() * x_0 + (1 - abar).sqrt() * eps
                conds = other["conds"][other["mask"] > 0]  # (K, D)
                with torch.no_grad():
                    each = [denoiser.network(x_t, t, c.view(1, 1, 2)).sample for c in conds]
                errors.append((eps - torch.stack(each).mean(0)).square().mean())
            found.append(torch.stack(errors).mean().item())
    names = ["val_error_t0-250", "val_error_t250-500", "val_error_t500-750", "val_error_t750-1000"]
    assert [values[name] for name in names] == pytest.approx(by_range, rel=1e-4)
    assert values["val_error"] == pytest.approx(sum(by_range) / 4, rel=1e-4)
    assert values["shuffled_gap"] == pytest.approx((sum(shuffled) - sum(by_range)) / 4, abs=1e-5)


def test_the_gap_says_whether_conditions_are_used(tmp_path):
    """Of a denoiser that is right at the true positions, and of one to which all positions are one."""

    class Deaf(Toy):
        def bump(self, conds):
            return super().bump(torch.full_like(conds, 0.5))

    gaps = []
    for toy in (Toy(), Deaf()):
        learner, images = learner_of(toy), scenes(Toy())[0]
        items = [
            {"posterior_mean": mean, "posterior_std": std, **padded(points)}
            for mean, std, points in zip(images.mean, images.std, SCENES, strict=True)
        ]
        held_out = HeldOut(Accelerator(cpu=True), learner, items, tmp_path, TrainSettings(**SETTINGS))
        gaps.append(held_out.errors())
    assert gaps[0]["val_error"] < 1e-9 and gaps[0]["shuffled_gap"] > 0.01
    assert gaps[1]["val_error"] > 0.01 and abs(gaps[1]["shuffled_gap"]) < 1e-6


def test_positions_that_are_there_are_found():
    toy = Toy()
    image = scenes(toy, (1,))[0].mean[0]  # (1, S, S)
    item = {"pixel_values": image, **padded(SCENES[1])}
    assert Inference(learner_of(toy), ()).score(item, 0) == (2.0, 2.0)
    item = {"pixel_values": image, **padded([[0.25, 0.3], [0.9, 0.1]])}  # the second is not
    assert Inference(learner_of(toy), ()).score(item, 0) == (1.0, 2.0)


def learner_of(toy):
    """What learns a toy."""
    learner = CompositionalLearner.__new__(CompositionalLearner)
    toy.network = torch.nn.Identity()
    learner.network, learner.facts, learner.denoiser = toy.network, Facts(task="positions"), toy
    learner.snr_gamma = None
    return learner


def padded(points):
    conds = torch.zeros(3, 2)
    conds[: len(points)] = torch.tensor(points)
    return {"conds": conds, "mask": (torch.arange(3) < len(points)).float()}


# Lines


def test_a_resumed_run_neither_repeats_nor_loses_a_line(make_denoiser, tmp_path):
    """Killed after a line without checkpoint, and between a checkpoint and its line."""
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    options = {"max_train_steps": 7, "checkpointing_steps": 3, "validation_steps": 1}
    run(make_denoiser, straight, **options)
    assert [line["step"] for line in lines(straight)] == list(range(1, 8))
    with pytest.raises(InterruptedError):
        run(make_denoiser, killed, kill_at=5, **options)
    assert [line["step"] for line in lines(killed)] == [1, 2, 3, 4]  # and checkpoint-3
    with pytest.raises(InterruptedError):
        run(make_denoiser, killed, kill_at=6, resume_from_checkpoint="latest", **options)
    with open(killed / "validation.jsonl", "a") as file:
        file.write('{"step": 6, "val_err')  # torn
    run(make_denoiser, killed, resume_from_checkpoint="latest", **options)
    assert lines(killed) == lines(straight)
    run(make_denoiser, killed, resume_from_checkpoint="latest", **options)  # it is finished
    assert lines(killed) == lines(straight)


def test_a_run_from_the_start_begins_a_new_file(make_denoiser, tmp_path):
    for _ in range(2):
        run(make_denoiser, tmp_path)
        assert [line["step"] for line in lines(tmp_path)] == [2, 4]
    assert lines(tmp_path)[0].keys() >= {"step", "val_error", "val_error_t0-250", "shuffled_gap"}


def test_lines_of_anything_are_left_out(tmp_path):
    (tmp_path / "v").write_text('{"step": 1}\n[1]\n{"step": "2"}\n\xff\n{"step": 3}\n' + "[" * 100_000 + "\n")
    assert [line["step"] for line in read_lines(tmp_path / "v")] == [1, 3]


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_work_and_write_one_file(make_denoiser, tmp_path, processes):
    options = {"max_train_steps": 2, "validation_steps": 1, "lr_scheduler": "constant"}

    def start(rank):
        run(make_denoiser, tmp_path / "shared", train_batch_size=2, **options)

    fork_processes(processes, start)
    run(make_denoiser, tmp_path / "alone", train_batch_size=2 * processes, **options)
    shared, alone = lines(tmp_path / "shared"), lines(tmp_path / "alone")
    assert [line["step"] for line in shared] == [1, 2]
    for one, two in zip(shared, alone, strict=True):
        assert one == pytest.approx(two, abs=2e-3) and one["val_error"] == pytest.approx(two["val_error"], rel=1e-3)


# Commands


def test_posteriors_are_the_codecs(make_denoiser, tiny_vae_dir, clevr_root):
    from igm.data.clevr import Clevr
    from igm.models.codec import load_codec

    codec, items = load_codec(str(tiny_vae_dir)), items_of(Clevr(clevr_root, "val", resolution=16), 3)
    found = encoded(items, codec, torch.device("cpu"), batch_size=2)
    mean, std = codec.posterior(torch.stack([item["pixel_values"] for item in items]))
    for i, item in enumerate(found):
        assert "pixel_values" not in item and torch.equal(item["conds"], items[i]["conds"])
        torch.testing.assert_close(item["posterior_mean"], mean[i], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(item["posterior_std"], std[i], rtol=1e-5, atol=1e-5)
    assert encoded(items, None, torch.device("cpu"), 2) == items


def test_the_command_reports_and_resumes(run_main, train_args, tmp_path):  # noqa: F811
    options = {"validation_steps": 1, "checkpointing_steps": 1, "held_out_images": 3, "train_batch_size": 4}
    found = {}
    for name, stops in (("straight", [3]), ("resumed", [2, 3])):
        for steps in stops:
            more = {"max_train_steps": steps, "output_dir": tmp_path / name, "resume_from_checkpoint": "latest"}
            code, _, err = run_main("train_clevr", *train_args(**options, **more))
            assert code == 0, err
            assert "val=" in err
        found[name] = lines(tmp_path / name / "clevr")
    assert [line["step"] for line in found["straight"]] == [1, 2, 3]
    assert found["resumed"] == found["straight"]


def test_the_share_found_is_that_of_an_evaluation_and_changes_no_weight(run_main, train_args, tmp_path):  # noqa: F811
    """The same images, inferred by eval_clevr.py with the checkpoint that was measured."""
    options = {"max_train_steps": 1, "held_out_images": 2, "object_counts": "3-3", "learning_rate": 0.1}
    for name, more in (("with", ["--validation_found"]), ("without", [])):
        code, _, err = run_main("train_clevr", *train_args(output_dir=tmp_path / name, **options), *more)
        assert code == 0, err
    assert_equal(*(tmp_path / name / "clevr" / "checkpoint-1" for name in ("with", "without")))
    arguments = train_args(output_dir=tmp_path / "with")
    root = arguments[arguments.index("--dataset_root") + 1]
    more = ["--checkpoint", tmp_path / "with" / "clevr" / "checkpoint-1", "--output_dir", tmp_path / "with"]
    more += ["--object_counts", "3-3", "--num_images", 2, "--no_figures", "--seed", 0]
    code, _, err = run_main("eval_clevr", "--dataset_root", root, *more)
    assert code == 0, err
    summary = json.loads((tmp_path / "with" / "clevr" / "eval-pursuit" / "summary.json").read_text())
    (line,) = lines(tmp_path / "with" / "clevr")
    rate = summary["groups"]["3-3"]["metrics"]["perception_rate"]["0.05"]
    assert summary["groups"]["3-3"]["num_images"] == 2 and line["val_found"] == pytest.approx(rate)


def test_training_images_in_place_of_held_out_ones_are_said(run_main, train_args, clevr_root, tmp_path):  # noqa: F811
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True), (root / "scenes").mkdir()
    (root / "images" / "train").symlink_to(clevr_root / "images" / "train")
    (root / "scenes" / "CLEVR_train_scenes.json").symlink_to(clevr_root / "scenes" / "CLEVR_train_scenes.json")
    code, out, err = run_main("train_clevr", *train_args(max_train_steps=1, dataset_root=root))
    assert code == 0, err
    assert "val_error is of training images" in out
    code, out, _ = run_main("train_clevr", *train_args(max_train_steps=1, dataset_root=root, held_out_images=0))
    assert code == 0 and "val_error" not in out and not list((tmp_path / "out").rglob("never"))


def test_other_learners_report_their_loss(make_denoiser):
    """One that does not denoise has neither timesteps nor conditions; its method cannot ask the network in training."""
    from igm.baselines.resnet50 import AttributeResNet, ResNetLearner

    network = AttributeResNet(sample_size=16, cond_size=6, embedding_size=8, hidden_sizes=(8, 16), depths=(1, 1)).eval()
    learner = ResNetLearner(network, Facts(task="attributes"))
    generator = torch.Generator().manual_seed(0)
    conds = torch.eye(6)[[0, 3, 4]]
    items = [
        {"pixel_values": torch.randn(3, 16, 16, generator=generator), "conds": conds, "mask": torch.ones(3)}
        for _ in range(5)
    ]
    settings = TrainSettings(**{**SETTINGS, "train_batch_size": 2})
    values = HeldOut(Accelerator(cpu=True), learner, items, "unused", settings).errors()
    with torch.no_grad():
        loss = learner.loss(learner.collate(items)).item()
    assert values.keys() == {"val_error"} and values["val_error"] == pytest.approx(loss, rel=1e-4)
    assert method_for(learner) is None


def test_the_quick_method_of_a_task_is_asked(make_denoiser, monkeypatch):
    monkeypatch.setitem(NETWORK_CONFIGS, "attributes", ATTRIBUTE_UNET)
    for kind, task, name in (("unet", "positions", "pursuit"), ("attributes", "attributes", "discrete")):
        method = method_for(CompositionalLearner(make_denoiser(kind, task=task)))
        assert method is not None and method.name == name
