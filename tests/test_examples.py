"""The digits: what the labels say is where the ink is; the commands of the page run at small size."""

import json
import shlex

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from sklearn.datasets import load_digits
from test_docs import commands_of, split_command
from test_scripts import records_of

from igm.data.labelled import LabelledScenes
from igm.data.vocabulary import decode_objects


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A small set, made by the command as it stands on the page, with smaller numbers."""
    import runpy
    import sys

    root = tmp_path_factory.mktemp("examples") / "digits"
    with pytest.MonkeyPatch.context() as patch:
        words = f"make.py --out {root} --num_train 60 --num_val 3 --num_test 4"
        patch.setattr(sys, "argv", shlex.split(words))
        runpy.run_path(str(ROOT / "examples" / "digits" / "make.py"), run_name="__main__")
    return root


def test_labels_are_where_the_ink_is(digits):
    """Around each point it is bright; far from all points it is the ground."""
    for split, (low, high) in {"train": (1, 3), "val": (1, 3), "test": (4, 5)}.items():
        for row in map(json.loads, (digits / split / "metadata.jsonl").read_text().splitlines()):
            assert low <= len(row["points"]) <= high and len(row["digit"]) == len(row["points"])
            grey = np.asarray(Image.open(digits / split / row["file_name"]).convert("L"), dtype=float)
            y, x = np.mgrid[:64, :64] + 0.5
            far = np.min([np.maximum(abs(x - px), abs(y - py)) for px, py in row["points"]], axis=0) > 8
            assert np.ptp(grey[far]) <= 1
            for px, py in row["points"]:
                own = np.maximum(abs(x - px), abs(y - py)) < 8
                weights = (grey - grey[far][0]).clip(0) * own
                assert weights.max() > 60
                assert abs((x * weights).sum() / weights.sum() - px) < 4  # of 16 pixels
                assert abs((y * weights).sum() / weights.sum() - py) < 4


def test_each_digit_is_what_its_label_says_and_of_its_split(digits):
    """Of scikit-learn's digits, enlarged, the one that a digit of a picture goes with best has its label, and its split."""
    sources = load_digits()
    shares = {"train": (0.0, 0.8), "val": (0.8, 0.9), "test": (0.9, 1.0)}
    large = np.kron(sources.images, np.ones((1, 2, 2))).reshape(len(sources.images), -1)  # (N, 256)
    large = (large - large.mean(1, keepdims=True)) / large.std(1, keepdims=True)
    checked = 0
    for split, (first, last) in shares.items():
        for row in map(json.loads, (digits / split / "metadata.jsonl").read_text().splitlines()[:20]):
            grey = np.asarray(Image.open(digits / split / row["file_name"]).convert("L"), dtype=float)
            for (x, y), digit in zip(row["points"], row["digit"], strict=True):
                if any(0 < max(abs(x - px), abs(y - py)) < 16 for px, py in row["points"]):
                    continue  # others reach into its square
                own = grey[int(y) - 8 : int(y) + 8, int(x) - 8 : int(x) + 8].ravel()
                best = int((large @ (own - own.mean())).argmax())
                assert sources.target[best] == digit
                assert first <= best / len(large) < last
                checked += 1
    assert checked > 20


def test_the_folder_is_read_as_it_is(digits):
    dataset = LabelledScenes(digits, "train", (1, 3), fields=("all",))
    assert dataset.vocabulary == {"digit": tuple("0123456789")}
    test = LabelledScenes(digits, "test", (4, 5))
    test.speak(dataset.vocabulary, "the checkpoint")
    rows = [json.loads(line) for line in (digits / "test" / "metadata.jsonl").read_text().splitlines()]
    for i, row in enumerate(rows):
        own = decode_objects(test.annotation(i)["conds"][: len(row["digit"])], test.vocabulary)
        assert [thing["digit"] for thing in own] == [str(digit) for digit in row["digit"]]


def test_the_page_runs(digits, run_main, tmp_path, monkeypatch):
    """Its commands with one step, few draws, and the test's folders."""
    found = [split_command(words) for words in commands_of(ROOT / "examples" / "README.md") if words[0] == "python"]
    assert [script for script, _ in found][:4] == ["examples/digits/make.py", "train_clevr.py", *["eval_clevr.py"] * 2]
    places = {"digits": str(digits), "outputs/digits/checkpoint-5000": str(tmp_path / "digits" / "checkpoint-1")}
    places |= {"outputs/clevr/eval-pursuit": str(tmp_path / "clevr" / "eval-pursuit")}
    places |= {"digits.csv": str(tmp_path / "digits.csv")}
    small = {
        "train_clevr.py": "--max_train_steps 1 --train_batch_size 4 --lr_warmup_steps 0",
        "eval_clevr.py": "--num_candidates 36 --num_draws 2 --num_steps 1 --no_figures",
    }
    for script, arguments in found[1:]:
        more = shlex.split(small.get(script, ""))
        more += ["--output_dir", tmp_path] if script in small else []
        code, _, err = run_main(script.removesuffix(".py"), *[places.get(word, word) for word in arguments], *more)
        assert code == 0, err
        if "--split" in arguments:
            counts = [record["num_true"] for record in records_of(tmp_path / "clevr" / "eval-pursuit")]
            assert counts and all(k >= 4 if "test" in arguments else k <= 3 for k in counts)
    assert len((tmp_path / "digits.csv").read_text().splitlines()) == 1 + sum(counts)


def test_an_existing_folder_is_left_alone(digits, run_script):
    done = run_script("examples/digits/make.py", "--out", digits)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--out" in done.stderr
