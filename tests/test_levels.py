"""The choice of noise levels: errors of every composition at every level, and the range that chooses best."""

import json

import pytest
import torch
from conftest import ROOT

import igm.models.codec
from igm.calibration.levels import best_levels, errors_by_level
from igm.inference.draws import draw_for_images, image_generators
from igm.inference.types import Posterior
from igm.objective import Noise, composed_error


def test_errors_are_the_denoising_errors_of_the_compositions(make_denoiser):
    denoiser = make_denoiser("attribute_unet")
    mean = torch.randn(2, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    posterior, candidates = Posterior(mean, torch.zeros_like(mean)), torch.eye(6)
    weights = torch.zeros(2, 6)
    weights[0, [0, 2, 4]] = weights[1, [1, 2, 5]] = 1 / 3
    found = errors_by_level(denoiser, posterior, candidates, weights, num_draws=5, seed=3, image_numbers=[7, 2])
    assert found.shape == (2, 5, 2)
    draws = draw_for_images(posterior[1:], 5, (0, 1000), image_generators(3, [2], stream=5), stratified=True)[0]
    assert (draws.t // 200).tolist() == [0, 1, 2, 3, 4]
    noise, index, third = Noise(draws.t, draws.eps), torch.arange(5).repeat_interleave(3), torch.full((15,), 1 / 3)
    for s, members in enumerate(([0, 2, 4], [1, 2, 5])):
        conds = candidates[members].repeat(5, 1)
        expected = composed_error(denoiser, draws.x_0, noise, conds, third, index)
        torch.testing.assert_close(found[1, :, s], expected, rtol=1e-4, atol=1e-6)


def test_range_where_the_right_one_has_the_lower_error():
    """Two choices; the right one is worse in draws 0 to 29, better in 30 to 69, and by a hair worse from there."""
    difference = torch.zeros(100)
    difference[:30], difference[30:70], difference[70:] = 5.0, -1.0, 0.1
    errors = torch.stack([1 + difference, torch.ones(100)], dim=1).expand(4, -1, -1)  # (B, N, S)
    right = torch.tensor([[1.0, 0.0]]).expand(4, -1)
    assert best_levels(errors, right) == (30, 100, 1.0)  # the longest of those that choose rightly
    low, high, share = best_levels(errors.flip(2), right)
    assert share == 1.0 and (low, high) == (0, 100)  # now the other is lower everywhere but for the middle


def test_too_few_draws_for_a_range():
    with pytest.raises(ValueError, match="10 draws"):
        best_levels(torch.zeros(1, 10, 2), torch.zeros(1, 2))


@pytest.mark.parametrize("learner", ["compositional", "joint_label"])
def test_calibration_of_attributes(learner, make_denoiser, tiny_vae_dir, tmp_path, run_main):
    """On drawn faces in the real layout; what else the checkpoint says stays as it was."""
    from igm.data.synthetic.faces import generate

    generate(tmp_path / "faces", num_train=0, num_val=4)
    facts = {"task": "attributes", "learner": learner}
    facts |= {"attributes": ["Black_Hair", "Eyeglasses", "Smiling"], "frequencies": [0.4, 0.2, 0.6]}
    folder = tmp_path / "checkpoint-1"
    make_denoiser("attribute_unet", codec=igm.models.codec.load_codec(tiny_vae_dir), **facts).save_pretrained(folder)
    args = ("--checkpoint", folder, "--dataset_root", tmp_path / "faces", "--num_images", 2)
    code, out, err = run_main("scripts.calibrate", *args)
    assert code == 0, err
    assert "of the values of 2 images right" in out
    after = json.loads((folder / "igm.json").read_text())
    low, high = after.pop("t_range")
    assert 0 <= low < high <= 1000 and low % 100 == high % 100 == 0 and {k: after[k] for k in facts} == facts
    code, _, err = run_main("scripts.calibrate", *args, "--vary", 0.5)
    assert code == 2 and err.count("\n") == 1 and "--vary and --other_root are for scenes" in err


def test_calibration_of_a_folder_without_facts(run_main, tmp_path):
    code, _, err = run_main("scripts.calibrate", "--checkpoint", tmp_path, "--dataset_root", ROOT / "data")
    assert code == 2 and err.count("\n") == 1 and str(tmp_path / "igm.json") in err


def test_calibration_of_a_task_without_anything_to_measure(run_main):
    checkpoint = ROOT / "models" / "pretrained" / "animals-mini"
    code, _, err = run_main("scripts.calibrate", "--checkpoint", checkpoint, "--dataset_root", ROOT / "data")
    assert code == 2 and err.count("\n") == 1 and "trained as classes" in err
