"""The scripts as their users start them: published commands, several processes, and every mistake in one line."""

import json
import math
import resource
import shutil
import socket

import pytest
import torch
from conftest import ROOT, SCHEDULER, UNET, as_flags, write_clevr
from safetensors.torch import load_file

import igm.models.codec
import igm.models.denoiser
from igm.evaluation.records import RECORD_KEYS


@pytest.fixture
def train_args(training_args, clevr_root):
    """`training_args` on the tiny CLEVR."""
    return training_args(clevr_root, "unet")


@pytest.fixture
def checkpoint(make_denoiser, tiny_vae_dir, tmp_path):
    """A folder that eval_clevr.py needs nothing else than."""
    meta = {"task": "positions", "min_separation": 0.1, "bounds": [0.1, 0.1, 0.9, 0.9]}
    folder = tmp_path / "checkpoint-7"
    make_denoiser("position_unet", codec=igm.models.codec.load_codec(tiny_vae_dir), **meta).save_pretrained(folder)
    return folder


@pytest.fixture
def eval_args(clevr_root, checkpoint, tmp_path):
    """A function (*flags, **changes) -> arguments of a short evaluation."""

    def arguments(*flags, **changes):
        options = {
            "dataset_root": clevr_root,
            "checkpoint": checkpoint,
            "num_images": 2,
            "num_steps": 2,
            "num_draws": 2,
            "num_candidates": 16,
            "num_inits": 2,
            "device": "cpu",
            "output_dir": tmp_path / "results",
            **changes,
        }
        return [*flags, *as_flags(options)]

    return arguments


def check_refused(code, err, *parts):
    """Exit code 2 and one line that begins with "error:" (argparse: its last line) and holds the parts."""
    assert code == 2, err
    lines = [line for line in err.strip().splitlines() if not line.startswith("warning:")]
    assert "Traceback" not in err
    if lines[0].startswith("usage:"):
        lines = lines[-1:]
    assert len(lines) == 1 and "error: " in lines[0], err
    for part in parts:
        assert str(part) in lines[0]


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def launch(run_script, *args):
    """Two processes, started as the published commands start them."""
    port = ["--main_process_port", free_port()]
    module = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes=2"]
    return run_script(*module, *port, *args, timeout=400)


