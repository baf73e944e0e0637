"""Figures: their size, and markers of the right colour at the right place."""

import json
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image, ImageColor

from igm.evaluation.records import RECORD_KEYS, RecordWriter
from igm.evaluation.redraw import redraw, spread
from igm.figures import (
    as_pil,
    confusion_matrices,
    convergence_gif,
    error_by_count,
    perception_curve,
    position_sheet,
    reliability_diagrams,
    save_image_grid,
)
from igm.figures.__main__ import main
from igm.figures.animation import GAP
from igm.figures.positions import LEGEND_HEIGHT
from igm.figures.sheet import CELL_GAP, MARGIN, TILE_GAP, TILE_WIDTH, TITLE_HEIGHT
from igm.figures.style import COLOURS, DPI, PRED_COLOUR, TRUE_COLOUR, save_figure


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
    left = MARGIN + TILE_WIDTH + TILE_GAP
    top = MARGIN + LEGEND_HEIGHT + TITLE_HEIGHT
    box = (left, top, left + TILE_WIDTH, top + aspect * TILE_WIDTH)
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
    pair, gap = 2 * TILE_WIDTH + TILE_GAP, CELL_GAP
    assert sizes[3][0] == pytest.approx(DPI * (2 * MARGIN + 3 * pair + 2 * gap), abs=1)
    row = DPI * (TITLE_HEIGHT + TILE_WIDTH + TILE_GAP)
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


def counting_record(image_id, num_true, num_pred, confidence=0.9, **changes):
    """K objects in a row, the first `num_pred` found exactly."""
    row = [(0.09 * (k + 1), 0.5) for k in range(10)]
    more = {"error_by_count": [0.4, 0.2, 0.1, 0.15, 0.2], "standard_error_by_count": [0.01] * 5} | changes
    return record(image_id, row[:num_true], row[:num_pred], confidence=confidence, **more)


def test_error_by_count_marks_true_and_predicted_count(tmp_path):
    records = [
        counting_record("a", 3, 4),
        counting_record("b", 5, 3),
        record("c", true=None, error_by_count=[0.2, 0.1]),
    ]
    figure = error_by_count(records, tmp_path / "new" / "error.png")
    assert Image.open(tmp_path / "new" / "error.png").width == DPI * figure.get_figwidth()
    for axes, num_true, num_pred in zip(figure.axes, (3, 5, None), (4, 3, 1), strict=True):
        drawn = {line.get_label(): line.get_xydata() for line in axes.lines}
        assert drawn["predicted K"].tolist() == [[num_pred, axes.containers[0].lines[0].get_ydata()[num_pred - 1]]]
        assert ("true K" in drawn) == (num_true is not None)
        assert num_true is None or set(drawn["true K"][:, 0]) == {num_true}
    bars = figure.axes[0].containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose(bars[1], [[2, 0.19], [2, 0.21]])
    assert len(error_by_count(records * 5, tmp_path / "error.pdf").axes) == 12
    with pytest.raises(ValueError, match="5 errors and 1 standard"):
        error_by_count([counting_record("a", 3, 4, standard_error_by_count=[0.1])], tmp_path / "error.png")
    with pytest.raises(ValueError, match="no records"):
        error_by_count([], tmp_path / "error.png")


def test_confusion_matrices_hold_the_numbers_of_images(tmp_path):
    counts = [(3, 3), (3, 3), (3, 5), (5, 5), (5, 2)]
    groups = {
        "3-5": [counting_record(str(n), *pair) for n, pair in enumerate(counts)],
        "none": [record(true=None)],
        "6-8": [counting_record("x", 6, 6)],
    }
    figure = confusion_matrices(groups, tmp_path / "confusion.png")
    assert Image.open(tmp_path / "confusion.png").width > 300
    assert [axes.get_title() for axes in figure.axes] == ["3-5: 60.0 % of 5 right", "6-8: 100.0 % of 1 right"]
    axes = figure.axes[0]
    true, pred = (
        [int(tick.get_text()) for tick in ticks] for ticks in (axes.get_yticklabels(), axes.get_xticklabels())
    )
    assert (true, pred) == ([3, 4, 5], [2, 3, 4, 5])
    cells = {(true[text.get_position()[1]], pred[text.get_position()[0]]): text.get_text() for text in axes.texts}
    assert cells == {(3, 3): "2", (3, 5): "1", (5, 5): "1", (5, 2): "1"}
    with pytest.raises(ValueError, match="ground truth"):
        confusion_matrices({"none": [record(true=None)]}, tmp_path / "confusion.png")


