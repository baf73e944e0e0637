"""Figures: their size, and markers of the right colour at the right place."""

import json
import sys

import numpy as np
import pytest
from PIL import Image, ImageColor

from igm import figures
from igm.figures import (
    COLOURS,
    DPI,
    PRED_COLOUR,
    TRUE_COLOUR,
    as_pil,
    convergence_gif,
    error_against_count,
    perception_curve,
    position_sheet,
    redraw,
    save_image_grid,
)
from igm.results import RECORD_KEYS, RecordWriter


def record(image_id="a", true=((0.25, 0.75),), pred=((0.6, 0.2),), **changes):
    true = None if true is None else [list(point) for point in true]
    return {
        "image_id": image_id,
        "group": "3-5",
        "conds_true": true,
        "conds_pred": [list(point) for point in pred],
        "num_true": None if true is None else len(true),
        "num_pred": len(pred),
        "error": 0.0123,
        "confidence": None,
        "unet_evaluations": {"forward": 1, "backward": 0},
        "seconds": 1.0,
        "seed": 0,
        **changes,
    }


def near_colour(image, colour, tolerance=60):
    """(H, W) where the picture has about that colour."""
    difference = np.asarray(image.convert("RGB"), dtype=int) - np.array(ImageColor.getrgb(colour))
    return np.abs(difference).sum(axis=-1) < tolerance


