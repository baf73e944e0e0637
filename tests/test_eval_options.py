"""Evaluation with an unknown number of objects, on one's own pictures, with little memory; what would be done."""

import json
import shutil

import pytest
import torch
from conftest import write_clevr
from PIL import Image
from safetensors.torch import load_file, save_file
from test_scripts import check_refused, checkpoint, eval_args, records_of  # noqa: F401  (fixtures)

from igm import UserError
from igm.evaluation.run import Worker, within_memory
from igm.files import locked


def test_count_is_inferred_and_recorded(run_main, eval_args, tmp_path):  # noqa: F811
    args = eval_args("--count", "infer", "--object_counts", "3-5", num_candidates=36, max_objects=4, count_draws=4)
    code, out, err = run_main("eval_clevr", *args)
    assert code == 0, err
    assert "count accuracy" in out
    folder = tmp_path / "results" / "clevr" / "eval-pursuit-count"
    for record in records_of(folder):
        assert 1 <= record["num_pred"] <= len(record["error_by_count"]) <= 4
        assert len(record["standard_error_by_count"]) == len(record["error_by_count"])
        assert len(record["object_confidence"]) == record["num_pred"] and 0 <= record["confidence"] <= 1
        assert record["count_draws"] == 4


def test_own_pictures_have_no_scores(run_main, eval_args, clevr_root, tmp_path):  # noqa: F811
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.open(clevr_root / "images" / "val" / "CLEVR_val_000000.png").convert("RGB").save(pictures / "one.jpg")
    shutil.copy(clevr_root / "images" / "val" / "CLEVR_val_000001.png", tmp_path / "two.png")
    (pictures / "notes.txt").write_text("not a picture")
    given = ["--images", pictures, tmp_path / "two.png"]
    code, out, err = run_main("eval_clevr", *eval_args("--num_objects", 2), *given)
    assert code == 0, err
    (first,) = [line.split() for line in out.splitlines() if line.startswith("one ")]
    width, height = Image.open(pictures / "one.jpg").size
    x, y = records_of(tmp_path / "results" / "clevr" / "eval-pursuit-images")[0]["conds_pred"][0]
    assert first[1:4] == ["object", f"{x * width:.0f}", f"{y * height:.0f}"], "x and y in pixels"
    folder = tmp_path / "results" / "clevr" / "eval-pursuit-images"
    records = records_of(folder)
    assert [r["image_id"] for r in records] == ["one", "two"]
    assert all(r["conds_true"] is None and r["num_true"] is None and r["num_pred"] == 2 for r in records)
    assert (folder / "figures" / "positions_images.png").is_file()


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--images", "nowhere"], ["--images nowhere", "exist"]),
        (["--images", "."], ["--count infer", "--num_objects"]),
        (["--count", "infer", "--method", "gradient"], ["--count infer", "pursuit"]),
        (["--count", "infer", "--max_objects", "0"], ["--max_objects"]),
        (["--count", "infer", "--count_draws", "0"], ["--count_draws"]),
        (["--confidence", "0.9"], ["--confidence", "--count infer"]),
        (["--count", "infer", "--confidence", "1.5"], ["--confidence"]),
        (["--num_draws", "0"], ["--num_draws"]),
    ],
)
def test_mistakes(run_main, eval_args, no_model, flags, parts):  # noqa: F811
    more = ["--num_objects", 2] if "nowhere" in flags else []
    code, _, err = run_main("eval_clevr", *eval_args(), *flags, *more)
    check_refused(code, err, *parts)


def test_folder_without_pictures(run_main, eval_args, tmp_path, no_model):  # noqa: F811
    (tmp_path / "empty").mkdir()
    code, _, err = run_main("eval_clevr", *eval_args("--num_objects", 2), "--images", tmp_path / "empty")
    check_refused(code, err, tmp_path / "empty")


def test_dry_run_says_what_would_be_done(run_main, eval_args, tmp_path):  # noqa: F811
    code, out, err = run_main("eval_clevr", *eval_args("--dry_run"))
    assert code == 0, err
    assert "num_candidates: 16" in out and "2 3-5 images" in out and "nothing was computed" in out
    assert not (tmp_path / "results").exists()


def test_too_little_memory_halves_the_batch_and_says_so_once(capsys):
    sizes = []

    def infer(value, batch_size):
        sizes.append(batch_size)
        if batch_size > 20:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        return value

    roomy = within_memory(infer, 64)
    assert roomy(1) == 1 and roomy(2) == 2
    assert sizes == [64, 32, 16, 16]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "--batch_size 64" in lines[0] and "16" in lines[1]


def test_other_errors_and_the_last_row_are_not_hidden():
    def infer(batch_size):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory" if batch_size < 8 else "shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        within_memory(infer, 8)()
    with pytest.raises(UserError, match="too little memory"):
        within_memory(infer, 4)()


