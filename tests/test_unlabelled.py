"""Pictures of one's own: which files count, how each kind is read, and what they are called."""

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from igm.data import DataError
from igm.data.images import check_image, decode_image, fit_box, image_to_tensor
from igm.data.unlabelled import Pictures


@pytest.fixture
def scene():
    """A smooth picture, 48 x 32, darker from left to right, and redder from top to bottom."""
    x, y = np.meshgrid(np.linspace(230, 20, 48), np.linspace(10, 240, 32))
    return Image.fromarray(np.stack([y, x, x], axis=-1).astype(np.uint8))


def refuse(places, *words, **options):
    with pytest.raises(DataError) as caught:
        Pictures(places, **options)
    message = str(caught.value)
    assert "\n" not in message and all(str(word) in message for word in words), message


def ids(places, **options):
    return [Pictures(places, **options).annotation(i)["image_id"] for i in range(len(Pictures(places, **options)))]


# Which files


def test_folders_give_their_pictures_only(tmp_path, scene):
    for name in ("b.PNG", "a.jpg", "c.webp"):
        scene.save(tmp_path / name)
    for name in ("._a.jpg", ".hidden.png", "notes.pdf", "Thumbs.db", "film.mp4", "a.eps"):
        (tmp_path / name).write_bytes(b"no picture")
    (tmp_path / "folder.png").mkdir()
    assert ids([tmp_path]) == ["a", "b", "c"]