def records_of(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def weights_of(checkpoint):
    return load_file(checkpoint / "unet2dconditionmodel" / "diffusion_pytorch_model.safetensors")


# Training


def test_published_command_on_two_processes_follows_one_of_twice_the_batch(
    run_script, run_main, train_args, clevr_root, tiny_vae_dir, tiny_configs, tmp_path
):
    published = f"""train_clevr.py --enable_xformers_memory_efficient_attention
        --dataloader_num_workers 4 --learning_rate 2e-5 --mixed_precision fp16 --num_validation_images 10
        --val_batch_size 10 --max_train_steps 2 --checkpointing_steps 10000 --checkpoints_total_limit 1
        --gradient_accumulation_steps 1 --seed 42
        --output_dir {tmp_path}/two/
        --scheduler_config {tiny_configs["scheduler"]}
        --unet_config {tiny_configs["unet"]}
        --dataset_root {clevr_root} --train_batch_size 2
        --resolution 16 --validation_steps 1000 --tracker_project_name clevr
        --pretrained_model_name {tiny_vae_dir} --report_to none""".split()
    done = launch(run_script, *published)
    assert done.returncode == 0, done.stderr
    assert "fp16" in done.stderr and "using float32" in done.stderr and "xformers" in done.stderr
    folder = tmp_path / "two" / "clevr"
    assert (folder / "checkpoint-2" / "unet2dconditionmodel" / "config.json").is_file()
    assert json.loads((folder / "checkpoint-2" / "training.json").read_text())["images_per_step"] == 4
    assert (folder / "validation" / "step-000002.png").is_file()  # at the end

    one = train_args(train_batch_size=4, learning_rate="2e-5", seed=42, output_dir=tmp_path / "one")
    code, _, err = run_main("train_clevr", *one)
    assert code == 0, err
    start = train_args(train_batch_size=4, learning_rate="1e-30", seed=42, output_dir=tmp_path / "start")
    assert run_main("train_clevr", *start)[0] == 0
    two, one, start = (weights_of(tmp_path / name / "clevr" / "checkpoint-2") for name in ("two", "one", "start"))
    moved = sum(float((one[name] - start[name]).square().sum()) for name in one) ** 0.5
    apart = sum(float((one[name] - two[name]).square().sum()) for name in one) ** 0.5
    assert moved > 1e-4 and apart < 0.02 * moved


def test_wandb_without_a_login_and_resuming_in_another_process(run_script, run_main, train_args, tmp_path):
    options = {"tracker_project_name": "clevr", "output_dir": tmp_path / "out"}
    done = run_script(
        "train_clevr.py", *train_args(report_to=None, num_validation_images=1, **options), WANDB_MODE=None, timeout=400
    )
    assert done.returncode == 0, done.stderr
    assert "offline" in done.stderr
    assert list((tmp_path / "out" / "clevr" / "wandb").glob("offline-run-*"))
    code, out, err = run_main("train_clevr", *train_args(max_train_steps=3, resume_from_checkpoint="latest", **options))
    assert code == 0 and "at step 2" in out, err
    assert (tmp_path / "out" / "clevr" / "checkpoint-3").is_dir()


def test_tensorboard_writes_events(run_main, train_args, tmp_path):
    pytest.importorskip("tensorboard")
    code, _, err = run_main(
        "train_clevr", *train_args(report_to="tensorboard", num_validation_images=2, logging_steps=1)
    )
    assert code == 0, err
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = sorted((tmp_path / "out" / "clevr" / "logs").rglob("events.out.tfevents.*"))
    readers = [EventAccumulator(str(file)).Reload() for file in files]
    (reader,) = [r for r in readers if "train_loss" in r.Tags()["scalars"]]
    assert [event.step for event in reader.Scalars("train_loss")] == [1, 2]
    (picture,) = reader.Images("validation")
    assert picture.step == 2 and picture.width > picture.height > 16  # rows of input, composed, concepts


def test_package_of_the_tracker_is_missing(run_main, train_args, monkeypatch):
    import accelerate.tracking

    monkeypatch.setattr(accelerate.tracking, "get_available_trackers", lambda: [])
    code, _, err = run_main("train_clevr", *train_args(report_to="wandb", max_train_steps=1))
    assert code == 0 and "warning: --report_to wandb" in err


def test_epochs_and_scaled_rate(run_main, train_args, tmp_path):
    args = train_args(max_train_steps=None, num_train_epochs=2, train_batch_size=3, gradient_accumulation_steps=2)
    assert run_main("train_clevr", *args, "--scale_lr", "--gradient_checkpointing")[0] == 0
    (last,) = (tmp_path / "out" / "clevr").glob("checkpoint-*")
    assert last.name == "checkpoint-4"  # 2 x 12 images in steps of 6
    (group,) = torch.load(last / "optimizer.bin", weights_only=True)["param_groups"]
    assert group["lr"] == pytest.approx(2e-5 * 6)


def test_checkpoint_facts_and_no_latent_cache(run_main, train_args, tmp_path, tiny_vae_dir, monkeypatch):
    """The codec's folder is named for good, though the command named it from where it was given."""
    monkeypatch.chdir(tiny_vae_dir.parent)
    args = train_args(max_train_steps=1, pretrained_model_name=tiny_vae_dir.name)
    assert run_main("train_clevr", *args, "--no_latent_cache", "--flip", "--use_ema")[0] == 0
    folder = tmp_path / "out" / "clevr"
    assert not (folder / "cache").exists()
    meta = json.loads((folder / "checkpoint-1" / "igm.json").read_text())
    assert meta["task"] == "positions" and meta["num_objects"] == [3, 5] and meta["resolution"] == 16
    assert meta["codec"] == str(tiny_vae_dir) and 0 < meta["min_separation"] < 1 and len(meta["bounds"]) == 4


def test_other_resolution_than_the_config_says(run_main, train_args, tmp_path):
    """The published network takes it; the checkpoint says at which resolution it was trained."""
    code, _, err = run_main("train_clevr", *train_args(resolution=32, max_train_steps=1, num_validation_images=1))
    assert code == 0, err
    loaded = igm.models.denoiser.Denoiser.from_pretrained(tmp_path / "out" / "clevr" / "checkpoint-1")
    assert loaded.resolution == 32


def test_skip_bad_images_goes_on_and_counts(run_main, train_args, clevr_root, tmp_path):
    root = shutil.copytree(clevr_root, tmp_path / "CLEVR")
    (root / "images" / "train" / "CLEVR_train_000002.png").unlink()
    code, out, _ = run_main("train_clevr", *train_args(dataset_root=root, max_train_steps=1), "--skip_bad_images")
    assert code == 0 and "11 training images" in out and "1 unreadable" in out


# Training: bad input


def bad_root(tmp_path, clevr_root, kind):
    """A damaged copy of the dataset, and what the message must name."""
    root = shutil.copytree(clevr_root, tmp_path / "CLEVR")
    scenes, image = root / "scenes" / "CLEVR_train_scenes.json", root / "images" / "train" / "CLEVR_train_000004.png"
    if kind == "no scenes":
        scenes.unlink()
    elif kind == "cut scenes":
        scenes.write_text(scenes.read_text()[:1000])
    elif kind == "other scenes":
        scenes.write_text('{"images": []}')
    elif kind == "no image":
        image.unlink()
    elif kind == "cut image":
        image.write_bytes(image.read_bytes()[:60])
    return root, image if "image" in kind else scenes


@pytest.mark.parametrize("kind", ["no scenes", "cut scenes", "other scenes", "no image", "cut image"])
def test_damaged_dataset(run_main, train_args, tmp_path, clevr_root, no_model, kind):
    root, named = bad_root(tmp_path, clevr_root, kind)
    code, _, err = run_main("train_clevr", *train_args(dataset_root=root))
    check_refused(code, err, named)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"dataset_root": "nowhere"}, ["--dataset_root nowhere"]),
        ({"object_counts": "9-10"}, ["CLEVR_train_scenes.json", "9 to 10"]),
        ({"train_batch_size": 99}, ["--train_batch_size 99"]),
        ({"resume_from_checkpoint": "nowhere"}, ["--resume_from_checkpoint nowhere"]),
        ({"report_to": "telegraph"}, ["--report_to telegraph"]),
        ({"unet_config": "nowhere.json"}, ["--unet_config nowhere.json"]),
        ({"unet_config": str(ROOT / "configs" / "celeba" / "unet")}, ["--unet_config", "celeba", "size 2"]),
        ({"unet_config": str(ROOT / "configs" / "celeba" / "scheduler" / "scheduler_config.json")}, ["network"]),
        ({"dataset_root": None}, ["--dataset_root"]),
        ({"object_counts": "5-3"}, ["--object_counts"]),
        ({"max_train_steps": 0}, ["--max_train_steps"]),
        ({"learning_rate": "-1"}, ["--learning_rate"]),
        ({"mixed_precision": "fp8"}, ["--mixed_precision"]),
        ({"seed": -1}, ["--seed"]),
        ({"learning_rat": "1"}, ["--learning_rat"]),
    ],
)
def test_mistakes_that_need_no_model(run_main, train_args, no_model, changes, parts):
    code, _, err = run_main("train_clevr", *train_args(**changes))
    check_refused(code, err, *parts)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"pretrained_model_name": "nobody/no-such-model"}, ["--pretrained_model_name nobody/no-such-model", "folder"]),
        ({"scheduler_config": "nowhere.json"}, ["--scheduler_config nowhere.json"]),
        ({"resolution": 18}, ["--resolution 18", "4"]),
    ],
)
def test_mistakes_about_models(run_main, train_args, changes, parts, tmp_path):
    code, _, err = run_main("train_clevr", *train_args(**changes))
    check_refused(code, err, *parts)
    assert not list(tmp_path.rglob("checkpoint-*"))


