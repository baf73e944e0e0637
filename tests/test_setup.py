"""What a training script does before the first step: dry run, refused checkpoints, machines without what was asked for."""

import json
import shutil
import sys
import threading

import pytest
import torch
from conftest import RESNET, ROOT, UNET, write_clevr
from test_scripts import check_refused, free_port, train_args  # noqa: F401 (fixtures)

import igm.training.compositional
from igm.baselines.pixels import PixelModel
from igm.dry_run import activation_bytes, describe, memory_estimate, parts_of
from igm.models.codec import PatchPCA
from igm.models.unet import build_network
from igm.training.settings import TrainSettings


def files(folder):
    return sorted(p.relative_to(folder) for p in folder.rglob("*"))


def test_dry_run_says_everything_and_writes_nothing(run_main, train_args, tmp_path):  # noqa: F811
    args = train_args(max_train_steps=None, num_train_epochs=2, num_validation_images=3)
    code, out, err = run_main("train_clevr", *args, "--dry_run", "--use_ema")
    assert code == 0, err
    assert not (tmp_path / "out").exists()
    assert "max_train_steps: 12" in out  # 2 epochs of 12 images in steps of 2
    assert (
        "12 training images, 4 validation images" in out
    )  # all that there are: their error is measured and "Dry run" in out
    parameters = sum(p.numel() for p in build_network(UNET).parameters())
    assert f"Network: UNet2DConditionModel, {parameters / 1e6:,.1f} M parameters" in out
    assert f"{12 * 2 * 4 * 8 * 8 * 2 / 1e6:,.1f} MB" in out and "not built yet" in out
    assert "Memory per process, about" in out


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["unet", "position_unet"])
def test_estimated_activations_are_those_of_a_real_pass(make_denoiser, kind, checkpointing):
    denoiser = make_denoiser(kind)
    denoiser.network.requires_grad_(True).train()
    if checkpointing:
        denoiser.network.enable_gradient_checkpointing()
    kept, weights = {}, {parameter.data_ptr() for parameter in denoiser.network.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and storage.nbytes():
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    index = torch.tensor([0, 0, 1])
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = denoiser.predict_pairs(torch.randn(2, 4, 8, 8), torch.tensor([3, 4]), torch.rand(3, 2), index)
    real = sum(kept.values())
    del result
    estimate = activation_bytes(
        denoiser, 3, 2, checkpointing
    )  # it counts attention's scores, which a CPU does not keep
    assert estimate == pytest.approx(real, rel=0.2)


def test_activations_of_a_classifier_are_those_of_a_real_pass():
    model = PixelModel(build_network(RESNET).train())
    kept, weights = {}, {parameter.data_ptr() for parameter in model.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = model.network(torch.randn(4, 3, 16, 16))
    real = sum(kept.values())
    del result
    assert activation_bytes(model, 12, 4) == pytest.approx(real, rel=0.2)
    assert activation_bytes(model, 99, 8) == pytest.approx(2 * real, rel=0.2)  # faces count, not rows


def test_bytes_of_the_optimizer():
    assert TrainSettings().state_bytes == 12
    assert TrainSettings(use_8bit_adam=True, use_ema=True).state_bytes == 10


def test_dry_run_of_an_evaluation(make_denoiser, capsys):
    denoiser = make_denoiser("position_unet", codec=PatchPCA(2, 4))
    memory = memory_estimate(denoiser, rows=8, images=2)
    describe({"checkpoint": "somewhere"}, {"3-5": 7, "6-8": 1200}, parts_of(denoiser), memory)
    out = capsys.readouterr().out
    assert "checkpoint: somewhere" in out and "7 3-5 images, 1,200 6-8 images" in out
    assert "Network: PositionUNet" in out and "Codec: PatchPCA" in out and "Dry run" in out


def copy_with(clevr_root, tmp_path, **changes):
    root = tmp_path / "other"
    shutil.copytree(clevr_root, root)
    if changes:
        write_clevr(root, "train", **changes)
    return root


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ("network", ["unet_config", "block_out_channels", "[8, 24]", "[8, 16]"]),
        ("dataset", ["dataset = ", "start afresh"]),
    ],
)
def test_checkpoint_of_another_network_or_dataset(
    run_main,
    train_args,  # noqa: F811
    clevr_root,
    tmp_path,
    monkeypatch,
    change,
    parts,
):
    assert run_main("train_clevr", *train_args(max_train_steps=1))[0] == 0
    before = files(tmp_path / "out")
    changes = {"dataset_root": copy_with(clevr_root, tmp_path, counts=[3, 4, 5] * 4, seed=7)}
    if change == "network":
        (tmp_path / "unet.json").write_text(json.dumps({**UNET, "block_out_channels": [8, 24]}))
        changes = {"unet_config": tmp_path / "unet.json"}
    monkeypatch.setattr(
        igm.training.compositional, "load_codec", lambda *args, **options: pytest.fail("a model was loaded")
    )
    code, _, err = run_main("train_clevr", *train_args(**changes, resume_from_checkpoint="latest"))
    check_refused(code, err.splitlines()[-1], "checkpoint-1", *parts)
    assert files(tmp_path / "out") == before


