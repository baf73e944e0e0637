"""One picture in every form in which people hold it, and what is none."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from igm import UserError
from igm.pictures import as_batch

SIDE = 16


@pytest.fixture(scope="module")
def colour():
    """A picture (H, W, 3) of bytes, no two channels alike."""
    return np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def forms(array: np.ndarray, folder) -> dict:
    """The same colour picture in all forms."""
    image, unit = Image.fromarray(array), array / 255.0
    image.save(folder / "picture.png")
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    return {
        "file": folder / "picture.png",
        "name": str(folder / "picture.png"),
        "PIL": image,
        "PIL with alpha": image.convert("RGBA"),
        "bytes (H, W, 3)": array,
        "bytes (3, H, W)": array.transpose(2, 0, 1),
        "bytes (H, W, 4)": np.concatenate([array, np.full_like(array[..., :1], 255)], axis=2),
        "whole numbers": array.astype(np.int64),
        "16 bits": array.astype(np.uint16) * 257,
        "floats in [0, 1]": unit,
        "half floats": unit.astype(np.float64),
        "floats in [-1, 1]": unit * 2 - 1,
        "tensor of bytes (3, H, W)": tensor,
        "tensor of bytes (H, W, 3)": torch.from_numpy(array),
        "tensor in [0, 1]": tensor.float() / 255,
        "tensor in [-1, 1]": tensor.float() / 127.5 - 1,
    }


def test_every_form_gives_the_same_pixels(colour, tmp_path):
    expected = as_batch(colour, SIDE).pixels
    assert expected.shape == (1, 3, SIDE, SIDE) and -1 <= expected.min() < expected.max() <= 1
    for name, form in forms(colour, tmp_path).items():
        batch = as_batch(form, SIDE)
        assert batch.single and batch.pixels.shape == expected.shape, name
        torch.testing.assert_close(batch.pixels, expected, rtol=0, atol=2.01 / 255, msg=name)


@pytest.mark.parametrize("shape", [(24, 32), (24, 32, 1), (1, 24, 32)])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_grey_in_every_form(shape, kind, colour):
    grey = colour[..., 0]
    values = {np.uint8: grey, np.uint16: grey.astype(np.uint16) * 257, np.float32: (grey / 255).astype(np.float32)}[
        kind
    ]
    expected = as_batch(np.repeat(grey[..., None], 3, axis=2), SIDE).pixels
    torch.testing.assert_close(as_batch(values.reshape(shape), SIDE).pixels, expected, rtol=0, atol=2.01 / 255)


def test_several_pictures_are_a_list_a_folder_a_batch_or_a_generator(colour, tmp_path):
    Image.fromarray(colour).save(tmp_path / "a.png")
    Image.fromarray(colour[::-1]).save(tmp_path / "b.png")
    both = [colour, np.ascontiguousarray(colour[::-1])]
    expected = torch.cat([as_batch(own, SIDE).pixels for own in both])
    for several in (both, tuple(both), iter(both), np.stack(both), torch.from_numpy(np.stack(both)), tmp_path):
        batch = as_batch(several, SIDE)
        assert not batch.single
        torch.testing.assert_close(batch.pixels, expected, rtol=0, atol=2.01 / 255)
    empty = as_batch([], SIDE)
    assert not empty.single and empty.pixels.shape == (0, 3, SIDE, SIDE)


@pytest.mark.parametrize(
    "picture, words",
    [
        (np.zeros((5, 7, 9), np.uint8), "shape"),
        (np.zeros((0, 7, 3), np.uint8), "shape"),
        (np.zeros(7, np.uint8), "shape"),
        (np.full((8, 8, 3), 200.0), "divide by 255"),
        (np.full((8, 8, 3), -2.0), "lie in"),
        (np.full((8, 8, 3), np.nan), "finite"),
        (np.full((8, 8, 3), 300), "0 to 255"),
        (np.array([["a"]]), "type"),
        (5, "not int"),
        (None, "not NoneType"),
        ({"picture": 1}, "not dict"),
        (io.BytesIO(b"x"), "not bytes"),
    ],
)
def test_what_is_no_picture_is_told_in_a_sentence(picture, words):
    with pytest.raises((UserError, ValueError), match=words) as error:
        as_batch(picture, SIDE)
    assert "--" not in str(error.value) and "\n" not in str(error.value)