def test_resuming_another_run(run_main, train_args):
    assert run_main("train_clevr", *train_args(max_train_steps=1))[0] == 0
    code, _, err = run_main("train_clevr", *train_args(train_batch_size=3, resume_from_checkpoint="latest"))
    check_refused(code, err.splitlines()[-1], "checkpoint-1", "images_per_step = 2", "now 3")


def test_codec_of_other_channels(run_main, train_args, tmp_path):
    (tmp_path / "unet.json").write_text(json.dumps({**UNET, "in_channels": 6, "out_channels": 6}))
    code, _, err = run_main("train_clevr", *train_args(unet_config=tmp_path / "unet.json"))
    check_refused(code, err, "--pretrained_model_name", "6", "4")


def test_schedule_of_another_kind(run_main, train_args, tmp_path):
    (tmp_path / "scheduler.json").write_text(json.dumps({**SCHEDULER, "prediction_type": "sample"}))
    code, _, err = run_main("train_clevr", *train_args(scheduler_config=tmp_path / "scheduler.json"))
    check_refused(code, err, "'sample'")


def test_loss_that_is_not_finite(run_main, train_args, tmp_path):
    args = train_args(learning_rate="1e30", max_train_steps=6, checkpointing_steps=1, max_grad_norm="1e30")
    code, _, err = run_main("train_clevr", *args)
    check_refused(code, err.splitlines()[-1], "at step", "--learning_rate")
    kept = list((tmp_path / "out" / "clevr").glob("checkpoint-*"))
    assert kept and not list((tmp_path / "out" / "clevr").glob(".*"))


