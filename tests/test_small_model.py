"""The path that made the shipped model, on a tiny scale; and the shipped model itself."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from igm.models.denoiser import Denoiser

SHIPPED = Path(__file__).resolve().parent.parent / "models" / "pretrained" / "clevr-mini"


def test_fit_train_fine_tune_export_infer(run_main, clevr_root, tiny_configs, tmp_path):
    codec, out, shipped = tmp_path / "codec", tmp_path / "out", tmp_path / "shipped"
    size = ["--latent_channels", 4, "--resolution", 64]
    code, stdout, _ = run_main("scripts.fit_codec", "--dataset_root", clevr_root, "--output_dir", codec, *size)
    assert code == 0 and "of the variance" in stdout
    train = ["--dataset_root", clevr_root, "--pretrained_model_name", codec, "--output_dir", out, "--flip"]
    train += ["--unet_config", tiny_configs["position_unet"], "--scheduler_config", tiny_configs["scheduler"]]
    train += ["--train_batch_size", 2, "--num_validation_images", 0, "--report_to", "none", "--use_ema"]
    assert run_main("train_clevr", *train, "--max_train_steps", 2, "--tracker_project_name", "one")[0] == 0

    # Fine-tuning starts from the averaged weights, and its step count from 0.
    first = out / "one" / "checkpoint-2"
    tune = ["--initialize_from", first, "--max_train_steps", 1, "--learning_rate", "1e-12", "--adam_weight_decay", 0]
    assert run_main("train_clevr", *train, *tune, "--tracker_project_name", "two")[0] == 0
    name = "diffusion_pytorch_model.safetensors"
    averaged = load_file(first / "unet2dconditionmodel_ema" / name)
    tuned = load_file(out / "two" / "checkpoint-1" / "unet2dconditionmodel" / name)
    assert all(torch.allclose(averaged[key], tuned[key], atol=1e-6) for key in averaged)
    other = run_main("train_clevr", *train, "--initialize_from", tmp_path / "none", "--max_train_steps", 1)
    assert other[0] == 2 and "none" in other[2]

    code, stdout, _ = run_main("scripts.export_model", "--checkpoint", first, "--output_dir", shipped)
    assert code == 0 and "MiB" in stdout
    exported = load_file(shipped / "unet2dconditionmodel" / name)
    assert exported["conv_out.weight"].dtype == torch.float16
    assert torch.allclose(exported["conv_out.weight"].float(), averaged["conv_out.weight"], atol=1e-3)
    assert "codec" not in json.loads((shipped / "igm.json").read_text())

    infer = ["--dataset_root", clevr_root, "--checkpoint", shipped, "--num_images", 1, "--object_counts", "3-5"]
    infer += ["--num_candidates", 20, "--num_draws", 2, "--num_steps", 1, "--output_dir", out, "--no_figures"]
    assert run_main("eval_clevr", *infer)[0] == 0


def test_shipped_model_finds_the_objects_of_generated_scenes(run_main, tmp_path):
    """The embedded default end to end; the bar is far below the model's numbers and far above chance (about 8 %)."""
    few = ["--num_images", 3, "--num_draws", 8, "--num_candidates", 160, "--num_steps", 15, "--object_counts", "3-5"]
    code, stdout, stderr = run_main("eval_clevr", *few, "--output_dir", tmp_path)
    assert code == 0, stderr
    assert stdout.startswith("Method: ") and "shipped model" in stdout.splitlines()[1]
    results = tmp_path / "clevr" / "eval-pursuit"
    rates = json.loads((results / "summary.json").read_text())["groups"]["3-5"]["metrics"]["perception_rate"]
    assert rates["0.10"] >= 0.6
    assert (results / "figures" / "positions_3-5.png").stat().st_size > 10_000


def test_shipped_model_is_small_and_safe():
    files = [file for file in SHIPPED.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 16 * 2**20
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".md"}
    denoiser = Denoiser.from_pretrained(SHIPPED)
    assert denoiser.resolution == 64 and denoiser.cond_size == 2
    assert denoiser.scheduler.config.prediction_type == "v_prediction"
    assert {parameter.dtype for parameter in denoiser.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "options, part",
    [
        (("--resolution", 2), "--resolution 2: must be a multiple of --patch_size 8"),
        (("--latent_channels", 193), "--latent_channels 193: a patch has 192 values"),
    ],
)
def test_codecs_that_no_patch_fits_are_refused(run_main, clevr_root, tmp_path, options, part):
    code, _, err = run_main("scripts.fit_codec", "--dataset_root", clevr_root, "--output_dir", tmp_path, *options)
    assert code == 2 and part in err and len(err.splitlines()) == 1
