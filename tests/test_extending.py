"""The toys of docs/extending.md: a dataset, a method, a baseline and a kind of concept, each without editing a file."""

import csv
import gc
import importlib
import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, forget_processes
from toy import SCENES, Toy, distance, scenes

import igm.baselines
import igm.data
import igm.inference
import igm.inference.method
import igm.tasks
from igm.data import find_dataset
from igm.evaluation.records import read_results
from igm.inference.method import methods_of
from igm.models.unet import NETWORKS
from igm.tasks import find_task

PAGE = (ROOT / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r"^\*\*`([^`]+)`\*\*\n\n```\w+\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE))
SHELL = re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
COMMANDS = [line.removeprefix("python ") for block in SHELL for line in block.splitlines()]
PACKAGES = {"data": igm.data, "igm/tasks": igm.tasks, "igm/inference": igm.inference, "igm/baselines": igm.baselines}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with every file of the page, where the packages and the commands look too; all forgotten in the end."""
    folder = tmp_path_factory.mktemp("extending")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    find_task("positions"), methods_of("positions")  # all that the package has is known for good
    with pytest.MonkeyPatch.context() as patch:
        for place, package in PACKAGES.items():
            patch.setattr(package, "__path__", [*package.__path__, str(folder / place)])
        patch.setattr(igm.tasks, "_registered", dict(igm.tasks._registered))
        patch.setattr(igm.inference.method, "_registered", list(igm.inference.method._registered))
        patch.syspath_prepend(str(folder))
        known = set(sys.modules)
        yield folder
        for name in set(sys.modules) - known:
            if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]
                parent, _, own = name.rpartition(".")
                vars(sys.modules[parent]).pop(own) if parent else None
    NETWORKS.pop("Regressor", None)
    gc.collect()  # learners are found among the classes that live


@pytest.fixture(scope="module")
def outputs(folder):
    """The page's commands, run in that folder one after the other; their files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("IGM_CACHE", str(folder / "igm-cache"))
        patch.setenv("ACCELERATE_USE_CPU", "true")
        for command in COMMANDS:
            script, *arguments = shlex.split(command)
            patch.setattr(sys, "argv", [script, *arguments])
            if (folder / script).is_file() and not arguments:
                runpy.run_path(script, run_name="__main__")
            else:
                importlib.import_module(script.removesuffix(".py")).main()
                forget_processes()
    return folder / "outputs"


def truth(folder: Path) -> dict[str, list[list[float]]]:
    """The discs of every picture as dots.csv lists them."""
    discs: dict[str, list[list[float]]] = {}
    for row in csv.DictReader((folder / "dots" / "dots.csv").open()):
        discs.setdefault(row["file"].removesuffix(".png"), []).append([float(row[name]) for name in "xyr"])
    return discs


def test_the_page_has_its_toys():
    for place in PACKAGES:
        assert any(name.startswith(f"{place}/") for name in FILES)
    assert not [name for name in FILES if (ROOT / name).exists()]  # a toy replaces nothing
    assert len(COMMANDS) == 8


def test_a_dataset_is_one_file_and_a_config(outputs, folder):
    dataset = find_dataset(folder / "dots", "positions")(folder / "dots", "val", (1, 3), flip=True)
    assert type(dataset).__name__ == "Dots" and len(dataset) == 2 * 6
    discs = truth(folder)
    for item in dataset:
        own = torch.tensor(discs[item["image_id"].removesuffix("_mirrored")])[:, :2]  # (K, 2)
        if item["image_id"].endswith("_mirrored"):
            own[:, 0] = 1 - own[:, 0]
        assert item["pixel_values"].shape == (3, 32, 32)
        assert torch.equal(item["conds"][item["mask"] > 0], own) and item["mask"].sum() == len(own)
    facts = json.loads((outputs / "dots" / "checkpoint-4" / "igm.json").read_text())
    assert facts["task"] == "positions" and facts["num_objects"] == [1, 3]
    check_records(outputs / "dots" / "eval-pursuit", discs, 2)


def test_a_method_is_one_file(outputs, folder):
    summary = check_records(outputs / "dots" / "eval-random", truth(folder), 2)
    assert summary["method"] == "random" and summary["options"]["num_sets"] == 16  # stored with what it determines
    assert summary["unet_evaluations_per_image"]["forward"] == 2 * 16 * 8  # of 1, 2, 3, 1, 2, 3 objects


def test_the_method_finds_what_denoises_best(folder):
    """On a denoiser whose best positions are known."""
    method = methods_of("positions")["random"]
    toy = Toy()
    settings = method.settings_class(num_sets=2000, num_draws=2)
    posterior, counts = scenes(toy, (0, 1))
    found = method(toy, settings).infer(posterior, counts, image_numbers=None, batch_size=500)
    assert distance(found.conds[0, :1], SCENES[0]) < 0.05 and distance(found.conds[1, :2], SCENES[1]) < 0.15
    assert toy.largest <= 500


def test_a_baseline_is_one_file_and_a_config(outputs, folder):
    checkpoint = outputs / "clevr-regression" / "checkpoint-4"
    assert json.loads((checkpoint / "igm.json").read_text())["learner"] == "regression"
    check_records(outputs / "clevr-regression" / "eval-regression", truth(folder), 2)


def test_the_baseline_learns_its_order(folder):
    """Its loss is that of the positions from left to right, whatever their order in the item."""
    learner = importlib.import_module("igm.baselines.regression").RegressionLearner
    item = {"pixel_values": torch.zeros(3, 8, 8), "conds": torch.tensor([[0.8, 0.1], [0.3, 0.4], [0.0, 0.0]])}
    batch = learner.collate([{**item, "mask": torch.tensor([1.0, 1.0, 0.0])}])
    answers = torch.tensor([[[0.3, 0.4], [0.8, 0.3], [0.9, 0.9]]])
    assert learner(lambda images: answers, None).loss(batch).item() == pytest.approx(0.2**2 / 2)


def test_a_kind_of_concept_is_found_by_its_name(outputs, folder):
    assert json.loads((outputs / "discs" / "checkpoint-4" / "igm.json").read_text())["task"] == "discs"
    summary = check_records(outputs / "discs" / "eval-gradient", truth(folder), 3)
    assert set(summary["groups"]["all"]["metrics"]) == {"found"}


def test_the_kind_of_concept_scores_by_hand(folder):
    """Two of three discs are found: the third is near in its centre, but too large."""
    true = [[0.2, 0.2, 0.1], [0.7, 0.7, 0.1], [0.4, 0.8, 0.1]]
    found = [[0.7, 0.72, 0.12], [0.4, 0.8, 0.2], [0.22, 0.2, 0.1]]
    metrics, _ = find_task("discs").score([{"conds_true": true, "conds_pred": found, "num_true": 3, "num_pred": 3}])
    assert metrics == {"found": pytest.approx(2 / 3)}


def check_records(results: Path, discs: dict, size: int) -> dict:
    """Every validation picture has a record with its true concepts and finite found ones; return the summary."""
    records = read_results(results)
    assert sorted(record["image_id"] for record in records) == sorted(discs)[3::4]
    for record in records:
        true = torch.tensor(discs[record["image_id"]])[:, :size]
        assert torch.allclose(torch.tensor(record["conds_true"]), true)
        assert torch.tensor(record["conds_pred"]).shape == true.shape
    return json.loads((results / "summary.json").read_text())