def test_damaged_inside_is_named_by_the_loader_processes_too(run_main, train_args, tmp_path, clevr_root):
    root = shutil.copytree(clevr_root, tmp_path / "CLEVR")
    image = root / "images" / "train" / "CLEVR_train_000004.png"
    content = bytearray(image.read_bytes())
    middle = content.index(b"IDAT") + 12
    content[middle : middle + 40] = bytes(byte ^ 0x5A for byte in content[middle : middle + 40])
    image.write_bytes(content)
    for workers in (0, 1):
        args = train_args(dataset_root=root, dataloader_num_workers=workers)
        code, _, err = run_main("train_clevr", *args)
        check_refused(code, err.splitlines()[-1], image, "--skip_bad_images")
    assert not list((tmp_path / "out").rglob("*.npy")) and not list((tmp_path / "out").rglob("*.tmp"))


def test_missing_root_for_real(run_script, train_args):
    done = run_script("train_clevr.py", *train_args(dataset_root="nowhere"))
    check_refused(done.returncode, done.stderr, "--dataset_root nowhere")


def test_disk_full_for_real(run_script, train_args, tmp_path):
    def small_disk():  # files beyond this size cannot be written; latents and records are smaller, weights are not
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    done = run_script("train_clevr.py", *train_args(), preexec_fn=small_disk)
    check_refused(done.returncode, done.stderr.splitlines()[-1], "checkpoint", "--output_dir")
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "out" / "clevr").glob("*checkpoint*"))


# Evaluation


def check_results(folder, method, groups):
    """The formats that other code relies on; returns the records."""
    records, summary = records_of(folder), json.loads((folder / "summary.json").read_text())
    for record in records:
        assert set(RECORD_KEYS) <= set(record)
        assert len(record["conds_true"]) == record["num_true"] and len(record["conds_pred"]) == record["num_pred"]
        assert all(len(c) == 2 and all(0 <= x <= 1 for x in c) for c in record["conds_pred"])
        assert math.isfinite(record["error"]) and record["seconds"] > 0 and record["seed"] == 42
        assert record["unet_evaluations"]["forward"] > record["unet_evaluations"]["backward"] > 0
    assert {"task", "method", "groups", "seconds_per_image", "unet_evaluations_per_image"} <= set(summary)
    assert {"options", "versions", "checkpoint"} <= set(summary)
    assert summary["task"] == "positions" and summary["method"] == method and "checkpoint-7" in summary["checkpoint"]
    assert {name: group["num_images"] for name, group in summary["groups"].items()} == groups
    for group in summary["groups"].values():
        assert set(group["metrics"]["perception_rate"]) == {"0.02", "0.05", "0.10"}
        assert "estimation_error" in group["metrics"] and "ci95" in group
    return records


