"""Records on disk: written line by line, resumed after a kill, merged, scored again."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from igm import UserError
from igm.evaluation import summary
from igm.evaluation.records import (
    RecordWriter,
    clear_results,
    merge_shards,
    read_records,
    read_results,
    result_files,
    shard_path,
)
from igm.evaluation.summary import MADE_BY, compare, rescore, write_summary
from igm.evaluation.table import format_table
from igm.provenance import provenance
from igm.tasks import find_task
from igm.tasks.positions import Positions

OPTIONS = {"task": "clevr", "method": "pursuit", "checkpoint": "outputs/clevr/checkpoint-10", "num_steps": 5}


def record(image_id="a", group="3-5", **changes):
    return {
        "image_id": image_id,
        "group": group,
        "conds_true": [[0.1, 0.2], [0.5, 0.5]],
        "conds_pred": [[0.5, 0.5], [0.1, 0.2]],
        "num_true": 2,
        "num_pred": 2,
        "error": 0.02,
        "confidence": 0.9,
        "unet_evaluations": {"forward": 100, "backward": 20},
        "seconds": 1.5,
        "seed": 0,
        **changes,
    }


def write(path, records, resume=False, options=OPTIONS):
    with RecordWriter(path, resume, options) as writer:
        for item in records:
            writer.write(item)
    return writer


def test_records_survive_the_disk_with_their_further_keys(tmp_path):
    item = record(conds_pred=np.array([[0.5, 0.5]], dtype=np.float32), seconds=np.float64(2), image_path=Path("a.png"))
    write(tmp_path / "new" / "results.jsonl", [item])
    assert read_records(tmp_path / "new" / "results.jsonl") == [
        record(conds_pred=[[0.5, 0.5]], seconds=2.0, image_path="a.png")
    ]


def test_each_record_is_on_disk_at_once(tmp_path):
    with RecordWriter(tmp_path / "results.jsonl", False, OPTIONS) as writer:
        writer.write(record("a"))
        assert len(read_records(tmp_path / "results.jsonl")) == 1


def test_resume_drops_the_torn_line_and_appends(tmp_path):
    path = tmp_path / "results.jsonl"
    write(path, [record("a"), record("b")])
    path.write_text(path.read_text() + json.dumps(record("c"))[:50])
    assert [item["image_id"] for item in read_records(path)] == ["a", "b"]
    with RecordWriter(path, True, OPTIONS) as writer:
        assert set(writer.finished) == {("3-5", "a"), ("3-5", "b")}
        writer.write(record("c"))
        assert ("3-5", "c") in writer.finished
    assert [json.loads(line)["image_id"] for line in path.read_text().splitlines()] == ["a", "b", "c"]


def test_a_whole_last_line_without_its_newline_is_kept(tmp_path):
    path = tmp_path / "results.jsonl"
    write(path, [record("a"), record("b")])
    path.write_text(path.read_text().rstrip("\n"))
    write(path, [record("c")], resume=True)
    assert [item["image_id"] for item in read_records(path)] == ["a", "b", "c"]


def test_a_number_too_large_for_any_arithmetic_is_named_with_its_line(tmp_path):
    path = tmp_path / "results.jsonl"
    write(path, [record("a"), record("b")])
    path.write_text(path.read_text().replace('"forward": 100', '"forward": 1' + "0" * 400, 1))
    with pytest.raises(UserError, match=r"results.jsonl, line 1: 1000.* is too large a number"):
        read_records(path)


def test_a_task_of_any_type_in_the_options_is_refused_in_words(tmp_path):
    write(tmp_path / "results.jsonl", [record("a")])
    (tmp_path / "options.json").write_text(json.dumps({**OPTIONS, "task": []}))
    with pytest.raises(UserError, match=r"no task is called \[\]"):
        rescore(tmp_path)


def test_a_fresh_run_replaces_what_was_there(tmp_path):
    write(tmp_path / "results.jsonl", [record("a")])
    write(shard_path(tmp_path, 1, 2), [record("b")])
    assert write(tmp_path / "results.jsonl", [record("c")], options={"num_steps": 6}).finished.keys() == {("3-5", "c")}
    assert [item["image_id"] for item in read_results(tmp_path)] == ["c"]
    assert json.loads((tmp_path / "options.json").read_text()) == {"num_steps": 6}


def test_resume_into_an_empty_folder_starts(tmp_path):
    assert write(tmp_path / "results.jsonl", [record("a")], resume=True).finished
    assert json.loads((tmp_path / "options.json").read_text()) == OPTIONS


def test_resume_with_other_options_names_them(tmp_path):
    path = tmp_path / "results.jsonl"
    write(path, [record("a")], options={**OPTIONS, "radii": (0.1, 0.2), "device": "cpu"})
    with pytest.raises(ValueError, match=r"num_steps \(was 5, is 9\)") as error:
        RecordWriter(path, True, {"num_steps": 9, "method": "pursuit"})
    assert "method" not in str(error.value)
    with pytest.raises(ValueError, match="num_draws"):
        RecordWriter(path, True, {"num_draws": 3})
    RecordWriter(path, True, {"radii": (0.1, 0.2)}).close()  # a subset, and a tuple that the file holds as a list
    (tmp_path / "options.json").unlink()
    with pytest.raises(ValueError, match="options.json is missing"):
        RecordWriter(path, True, {})


def test_a_bad_line_is_named(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join([json.dumps(record("a")), '{"image_id": "b"', json.dumps(record("c")), ""]))
    with pytest.raises(ValueError, match=r"results.jsonl, line 2: "):
        read_records(path)
    path.write_text(json.dumps({"image_id": "a"}) + "\n")
    with pytest.raises(ValueError, match=r"line 1: the line lacks group, conds_true"):
        read_records(path)


def test_a_condition_that_diverged_is_refused_and_other_values_become_null(tmp_path):
    with RecordWriter(tmp_path / "results.jsonl", False, OPTIONS) as writer:
        with pytest.raises(ValueError, match="image 'a'.*conds_pred"):
            writer.write(record(conds_pred=[[0.1, float("nan")]]))
        with pytest.raises(ValueError, match="lacks seed"):
            writer.write({key: value for key, value in record().items() if key != "seed"})
        writer.write(record(error=float("inf"), conds_true=None, num_true=None))
    assert read_records(tmp_path / "results.jsonl")[0]["error"] is None


def test_shards_merge_in_order_of_group_and_image(tmp_path):
    write(shard_path(tmp_path, 0, 2), [record("c", "6-8"), record("b", "3-5")])
    write(shard_path(tmp_path, 1, 2), [record("a", "6-8"), record("d", "3-5"), record("b", "3-5", seed=9)])
    shards = result_files(tmp_path)
    assert [path.name for path in shards] == ["results.0.jsonl", "results.1.jsonl"]
    merged = merge_shards(shards, tmp_path / "results.jsonl")
    keys = [(item["group"], item["image_id"]) for item in merged]
    assert keys == [("3-5", "b"), ("3-5", "d"), ("6-8", "a"), ("6-8", "c")]
    assert merged[0]["seed"] == 0  # the first of two
    assert read_records(tmp_path / "results.jsonl") == merged
    assert result_files(tmp_path) == [tmp_path / "results.jsonl"]


def test_a_run_resumes_with_another_number_of_processes(tmp_path):
    for rank, image_id in enumerate("abc"):
        write(shard_path(tmp_path, rank, 3), [record(image_id)])
    finished = {("3-5", image_id) for image_id in "abc"}
    for rank in range(2):
        with RecordWriter(shard_path(tmp_path, rank, 2), True, OPTIONS) as writer:
            assert writer.finished.keys() == finished
    merge_shards(result_files(tmp_path), tmp_path / "results.jsonl")
    write(shard_path(tmp_path, 0, 2), [record("d")], resume=True)
    merged = merge_shards(result_files(tmp_path), tmp_path / "results.jsonl")
    assert [item["image_id"] for item in merged] == list("abcd")
    clear_results(tmp_path)
    assert result_files(tmp_path) == []


def summarise(path, records, **changes):
    arguments = dict(task=find_task("clevr"), method="pursuit", options=OPTIONS)
    arguments.update(made_by=provenance().to_json(), checkpoint=OPTIONS["checkpoint"])
    return write_summary(path, records=records, **{**arguments, **changes})


def test_summary_holds_what_the_format_says(tmp_path):
    records = [
        record("a"),
        record("b", seconds=2.5, conds_pred=[[0.1, 0.2]], num_pred=1, unlike=True),
        record("c", "6-8", conds_true=None, num_true=None, unet_evaluations={"forward": 400, "backward": 20}),
    ]
    summary = summarise(tmp_path / "deep" / "summary.json", records)
    assert summary == json.loads((tmp_path / "deep" / "summary.json").read_text())
    assert list(summary) == [
        *("task", "method", "groups", "seconds_per_image", "unet_evaluations_per_image"),
        *("options", *MADE_BY, "checkpoint"),
    ]
    assert summary["groups"]["3-5"].keys() == {"num_images", "num_unlike", "metrics", "ci95"}
    assert summary["groups"]["3-5"]["metrics"]["perception_rate"]["0.05"] == 0.75
    assert summary["groups"]["3-5"]["num_unlike"] == 1
    assert summary["groups"]["6-8"] == {"num_images": 1, "num_unlike": None, "metrics": {}, "ci95": {}}
    assert summary["seconds_per_image"] == pytest.approx(5.5 / 3)
    assert summary["unet_evaluations_per_image"] == {"forward": 200, "backward": 20}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["summary.json"]  # no temporary file is left


def test_summary_is_strict_json(tmp_path):
    class Broken(Positions):
        def score(self, records):
            return {"accuracy": float("nan"), "share": np.float32("inf")}, {"accuracy": [np.nan, 1.0]}

    summarise(tmp_path / "summary.json", [record()], task=Broken(), options={"path": Path("x"), "t": (1, 2)})

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    summary = json.loads((tmp_path / "summary.json").read_text(), parse_constant=refuse)
    assert summary["groups"]["3-5"]["metrics"] == {"accuracy": None, "share": None}
    assert summary["groups"]["3-5"]["ci95"] == {"accuracy": [None, 1.0]}
    assert summary["options"] == {"path": "x", "t": [1, 2]}
    assert "no image" in format_table(summarise(tmp_path / "summary.json", []))


def test_table_is_aligned_and_shows_counts_only_where_inferred(tmp_path):
    summary = summarise(
        tmp_path / "summary.json", [record("a"), record("b", "female", conds_pred=[[0.5, 0.5], [0.1, 0.22]])]
    )
    lines = format_table(summary).splitlines()
    assert len({len(line) for line in lines[:4]}) == 1 and lines[2].startswith("3-5 ") and lines[3].startswith("female")
    assert "100.0 % [34.2, 100.0]" in lines[2] and "0.0e+00" in lines[2] and "1.0e-04" in lines[3]
    assert "120 UNet evaluations (100 forward + 20 backward)" in lines[-1]
    assert "count accuracy" not in lines[0]
    summary["options"]["count"] = "infer"
    assert "count accuracy" in format_table(summary).splitlines()[0]


def test_a_folder_is_scored_again_from_its_records(tmp_path, monkeypatch, capsys):
    write(tmp_path / "results.jsonl", [record("a"), record("b", "6-8")])
    first = summarise(tmp_path / "summary.json", read_results(tmp_path), made_by={"versions": {"torch": "1"}})
    assert rescore(tmp_path) == first
    (tmp_path / "summary.json").unlink()
    monkeypatch.setattr(sys, "argv", ["results", str(tmp_path)])
    summary.main()
    assert "found within 0.05" in capsys.readouterr().out
    again = json.loads((tmp_path / "summary.json").read_text())
    assert again == {**first, "versions": None}
    write(tmp_path / "results.jsonl", [record("a")], options={"task": "birds"})
    (tmp_path / "summary.json").unlink()
    with pytest.raises(ValueError, match="'birds'"):
        rescore(tmp_path)
    with pytest.raises(UserError, match="no results.jsonl"):
        rescore(tmp_path / "nowhere")


def test_two_runs_are_compared_on_the_images_that_both_have(tmp_path, monkeypatch, capsys):
    """Of 3 shared images with 2 objects each, one run finds all, the other misses one object of each: 50 points.

    Bounds: see test_a_difference_by_newcombes_closed_form.
    """
    near, far = record()["conds_true"], [[0.1, 0.2], [0.9, 0.9]]
    write(tmp_path / "one" / "results.jsonl", [record(name, conds_pred=near) for name in "abcd"])
    write(tmp_path / "two" / "results.jsonl", [record(name, conds_pred=far) for name in "abc"])
    (found,) = compare(tmp_path / "one", tmp_path / "two")
    assert str(found) == "3-5: +50.0 points [+0.0, +81.2] on 3 images"
    monkeypatch.setattr(sys, "argv", ["results", str(tmp_path / "two"), "--against", str(tmp_path / "one")])
    summary.main()
    assert capsys.readouterr().out.splitlines()[-1] == "3-5: -50.0 points [-81.2, -0.0] on 3 images"
    write(tmp_path / "other" / "results.jsonl", [record("z")])
    with pytest.raises(ValueError, match="no image of one task in common"):
        compare(tmp_path / "one", tmp_path / "other")


def test_difference_varies_only_where_the_runs_differ(tmp_path):
    """40 images that both have wrong or right alike, and 10 that only one has right: the interval is that of the 10."""
    yes, no = [[0.0, 1.0]], [[1.0, 0.0]]
    both = [record(f"{i}", "all", conds_true=[[0, 1]], num_true=1, conds_pred=yes if i % 2 else no) for i in range(50)]
    better = [{**r, "conds_pred": yes} if i in range(0, 20, 2) else r for i, r in enumerate(both)]
    options = {**OPTIONS, "task": "celeba"}
    write(tmp_path / "one" / "results.jsonl", better, options=options)
    write(tmp_path / "two" / "results.jsonl", both, options=options)
    (found,) = compare(tmp_path / "one", tmp_path / "two")
    deviation = 100 * (0.2 * 0.8 / 50) ** 0.5  # of the mean of 50 zeros and ones, 10 of them ones
    assert found.points == pytest.approx(20) and found.low == pytest.approx(20 - 1.96 * deviation, abs=3)
    assert found.high == pytest.approx(20 + 1.96 * deviation, abs=3)
