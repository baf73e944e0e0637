"""The first minute of the speedrun, by its real command: scenes are drawn, the network trains, the curve is there."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT
from matplotlib.image import imread

from igm.data.synthetic.clevr import generate

SCRIPTS = sorted(path.name for path in (ROOT / "benchmarks").glob("*.py") if path.name != "measure.py")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Drawn scenes to train on, and a few to evaluate."""
    root = tmp_path_factory.mktemp("scenes")
    generate(root, "train", num_images=96, num_objects=(3, 5), resolution=(96, 64), seed=0)
    generate(root, "val", num_images=8, num_objects=(3, 8), resolution=(96, 64), seed=1)
    return root


def speedrun(*words):
    return subprocess.run(
        [sys.executable, "benchmarks/speedrun.py", *map(str, words)], cwd=ROOT, capture_output=True, text=True
    )


def test_the_first_minute_of_the_speedrun(scenes, tmp_path):
    """The error on held-out scenes falls, and each checkpoint has its row."""
    words = ("--dataset_root", scenes, "--output_dir", tmp_path)
    done = speedrun(*words, "--max_train_steps", 60, "--every", 40, "--num_images", 2)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split() for line in done.stdout.split("step  minutes")[1].splitlines()[2:4]]
    assert [row[0] for row in rows] == ["40", "60"] and float(rows[1][1]) >= float(rows[0][1])
    lines = [json.loads(line) for line in (tmp_path / "speedrun" / "validation.jsonl").read_text().splitlines()]
    first, second = (line["val_error"] for line in lines)
    assert second < first - 0.03 and first < 0.85  # an untrained network has about 1
    assert imread(tmp_path / "speedrun" / "speedrun.png").std() > 0.02
    for more, said in (
        ((), "has a speedrun already; delete that"),
        (("--output_dir", tmp_path / "a", "--every", 3000), "--every 3000 is"),
    ):
        again = speedrun(*words, *more)
        assert again.returncode == 2 and said in again.stderr and again.stderr.count("\n") == 1


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_benchmark_starts_as_the_docs_say(script):
    done = subprocess.run(
        [sys.executable, f"benchmarks/{script}", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and "usage" in done.stdout, done.stderr[-500:]