def test_pursuit_then_resume(run_main, eval_args, tmp_path):
    code, out, err = run_main("eval_clevr", *eval_args())
    assert code == 0, err
    assert "3-5" in out and "6-8" in out
    folder = tmp_path / "results" / "clevr" / "eval-pursuit"
    records = check_results(folder, "pursuit", {"3-5": 2, "6-8": 2})
    assert [(r["group"], r["image_id"][-1]) for r in records] == [
        ("3-5", "0"),
        ("3-5", "1"),
        ("6-8", "3"),
        ("6-8", "4"),
    ]
    assert [r["num_pred"] for r in records] == [3, 4, 6, 7]
    assert list((folder / "figures").glob("*.png"))

    lines = (folder / "results.jsonl").read_text().splitlines()
    (folder / "results.jsonl").write_text("\n".join(lines[:3]) + "\n" + lines[3][:40])  # killed in the last image
    code, _, err = run_main("eval_clevr", *eval_args("--resume", "--no_figures"))
    assert code == 0, err
    again = records_of(folder)
    assert [json.dumps(r) for r in again[:3]] == [json.dumps(json.loads(line)) for line in lines[:3]]
    assert len(again) == 4 and again[3]["conds_pred"] == [pytest.approx(c, abs=1e-5) for c in records[3]["conds_pred"]]
    before = (folder / "results.jsonl").read_text()
    assert run_main("eval_clevr", *eval_args("--resume", "--no_figures"))[0] == 0
    assert (folder / "results.jsonl").read_text() == before  # nothing to do: no new lines

    code, _, err = run_main("eval_clevr", *eval_args("--resume", num_draws=3))
    check_refused(code, err, "resume", "num_draws")


def test_gradient_with_animation(run_main, eval_args, tmp_path):
    args = eval_args("--method", "gradient", "--animate", "1", "--object_counts", "3-5", num_images=1, num_steps=25)
    code, _, err = run_main("eval_clevr", *args)
    assert code == 0, err
    folder = tmp_path / "results" / "clevr" / "eval-gradient"
    check_results(folder, "gradient", {"3-5": 1})
    assert list((folder / "figures").glob("*.gif"))


def test_two_processes_give_the_same_records(run_script, run_main, eval_args, tmp_path):
    done = launch(run_script, "eval_clevr.py", *eval_args("--no_figures", output_dir=tmp_path / "two", num_images=3))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Records and summary") == 1
    code, _, err = run_main("eval_clevr", *eval_args("--no_figures", output_dir=tmp_path / "one", num_images=3))
    assert code == 0, err
    two, one = (tmp_path / name / "clevr" / "eval-pursuit" for name in ("two", "one"))
    both = [
        {(r["group"], r["image_id"]): r for r in check_results(folder, "pursuit", {"3-5": 3, "6-8": 3})}
        for folder in (two, one)
    ]
    assert both[0].keys() == both[1].keys()
    for key, record in both[0].items():
        other = both[1][key]
        assert record["conds_pred"] == [pytest.approx(c, abs=1e-4) for c in other["conds_pred"]]
        assert record["error"] == pytest.approx(other["error"], rel=1e-4)
        assert record["unet_evaluations"] == other["unet_evaluations"] and record["conds_true"] == other["conds_true"]