def centre(mask):
    """(x, y) in pixels of a mask, where it has any."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.min() + columns.max(), rows.min() + rows.max()]) / 2


def panel_of(sheet, aspect=1.0):
    """The panel of the first record of a position sheet."""
    left = figures._MARGIN + figures._TILE_WIDTH + figures._TILE_GAP
    top = figures._MARGIN + figures._LEGEND_HEIGHT + figures._TITLE_HEIGHT
    box = (left, top, left + figures._TILE_WIDTH, top + aspect * figures._TILE_WIDTH)
    return sheet.crop([round(DPI * edge) for edge in box])


@pytest.mark.parametrize("size", [(64, 64), (96, 64)])
def test_position_sheet_marks_true_and_predicted_positions(tmp_path, size):
    picture = Image.new("RGB", size, (10, 200, 30))
    position_sheet({"a": picture}, [record()], tmp_path / "new" / "sheet.png")
    sheet = Image.open(tmp_path / "new" / "sheet.png")
    panel = panel_of(sheet, size[1] / size[0])
    np.testing.assert_allclose(centre(near_colour(panel, TRUE_COLOUR)) / panel.size, [0.25, 0.75], atol=0.015)
    np.testing.assert_allclose(centre(near_colour(panel, PRED_COLOUR)) / panel.size, [0.6, 0.2], atol=0.015)
    shown = near_colour(sheet, "#0AC81E")
    assert shown.sum() == pytest.approx(panel.width * panel.height, rel=0.05)  # the image is as large as its panel


def test_position_sheet_without_truth_or_image(tmp_path):
    position_sheet({}, [record(true=None, error=None)], tmp_path / "sheet.png")
    sheet = Image.open(tmp_path / "sheet.png")
    assert not near_colour(sheet, TRUE_COLOUR).any() and near_colour(panel_of(sheet), PRED_COLOUR).any()


def test_position_sheet_grows_by_rows_up_to_the_maximum(tmp_path):
    images = {str(i): np.zeros((3, 8, 8), dtype=np.float32) for i in range(9)}
    sizes = {}
    for number in (3, 6, 9):
        records = [record(str(i)) for i in range(number)]
        position_sheet(images, records, tmp_path / "sheet.png", columns=3, max_images=7)
        sizes[number] = Image.open(tmp_path / "sheet.png").size
    pair, gap = 2 * figures._TILE_WIDTH + figures._TILE_GAP, figures._PAIR_GAP
    assert sizes[3][0] == pytest.approx(DPI * (2 * figures._MARGIN + 3 * pair + 2 * gap), abs=1)
    row = DPI * (figures._TITLE_HEIGHT + figures._TILE_WIDTH + figures._TILE_GAP)
    assert sizes[6][1] - sizes[3][1] == pytest.approx(row, abs=1)
    assert sizes[9][1] - sizes[3][1] == pytest.approx(2 * row, abs=1)  # 7 of 9 images


def test_position_sheet_refuses_what_it_cannot_draw(tmp_path):
    with pytest.raises(ValueError, match="no records"):
        position_sheet({}, [], tmp_path / "sheet.png")
    with pytest.raises(ValueError, match="positions"):
        position_sheet({}, [record(pred=[(1.0, 0.0, 1.0)])], tmp_path / "sheet.png")


def test_perception_curve_steps_where_the_predictions_lie(tmp_path):
    near = [record(true=[(0.5, 0.5)], pred=[(0.5, 0.5)])] * 3
    far = [record(true=[(0.5, 0.5)], pred=[(0.9, 0.9)])] * 3
    heights = {}
    for name, records in [("near", near), ("far", far)]:
        perception_curve({"3-5": records, "none": [record(true=None)]}, tmp_path / "curve.png")
        curve = Image.open(tmp_path / "curve.png")
        assert curve.size == (680, 500)
        # left of the legend, where the curve is flat
        heights[name] = centre(near_colour(curve, TRUE_COLOUR)[:, 150:350])[1]
    assert heights["near"] < 60 and heights["far"] > 380  # 100 % is at the top, 0 % at the bottom
    with pytest.raises(ValueError, match="ground truth"):
        perception_curve({"3-5": [record(true=None)]}, tmp_path / "curve.png")


def test_error_against_count_marks_truth_and_minimum(tmp_path):
    marks = {}
    for num_true in (3, 5):
        error_against_count([0.4, 0.2, 0.1, 0.15, 0.2], [0.01] * 5, num_true, tmp_path / "error.png")
        drawn = Image.open(tmp_path / "error.png")
        assert drawn.size == (680, 460)
        below_legend = drawn.crop((0, 60, 680, 460))
        marks[num_true] = centre(near_colour(below_legend, TRUE_COLOUR))[0]
        lowest = centre(near_colour(below_legend, PRED_COLOUR))[0]
    assert marks[3] == pytest.approx(lowest, abs=2) and marks[5] > lowest + 150
    error_against_count([0.4, 0.2], None, None, tmp_path / "error.pdf", counts=[3, 4])
    assert (tmp_path / "error.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(ValueError, match="length"):
        error_against_count([0.4, 0.2], [0.1], 2, tmp_path / "error.png")


@pytest.mark.parametrize("with_restarts", [True, False])
def test_convergence_gif_moves_each_marker_to_its_end(tmp_path, with_restarts):
    start, end = np.array([[0.2, 0.2], [0.8, 0.3]]), np.array([[0.5, 0.7], [0.25, 0.8]])
    best = start + np.linspace(0, 1, 100)[:, None, None] * (end - start)  # (T, K, 2)
    trajectory = np.stack([np.full_like(best, 0.95), best], axis=1) if with_restarts else best
    path = tmp_path / "new" / "way.gif"
    picture = Image.new("RGB", (60, 40), (200, 200, 200))
    convergence_gif(picture, trajectory, end, path, best=int(with_restarts), seconds=2, size=120)
    gif = Image.open(path)
    assert gif.n_frames == 30 and gif.size == (2 * 120 + 3 * figures._GIF_GAP, 80 + 3 * figures._GIF_GAP)
    assert path.stat().st_size < 1_000_000
    for frame, points in [(0, start), (29, end)]:
        gif.seek(frame)
        for half in range(2):
            left = figures._GIF_GAP + half * (120 + figures._GIF_GAP)
            part = gif.convert("RGB").crop((left, figures._GIF_GAP, left + 120, figures._GIF_GAP + 80))
            for concept, point in enumerate(points):
                x, y = (point * part.size).astype(int)
                spot = near_colour(part, COLOURS[concept])[y - 3 : y + 4, x - 3 : x + 4]
                assert spot.sum() > 15
    assert gif.info["duration"] == 1500


def test_convergence_gif_has_no_more_frames_than_steps(tmp_path):
    trajectory = np.linspace(0.1, 0.9, 5)[:, None, None].repeat(2, axis=2)
    convergence_gif(np.zeros((3, 16, 16)), trajectory, None, tmp_path / "way.gif", size=64)
    assert Image.open(tmp_path / "way.gif").n_frames == 5
    with pytest.raises(ValueError, match="restarts"):
        convergence_gif(np.zeros((3, 16, 16)), trajectory, None, tmp_path / "way.gif", best=1)
    with pytest.raises(ValueError, match="shape"):
        convergence_gif(np.zeros((3, 16, 16)), trajectory[0], None, tmp_path / "way.gif")


def test_image_grid_keeps_the_pixels(tmp_path):
    colours = [["red", "green", "blue"], ["yellow", "black"]]
    rows = [[Image.new("RGB", (64, 64), colour) for colour in row] for row in colours]
    plain = save_image_grid(rows, tmp_path / "new" / "grid.png")
    gap = 4
    assert plain.size == (3 * (128 + gap) + gap, 2 * (128 + gap) + gap)  # enlarged twice
    for y, row in enumerate(colours):
        for x, colour in enumerate(row):
            assert plain.getpixel((gap + x * 132 + 127, gap + y * 132)) == ImageColor.getrgb(colour)
    titled = save_image_grid(rows, tmp_path / "grid.png", ["data", "a long title"], ["x", "y" * 99, "z"])
    assert titled.width > plain.width and titled.height > plain.height
    assert Image.open(tmp_path / "grid.png").size == titled.size
    with pytest.raises(ValueError, match="1 row titles for 2 rows"):
        save_image_grid(rows, tmp_path / "grid.png", ["data"])
    with pytest.raises(ValueError, match="no images"):
        save_image_grid([[]], tmp_path / "grid.png")


def test_as_pil_maps_minus_one_to_one_onto_bytes():
    torch = pytest.importorskip("torch")
    pixels = torch.tensor([-1.0, 0.0, 1.0, 9.0]).view(1, 2, 2).repeat(3, 1, 1).requires_grad_()
    assert np.asarray(as_pil(pixels))[..., 0].tolist() == [[0, 128], [255, 255]]
    with pytest.raises(ValueError, match=r"\(3, H, W\)"):
        as_pil(np.zeros((8, 8, 3)))


def test_a_folder_is_drawn_again_from_its_records(tmp_path, monkeypatch, capsys):
    Image.new("RGB", (64, 64), (10, 200, 30)).save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_text("not a picture")
    with RecordWriter(tmp_path / "results.jsonl", False, {}) as writer:
        writer.write(record("a", image_path="a.png"))
        writer.write(record("b", image_path="broken.png"))
        writer.write(record("c", group="6-8"))
    names = ["positions_3-5.png", "positions_6-8.png", "perception_rate.png"]
    assert [path.name for path in redraw(tmp_path)] == names
    assert near_colour(Image.open(tmp_path / "figures" / names[0]), "#0AC81E").sum() > 20_000
    assert not near_colour(Image.open(tmp_path / "figures" / names[1]), "#0AC81E").any()
    monkeypatch.setattr(sys, "argv", ["figures", str(tmp_path), "--max_images", "1"])
    figures.main()
    assert capsys.readouterr().out.count(".png") == 3


def test_attribute_sheet_and_bars_from_records(tmp_path):
    """Drawn again from the records alone; a wrong value leaves red on the sheet, a right one does not."""
    eye = np.eye(6).tolist()
    base = {key: 0 for key in RECORD_KEYS} | {"confidence": None, "unet_evaluations": {"forward": 1, "backward": 0}}
    base |= {"concept_names": ["Black_Hair", "Eyeglasses", "Smiling"], "conds_true": [eye[0], eye[3], eye[5]]}
    reds = []
    for name, pred in (("right", [0, 3, 5]), ("wrong", [0, 2, 5])):
        folder = tmp_path / name
        folder.mkdir()
        record = {**base, "image_id": "1", "group": "male", "conds_pred": [eye[i] for i in pred]}
        (folder / "results.jsonl").write_text(json.dumps(record) + "\n")
        paths = redraw(folder)
        assert [p.name for p in paths] == ["attributes_male.png", "accuracy.png"]
        pixels = np.asarray(Image.open(paths[0]).convert("RGB")).astype(int)
        reds.append(int(((pixels[..., 0] > 150) & (pixels[..., 1] < 60)).sum()))
    assert reds[0] == 0 < reds[1]