def test_names_are_stems_where_those_differ(tmp_path, scene):
    for name in ("x/a.png", "y/a.png", "y/b.png", "y/c.png", "y/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        scene.save(tmp_path / name)
    assert ids([tmp_path / "x", tmp_path / "y"]) == ["x/a", "y/a", "b", "y/c.jpg", "y/c.png"]
    assert ids([tmp_path / "y"], max_images=1) == ["a"]


def test_names_hold_no_control_characters_and_lead_nowhere(tmp_path, scene, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "own").mkdir()
    monkeypatch.chdir(tmp_path / "own")
    for name in ("sub/a\x1b[31m\n.png", "own/b.png", "sub/b.png"):
        scene.save(tmp_path / name)
    assert ids(["b.png", "../sub/b.png", "../sub/a\x1b[31m\n.png"]) == ["own/b", "sub/b", "a\\x1b[31m\\n"]
    (tmp_path / "sub" / "\x1b]0;x.png").write_bytes(b"")
    refuse([tmp_path / "sub"], "\\x1b]0;x.png")


def test_one_picture_twice_is_refused(tmp_path, scene):
    scene.save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    refuse([tmp_path / "a.png", tmp_path / "a.png"], "a.png is given twice")
    refuse([tmp_path], "a.png", "b.png", "same file")


def test_hard_links_are_two_pictures(tmp_path, scene):
    scene.save(tmp_path / "a.png")
    (tmp_path / "b.png").hardlink_to(tmp_path / "a.png")
    assert len(Pictures([tmp_path])) == 2


@pytest.mark.parametrize("place", ["nowhere", "empty"])
def test_nothing_to_read(tmp_path, place):
    (tmp_path / "empty").mkdir()
    refuse([tmp_path / place], "--images", tmp_path / place)


def broken_png(length):
    """The header of a PNG of so many pixels a side, and no pixels."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", length, length, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def spoil(folder, scene, fault):
    path = folder / "bad.png"
    if fault == "empty":
        path.write_bytes(b"")
    elif fault == "text":
        path.write_text("<html>not found</html>")
    elif fault == "huge":
        path.write_bytes(broken_png(14_000))
    elif fault == "no pixels":
        path.write_bytes(broken_png(16))
    elif fault == "text chunk":
        info = PngImagePlugin.PngInfo()
        info.add_text("a", "x" * (8 << 20), zip=True)
        scene.save(path, pnginfo=info)
    elif fault == "pipe":
        import os

        os.mkfifo(path)
    elif fault == "cut":
        scene.save(path)
        path.write_bytes(path.read_bytes()[:-20])
    else:  # found by decoding only
        path = folder / f"bad.{fault}"
        scene.save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.mark.parametrize("fault", ["empty", "text", "huge", "no pixels", "text chunk", "cut", "webp", "tiff", "gif"])
def test_bad_pictures_are_refused_or_left_out(tmp_path, scene, fault):
    scene.save(tmp_path / "good.png")
    path = spoil(tmp_path, scene, fault)
    refuse([tmp_path], path, "--skip_bad_images")
    pictures = Pictures([tmp_path], skip_bad_images=True)
    assert pictures.num_skipped == 1 and [item["image_id"] for item in pictures] == ["good"]
    refuse([path], path.name, "none of the 1 images", skip_bad_images=True)


def test_a_pipe_does_not_hang(tmp_path, scene):
    path = spoil(tmp_path, scene, "pipe")
    refuse([path], "--images", path)
    with pytest.raises(DataError, match="is not a file"):
        check_image(path)
    with pytest.raises(DataError, match="is not a file"):
        decode_image(path)


# How they are read


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_data_behind_the_end_of_a_picture(tmp_path, scene, name):
    scene.save(tmp_path / name, quality=95)
    before = Pictures([tmp_path])[0]["pixel_values"]
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b"ftypmp42" + bytes(5000))
    assert Pictures([tmp_path])[0]["pixel_values"].equal(before)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:120] + bytes(5000))  # no end at all
    refuse([tmp_path], name)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_pictures_are_turned_upright(tmp_path, scene, orientation, suffix):
    """A camera stores the picture as it lies, and how to turn it; Pillow's own transposition is the truth."""
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    lying = scene.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else scene
    exif = Image.Exif()
    exif[0x0112] = orientation
    lying.save(tmp_path / f"lying.{suffix}", exif=exif, quality=100)
    assert check_image(tmp_path / f"lying.{suffix}") == (48, 32)
    found = np.asarray(decode_image(tmp_path / f"lying.{suffix}"), dtype=float)
    assert found.shape == (32, 48, 3) and np.abs(found - np.asarray(scene, dtype=float)).mean() < 3


def test_an_orientation_after_the_pixels_of_a_png_counts(tmp_path, scene):
    exif = Image.Exif()
    exif[0x0112] = 6
    scene.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=exif)
    content = (tmp_path / "a.png").read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    moved = content[:start] + content[end:-12] + content[start:end] + content[-12:]
    (tmp_path / "a.png").write_bytes(moved)
    assert check_image(tmp_path / "a.png") == (48, 32)
    assert np.array_equal(np.asarray(decode_image(tmp_path / "a.png")), np.asarray(scene))


def test_damaged_exif_data_do_not_matter(tmp_path, scene):
    scene.save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xffgarbage")
    assert len(Pictures([tmp_path])) == 1


GREY = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (16, 1))  # (16, 64)