def test_published_checkpoint_and_command(run_main, make_denoiser, clevr_root, tiny_vae_dir, tiny_configs, tmp_path):
    """The published flags; the newest checkpoint of the run's folder, whose own config wins over --unet_config."""
    run_dir = tmp_path / "outputs" / "clevr"
    for step in (9, 80000):
        make_denoiser().network.save_pretrained(run_dir / f"checkpoint-{step}" / "unet2dconditionmodel")
    code, out, err = run_main(
        "eval_clevr", "--learning_rate", "4e-3", "--scheduler_config", tiny_configs["scheduler"],
        "--unet_config", ROOT / "configs" / "celeba" / "unet" / "config.json", "--dataset_root", clevr_root,
        "--resolution", 16, "--pretrained_model_name", tiny_vae_dir, "--output_dir", tmp_path / "outputs",
        "--num_images", 1, "--object_counts", "3-5", "--num_steps", 1, "--num_draws", 1, "--num_candidates", 9,
    )  # fmt: skip
    assert code == 0, err
    assert "--unet_config differs" in out + err and "cross_attention_dim" in out + err
    (summary,) = run_dir.rglob("summary.json")
    assert json.loads(summary.read_text())["checkpoint"].endswith("checkpoint-80000")


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"dataset_root": "nowhere"}, ["--dataset_root nowhere"]),
        ({"object_counts": "9-10"}, ["CLEVR_val_scenes.json", "9 to 10"]),
        ({"checkpoint": None, "tracker_project_name": "new"}, ["--checkpoint"]),
        ({"split": "test"}, ["--split"]),
        ({"timestep_range": "x"}, ["--timestep_range"]),
        ({"animate": 1}, ["--animate", "gradient"]),
        ({"num_inits": 0}, ["--num_inits"]),
    ],
)
def test_evaluation_mistakes_that_need_no_model(run_main, eval_args, no_model, changes, parts):
    code, _, err = run_main("eval_clevr", *eval_args(**changes))
    check_refused(code, err, *parts)


def test_evaluation_image_missing(run_main, eval_args, clevr_root, tmp_path, no_model):
    root = shutil.copytree(clevr_root, tmp_path / "CLEVR")
    image = root / "images" / "val" / "CLEVR_val_000001.png"
    image.unlink()
    code, _, err = run_main("eval_clevr", *eval_args(dataset_root=root))
    check_refused(code, err, image)


def test_checkpoint_of_other_conditions(run_main, eval_args, tmp_path, tiny_vae_dir, tiny_configs):
    from igm.models.unet import build_network

    build_network({**UNET, "cross_attention_dim": 6}).save_pretrained(tmp_path / "other" / "unet2dconditionmodel")
    args = eval_args(
        checkpoint=tmp_path / "other", pretrained_model_name=tiny_vae_dir, scheduler_config=tiny_configs["scheduler"]
    )
    code, _, err = run_main("eval_clevr", *args)
    check_refused(code, err, "--checkpoint", tmp_path / "other", "size 6")


def test_checkpoint_at_another_resolution(run_main, eval_args):
    code, _, err = run_main("eval_clevr", *eval_args(resolution=18))
    check_refused(code, err, "--resolution 18")


def test_more_objects_than_candidates(run_main, eval_args):
    code, _, err = run_main("eval_clevr", *eval_args(min_separation=0.9))
    check_refused(code, err.splitlines()[-1], "candidates")


def test_prediction_that_is_not_finite(run_main, eval_args, make_denoiser, tiny_vae_dir, tmp_path):
    denoiser = make_denoiser("position_unet", codec=igm.models.codec.load_codec(tiny_vae_dir))
    denoiser.network.conv_out.weight.fill_(3e38)  # finite, and too large
    denoiser.save_pretrained(tmp_path / "nan")
    code, _, err = run_main("eval_clevr", *eval_args(checkpoint=tmp_path / "nan"))
    check_refused(code, err.splitlines()[-1], "nan", "no finite numbers")


def test_checkpoint_without_weights_for_real(run_script, eval_args, tmp_path):
    (tmp_path / "empty").mkdir()
    done = run_script("eval_clevr.py", *eval_args(checkpoint=tmp_path / "empty"))
    check_refused(done.returncode, done.stderr, tmp_path / "empty", "no weights")