def test_dataset_that_was_moved_is_the_same(run_main, train_args, clevr_root, tmp_path):  # noqa: F811
    assert run_main("train_clevr", *train_args(max_train_steps=1))[0] == 0
    args = train_args(dataset_root=copy_with(clevr_root, tmp_path), resume_from_checkpoint="latest")
    code, out, err = run_main("train_clevr", *args)
    assert code == 0 and "at step 1 of 2" in out, err


@pytest.mark.parametrize(
    ("name", "value"),
    [("checkpoints_total_limit", 0), ("max_train_steps", -3), ("num_train_epochs", 0), ("train_batch_size", 0)],
)
def test_numbers_that_cannot_be(run_main, train_args, no_model, name, value):  # noqa: F811
    code, _, err = run_main("train_clevr", *train_args(**{name: value}))
    check_refused(code, err, f"--{name}", "at least 1")


def test_compiler_that_does_not_work(run_main, train_args, tmp_path, monkeypatch):  # noqa: F811
    def broken(*args, **options):
        raise RuntimeError("no C++ compiler\nand much more")

    monkeypatch.setattr(torch, "compile", broken)
    code, _, err = run_main("train_clevr", *train_args(max_train_steps=1), "--compile")
    assert code == 0
    assert [line for line in err.splitlines() if "--compile" in line] == [
        "warning: --compile does not work here (no C++ compiler); going on without"
    ]
    assert (tmp_path / "out" / "clevr" / "checkpoint-1").is_dir()


def test_8bit_adam_is_refused_in_one_line(run_main, train_args, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    code, _, err = run_main("train_clevr", *train_args(), "--use_8bit_adam")
    check_refused(code, err.splitlines()[-1], "--use_8bit_adam", "pip install bitsandbytes")


def test_published_launch_on_a_machine_without_gpu(run_script, train_args, tmp_path):  # noqa: F811
    """`accelerate launch --multi_gpu` as published: goes on with two CPU processes and says so once."""
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2"]
    args = train_args(max_train_steps=1, mixed_precision="fp16", learning_rate="2e-5")
    done = run_script(
        *launcher, "--main_process_port", free_port(), "train_clevr.py",
        "--enable_xformers_memory_efficient_attention", *args, CUDA_VISIBLE_DEVICES="0,1", timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    for message in ("no GPU is usable here; 2 processes train on the CPU", "pip install '.[xformers]'", "float32"):
        assert done.stderr.count(message) == 1, done.stderr
    state = json.loads((tmp_path / "out" / "clevr" / "checkpoint-1" / "training.json").read_text())
    assert state["num_processes"] == 2 and state["images_per_step"] == 4


@pytest.mark.slow
def test_two_machines_from_the_config_file(run_script, train_args, tmp_path):  # noqa: F811
    """Both "machines" are here, with one CPU process each; they share the folder of the run."""
    config = ROOT / "configs" / "accelerate" / "two_machines.yaml"
    port, results = free_port(), {}

    def start(rank):
        place = ["--num_processes=2", f"--machine_rank={rank}", "--main_process_ip=127.0.0.1"]
        launcher = ["-m", "accelerate.commands.launch", "--config_file", config, *place, "--main_process_port", port]
        results[rank] = run_script(*launcher, "train_clevr.py", *train_args(max_train_steps=2), timeout=500)

    threads = [threading.Thread(target=start, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[rank].returncode for rank in (0, 1)] == [0, 0], results[0].stderr + results[1].stderr
    state = json.loads((tmp_path / "out" / "clevr" / "checkpoint-2" / "training.json").read_text())
    assert state["num_processes"] == 2