def test_second_writer_is_told_at_once_and_the_first_run_stays_whole(run_main, eval_args, tmp_path):  # noqa: F811
    folder = tmp_path / "results" / "clevr" / "eval-pursuit"
    assert run_main("eval_clevr", *eval_args("--no_figures", "--object_counts", "3-5"))[0] == 0
    before = (folder / "results.jsonl").read_text()
    with locked(folder):
        code, _, err = run_main("eval_clevr", *eval_args("--no_figures", "--object_counts", "3-5"))
    check_refused(code, err.splitlines()[-1], folder)
    assert (folder / "results.jsonl").read_text() == before


def test_resume_refuses_a_record_of_an_image_that_the_run_does_not_have(run_main, eval_args, tmp_path):  # noqa: F811
    args = eval_args("--no_figures", "--object_counts", "3-5")
    assert run_main("eval_clevr", *args)[0] == 0
    results = tmp_path / "results" / "clevr" / "eval-pursuit" / "results.jsonl"
    results.write_text(results.read_text().replace('"CLEVR_val_000000"', '"nan"'))
    code, _, err = run_main("eval_clevr", *args, "--resume")
    check_refused(code, err.splitlines()[-1], "a record of image nan in group 3-5, which this run does not have")


def test_resume_refuses_other_weights_of_the_same_name(run_main, eval_args, checkpoint, tmp_path):  # noqa: F811
    args = eval_args("--no_figures", "--object_counts", "3-5")
    assert run_main("eval_clevr", *args)[0] == 0
    (file,) = (checkpoint / "unet2dconditionmodel").glob("*.safetensors")
    tensors = load_file(file)
    tensors[min(tensors)] += 0.5
    save_file(tensors, file)
    code, _, err = run_main("eval_clevr", *args, "--resume")
    check_refused(code, err.splitlines()[-1], "cannot resume", "weights")


@pytest.mark.parametrize("name", ["options.json", "results.jsonl"])
def test_broken_files_of_a_folder_are_named(name, run_main, eval_args, tmp_path):  # noqa: F811
    args = eval_args("--no_figures", "--object_counts", "3-5")
    folder = tmp_path / "results" / "clevr" / "eval-pursuit"
    assert run_main("eval_clevr", *args)[0] == 0
    (folder / name).write_text("[" * 100_000 + "\n" + (folder / "results.jsonl").read_text())
    code, _, err = run_main("eval_clevr", *args, "--resume")
    check_refused(code, err.splitlines()[-1], folder / name)
    code, _, err = run_main("igm.evaluation.summary", folder)
    check_refused(code, err.splitlines()[-1], folder / name)


@pytest.mark.parametrize("name", ["../out", "..", "/tmp/x", "a\x1b[31m"])
def test_name_of_a_run_never_leads_elsewhere(name, run_main, eval_args, no_model):  # noqa: F811
    code, _, err = run_main("eval_clevr", *eval_args(tracker_project_name=name))
    check_refused(code, err, "--tracker_project_name")
    assert "\x1b" not in err


def test_stopped_evaluation_says_how_to_go_on(run_main, eval_args, monkeypatch, tmp_path):  # noqa: F811
    """Ctrl-C in the second batch: exit code 130, one line; what was computed is kept, and --resume computes the rest."""
    calls = []
    own = Worker.infer

    def infer(self, batch):
        calls.append(batch)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return own(self, batch)

    monkeypatch.setattr(Worker, "infer", infer)
    args = eval_args("--no_figures", "--object_counts", "3-5", images_per_batch=1)
    code, _, err = run_main("eval_clevr", *args)
    assert code == 130 and "--resume" in err.splitlines()[-1] and "Traceback" not in err
    folder = tmp_path / "results" / "clevr" / "eval-pursuit"
    assert len(records_of(folder)) == 1
    assert run_main("eval_clevr", *args, "--resume")[0] == 0
    assert len(records_of(folder)) == 2 and len(calls) == 3


def test_a_default_group_that_the_data_lack_is_left_out_and_an_asked_one_refused(run_main, eval_args, tmp_path):  # noqa: F811
    root = tmp_path / "few"
    write_clevr(root, "val", [3, 4], seed=5)
    code, out, err = run_main("eval_clevr", *eval_args("--no_figures", dataset_root=root))
    assert code == 0, err
    assert "no scene with 6 to 8 objects (it has 3 to 4)" in out and "left out" in out
    summary = json.loads((tmp_path / "results" / "clevr" / "eval-pursuit" / "summary.json").read_text())
    assert list(summary["groups"]) == ["3-5"]
    code, _, err = run_main("eval_clevr", *eval_args("--object_counts", "3-5", "6-8", dataset_root=root))
    check_refused(code, err, "no scene with 6 to 8 objects")
    write_clevr(tmp_path / "crowded", "val", [9], seed=5)
    code, _, err = run_main("eval_clevr", *eval_args(dataset_root=tmp_path / "crowded"))
    check_refused(code, err, "no scene with 3 to 5 objects (it has 9 to 9)")