def test_true_positions_of_the_records_are_the_datasets(run_main, eval_args, tmp_path):
    coords = [[[12, 8, 9.0], [36, 24, 9.0]]]
    write_clevr(tmp_path / "own", "val", coords=coords)
    args = eval_args("--no_figures", "--object_counts", "2", dataset_root=tmp_path / "own")
    code, _, err = run_main("eval_clevr", *args)
    assert code == 0, err
    (record,) = records_of(tmp_path / "results" / "clevr" / "eval-pursuit")
    assert record["group"] == "2-2" and record["conds_true"] == [[0.25, 0.25], [0.75, 0.75]]


def test_calibration_completes_the_checkpoint(clevr_root, checkpoint, run_main):
    before = json.loads((checkpoint / "igm.json").read_text())
    args = ("--dataset_root", clevr_root, "--checkpoint", checkpoint, "--num_images", 1, "--max_objects", 2)
    code, out, err = run_main("scripts.calibrate", *args)
    assert code == 0, err
    after = json.loads((checkpoint / "igm.json").read_text())
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"count_penalty", "confidence_scale", "count_scale", "usual_error"}
    assert "1 counts right" in out


def test_calibration_looks_at_varied_and_at_other_scenes(clevr_root, checkpoint, run_main, tmp_path, monkeypatch):
    """Own ones get a new look, the same each time, and the others come after them as they are."""
    seen = []
    monkeypatch.setattr(
        "igm.tasks.positions.measure_positions",
        lambda denoiser, dataset, settings: seen.append(dataset) or denoiser.facts,
    )
    write_clevr(tmp_path / "more", "train", coords=[[[12, 8, 9.0], [36, 24, 9.0], [24, 16, 9.0], [12, 24, 9.0]]])
    args = ["--dataset_root", clevr_root, "--checkpoint", checkpoint, "--object_counts", "1-5"]
    other = ["--other_root", tmp_path / "more", "--other_counts", "4"]
    for more in ([], ["--vary", 1], ["--vary", 1, *other]):
        code, _, err = run_main("scripts.calibrate", *args, *more)
        assert code == 0, err
    plain, varied, both = seen
    assert len(plain) == len(varied) == len(both) - 1
    assert torch.equal(plain[0]["pixel_values"], plain.own[0]["pixel_values"])
    assert not torch.allclose(plain[0]["pixel_values"], varied[0]["pixel_values"], atol=0.05)
    assert torch.equal(varied[0]["pixel_values"], both[0]["pixel_values"])
    assert (
        both[len(plain)]["mask"].sum() == 4 and both[0]["pixel_values"].shape == both[len(plain)]["pixel_values"].shape
    )
    code, _, err = run_main("scripts.calibrate", *args, "--other_counts", "3-10")
    check_refused(code, err, "--other_counts", "--other_root")
    code, _, err = run_main("scripts.calibrate", *args, "--other_root", tmp_path / "nowhere")
    check_refused(code, err, "nowhere")


@pytest.mark.parametrize("name", ["export_model", "fit_codec", "calibrate", "train_animals_mini"])
def test_dry_run_of_the_other_scripts(name, run_main, clevr_root, checkpoint, tmp_path):
    """Options, data, parameters and memory are printed; nothing is written, the checkpoint stays as it was."""
    places = {"checkpoint": ("--checkpoint", checkpoint), "root": ("--dataset_root", clevr_root)}
    places["out"] = ("--output_dir", tmp_path / "out")
    takes = {"export_model": ("checkpoint", "out"), "fit_codec": ("root", "out"), "calibrate": ("checkpoint", "root")}
    args = [arg for place in takes.get(name, ("out",)) for arg in places[place]]
    before = (checkpoint / "igm.json").read_text()
    code, out, err = run_main(f"scripts.{name}", *args, "--dry_run")
    assert code == 0, err
    assert "Options" in out and "M parameters" in out and "Memory per process" in out and "Dry run" in out
    assert ("training images" in out) == (name != "export_model")
    assert not (tmp_path / "out").exists() and (checkpoint / "igm.json").read_text() == before