def test_reliability_diagrams_draw_the_shares_of_the_bins(tmp_path):
    confidences = np.repeat([0.2, 0.6], 20)
    right = ([True] + [False] * 9) * 2 + ([True] * 8 + [False] * 2) * 2
    figure = reliability_diagrams(
        {"objects": (confidences, right), "counts": ([0.5], [1])}, tmp_path / "reliability.png"
    )
    assert Image.open(tmp_path / "reliability.png").height > 300
    drawn = [axes.containers[0].lines[0].get_xydata() for axes in figure.axes]
    np.testing.assert_allclose(drawn[0], [[0.2, 0.1], [0.6, 0.8]])
    np.testing.assert_allclose(drawn[1], [[0.5, 1.0]])
    legends = [axes.get_legend().get_texts()[0].get_text() for axes in figure.axes]
    assert legends == ["40 objects, ECE 0.150", "1 counts, ECE 0.500"]  # (20 * 0.1 + 20 * 0.2) / 40
    with pytest.raises(ValueError, match="no items"):
        reliability_diagrams({}, tmp_path / "reliability.png")


@pytest.mark.parametrize("with_restarts", [True, False])
def test_convergence_gif_moves_each_marker_to_its_end(tmp_path, with_restarts):
    start, end = np.array([[0.2, 0.2], [0.8, 0.3]]), np.array([[0.5, 0.7], [0.25, 0.8]])
    best = start + np.linspace(0, 1, 100)[:, None, None] * (end - start)  # (T, K, 2)
    trajectory = np.stack([np.full_like(best, 0.95), best], axis=1) if with_restarts else best
    path = tmp_path / "new" / "way.gif"
    picture = Image.new("RGB", (60, 40), (200, 200, 200))
    convergence_gif(picture, trajectory, end, path, best=int(with_restarts), seconds=2, size=120)
    gif = Image.open(path)
    assert gif.n_frames == 30 and gif.size == (2 * 120 + 3 * GAP, 80 + 3 * GAP)
    assert path.stat().st_size < 1_000_000
    for frame, points in [(0, start), (29, end)]:
        gif.seek(frame)
        for half in range(2):
            left = GAP + half * (120 + GAP)
            part = gif.convert("RGB").crop((left, GAP, left + 120, GAP + 80))
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
    with RecordWriter(tmp_path / "results.jsonl", False, {"task": "clevr"}) as writer:
        writer.write(record("a", image_path="a.png"))
        writer.write(record("b", image_path="broken.png"))
        writer.write(record("c", group="6-8"))
    names = ["positions_3-5.png", "positions_6-8.png", "perception_rate.png"]
    assert [path.name for path in redraw(tmp_path)] == names
    assert near_colour(Image.open(tmp_path / "figures" / names[0]), "#0AC81E").sum() > 20_000
    assert not near_colour(Image.open(tmp_path / "figures" / names[1]), "#0AC81E").any()
    monkeypatch.setattr(sys, "argv", ["figures", str(tmp_path), "--max_images", "1"])
    main()
    assert capsys.readouterr().out.count(".png") == 3


@pytest.mark.parametrize("count", ["infer", "known"])
def test_figures_of_counts_are_drawn_where_the_records_have_them(tmp_path, count):
    with RecordWriter(tmp_path / "results.jsonl", False, {"task": "clevr", "count": count}) as writer:
        for number in range(4):
            writer.write(counting_record(str(number), 4, 3 + number % 2, object_confidence=[0.9] * (3 + number % 2)))
        writer.write(record("mine", true=None, group="own/photos", confidence=0.5, error_by_count=[0.2, 0.3]))
    names = [path.name for path in redraw(tmp_path)][3:]
    confusion = ["count_confusion.png"] if count == "infer" else []
    assert names == ["error_by_count_3-5.png", "error_by_count_own_photos.png", *confusion, "reliability.png"]
    drawn = Image.open(tmp_path / "figures" / "reliability.png")
    assert (drawn.width > 1.5 * drawn.height) == (count == "infer")  # objects and counts, or objects alone


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
        (folder / "options.json").write_text(json.dumps({"task": "celeba"}))
        paths = redraw(folder)
        assert [p.name for p in paths] == ["attributes_male.png", "accuracy.png"]
        pixels = np.asarray(Image.open(paths[0]).convert("RGB")).astype(int)
        reds.append(int(((pixels[..., 0] > 150) & (pixels[..., 1] < 60)).sum()))
    assert reds[0] == 0 < reds[1]


@pytest.mark.parametrize(("number", "expected"), [(3, [0, 2, 5]), (8, list(range(8))), (20, list(range(8))), (1, [0])])
def test_drawn_records_are_spread_over_all(number, expected):
    assert spread(list(range(8)), number) == expected


def test_a_planted_link_is_replaced_and_what_it_points_to_stays(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("figure.png", "steps.gif", "grid.png"):
        (tmp_path / name).symlink_to(victim)
    save_figure(Figure(), tmp_path / "figure.png")
    convergence_gif(Image.new("RGB", (20, 20)), np.full((3, 2, 2), 0.5), None, tmp_path / "steps.gif", seconds=0.2)
    save_image_grid([[Image.new("RGB", (8, 8))]], tmp_path / "grid.png")
    assert victim.read_text() == "precious"
    assert not any((tmp_path / name).is_symlink() for name in ("figure.png", "steps.gif", "grid.png"))
    assert {Image.open(tmp_path / name).format for name in ("figure.png", "steps.gif")} == {"PNG", "GIF"}