@pytest.mark.parametrize(
    "array, suffix",
    [
        (GREY, "png"),
        (GREY.astype(np.uint16) * 257, "png"),
        (GREY.astype(np.uint16) << 8, "tiff"),
        (GREY.astype(np.uint16) * 257, "pgm"),
        (GREY.astype(np.int32) * 257, "tiff"),
        (GREY.astype(np.int32), "tiff"),
        (GREY.astype(np.float32) / 255, "tiff"),
        (GREY.astype(np.float32), "tiff"),
        (GREY.astype(np.float32) * 257, "tiff"),
    ],
)
def test_greys_of_every_depth_are_the_same_picture(tmp_path, array, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(array).save(path)
    assert np.array_equal(np.asarray(decode_image(path)), np.stack([GREY] * 3, axis=-1))
    with Image.open(path) as picture:  # a picture in the memory, too
        assert image_to_tensor(picture, 16).equal(image_to_tensor(Image.fromarray(GREY), 16))


@pytest.mark.parametrize("values", [[0, np.nan], [-1, 1], [0, 1e9], [0, np.inf]])
def test_greys_of_an_unknown_range_are_refused(tmp_path, values):
    Image.fromarray(np.array([values] * 2, dtype=np.float32)).save(tmp_path / "a.tiff")
    refuse([tmp_path], "a.tiff", "8 or 16 bits")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_other_modes_are_read_as_pillow_converts_them(tmp_path, scene, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    scene.convert(mode).save(path)
    with Image.open(path) as picture:
        assert np.array_equal(np.asarray(decode_image(path)), np.asarray(picture.convert("RGB")))


# How they get into the square


@pytest.mark.parametrize("size", [(48, 32), (32, 48), (40, 40), (37, 61), (100, 11)])
def test_crop_is_the_published_resize_and_centre_crop(size):
    """torchvision's Resize and CenterCrop, written out."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    short, long = min(size), max(size)
    scaled = tuple(24 if side == short else int(24 * long / short) for side in size)
    whole = picture.resize(scaled, Image.Resampling.BICUBIC)
    left, top = (int(round((side - 24) / 2.0)) for side in scaled)
    expected = np.asarray(whole.crop((left, top, left + 24, top + 24)), dtype=np.float32) / 127.5 - 1
    found = image_to_tensor(picture, 24, "crop").permute(1, 2, 0).numpy()
    assert np.abs(found - expected).max() < 1e-6 if max(scaled) <= 8 * 24 else np.abs(found - expected).mean() < 0.02


def test_a_strip_is_cropped_without_making_a_longer_one():
    strip = Image.new("RGB", (20_000, 1), "red")
    assert image_to_tensor(strip, 512, "crop").shape == (3, 512, 512)


@pytest.mark.parametrize("size", [(48, 32), (32, 48), (40, 40), (300, 7)])
def test_pad_shows_the_whole_picture_on_grey(size):
    pixels = image_to_tensor(Image.new("RGB", size, "white"), 24, "pad")
    left, top, width, height = fit_box(size, 24, "pad")
    assert (pixels == 1).float().mean() == pytest.approx(size[0] * size[1] / (width * height), abs=0.05)
    assert set(pixels.unique().tolist()) <= {0.0, 1.0} and left <= 0 and top <= 0


@pytest.mark.parametrize("fit", ["squeeze", "crop", "pad"])
@pytest.mark.parametrize("size", [(90, 60), (60, 90), (61, 40)])
def test_the_box_is_what_the_square_shows(fit, size):
    """A bright spot lies in the square where its place relative to the box says."""
    array = np.zeros((*size[::-1], 3), dtype=np.uint8)
    x, y = size[0] // 2 + 8, size[1] // 2 - 9
    array[y - 2 : y + 3, x - 2 : x + 3] = 255
    pixels = (image_to_tensor(Image.fromarray(array), 64, fit)[0] > 0.3).float()
    left, top, width, height = fit_box(size, 64, fit)
    found_y, found_x = (axis.float().mean() + 0.5 for axis in torch.nonzero(pixels, as_tuple=True))
    assert float(found_x) / 64 == pytest.approx((x + 0.5 - left) / width, abs=0.02)
    assert float(found_y) / 64 == pytest.approx((y + 0.5 - top) / height, abs=0.02)


def test_resolution_and_fit_are_part_of_the_fingerprint(tmp_path, scene):
    scene.save(tmp_path / "a.png")
    prints = {Pictures([tmp_path], fit=fit, resolution=r).fingerprint() for fit in ("crop", "pad") for r in (16, 32)}
    assert len(prints) == 4 and Pictures([tmp_path]).facts() == {}
    with pytest.raises(ValueError, match="'stretch'"):
        Pictures([tmp_path], fit="stretch")
