"""The contract that all datasets keep, and how a folder finds its dataset."""

import sys

import pytest
import torch
from conftest import CELEBA_ROWS, write_celeba, write_clevr
from PIL import Image

import igm.data
from igm.data import DataError, dataset_classes, find_dataset
from igm.data.animals import Animals
from igm.data.celeba import CelebA
from igm.data.clevr import Clevr
from igm.data.clevrtex import ClevrTex
from igm.data.dataset import unique_ids
from igm.data.labelled import LabelledFaces, LabelledScenes
from igm.data.synthetic import clevr as scenes
from igm.data.unlabelled import Pictures

TOY = '''
"""Pictures with positions in a text file."""

import torch

from igm.data.dataset import Concepts, ImageDataset


class Toy(ImageDataset):
    task = "positions"

    def __init__(self, root, split="train", num_objects=(1, 1), resolution=16, **options):
        super().__init__(resolution)
        rows = [line.split() for line in (root / "toy.txt").read_text().splitlines()]
        self.points = torch.tensor([[float(x), float(y)] for _, x, y in rows])
        self.admit(root, [name for name, *_ in rows], [name for name, *_ in rows], False)

    @classmethod
    def recognises(cls, root):
        return (root / "toy.txt").is_file()

    def concepts(self, row: int, mirrored: bool) -> Concepts:
        return {"conds": self.points[row][None], "mask": torch.ones(1)}
'''


@pytest.fixture
def toy_root(tmp_path):
    root = tmp_path / "toy-data"
    root.mkdir()
    Image.new("RGB", (20, 10), "red").save(root / "a.png")
    (root / "toy.txt").write_text("a.png 0.5 0.25\n")
    return root


@pytest.fixture
def add_module(tmp_path, monkeypatch):
    """A function (name, source) that puts one new file beside the modules of igm.data."""
    folder = tmp_path / "more"
    folder.mkdir()
    monkeypatch.setattr(igm.data, "__path__", [*igm.data.__path__, str(folder)])

    def add(name, source):
        (folder / f"{name}.py").write_text(source)

    yield add
    for path in folder.glob("*.py"):
        sys.modules.pop(f"igm.data.{path.stem}", None)
        vars(igm.data).pop(path.stem, None)


def test_a_new_dataset_is_one_new_file(toy_root, add_module):
    assert find_dataset(toy_root, "positions") is Clevr
    add_module("toy_data", TOY)
    found = find_dataset(toy_root, "positions")
    assert found.__name__ == "Toy"
    item = found(toy_root)[0]
    assert item["pixel_values"].shape == (3, 16, 16) and item["conds"].tolist() == [[0.5, 0.25]]
    assert item["image_id"] == "a.png" and len(found(toy_root).fingerprint()) == 16
    assert find_dataset(toy_root.parent, "positions") is Clevr and find_dataset(toy_root, "attributes") is CelebA


def test_a_folder_that_two_datasets_recognise(toy_root, add_module):
    add_module("toy_one", TOY)
    add_module("toy_two", TOY.replace("Toy", "Other"))
    with pytest.raises(DataError, match="Toy and Other"):
        find_dataset(toy_root, "positions")


def test_every_task_has_a_default_whose_error_says_what_it_expects(tmp_path):
    for task, words in (("positions", "CLEVR_v1.0"), ("attributes", "CelebA"), ("classes", "images")):
        options = {"classes": ["cat", "dog"]} if task == "classes" else {}
        with pytest.raises(DataError, match=words):
            find_dataset(tmp_path / "nowhere", task)(tmp_path / "nowhere", **options)
    with pytest.raises(ValueError, match="'sounds'"):
        find_dataset(tmp_path, "sounds")


def test_folders_are_recognised_by_their_content(tmp_path, clevr_root, celeba_root):
    Image.new("RGB", (8, 8)).save(tmp_path / "cat_dog_1.png")
    own_labels = tmp_path / "own"
    own_labels.mkdir()
    (own_labels / "metadata.csv").write_text("file_name,points\n")
    roots = {Clevr: clevr_root, CelebA: celeba_root, Animals: tmp_path}
    roots |= {LabelledScenes: own_labels, LabelledFaces: own_labels}
    (tmp_path / "tex" / "clevrtex_full").mkdir(parents=True)
    roots |= {ClevrTex: tmp_path / "tex"}
    assert set(roots) == set(dataset_classes())
    for kind in roots:
        of_task = {own: root for own, root in roots.items() if own.task == kind.task}
        assert [own for own, root in of_task.items() if kind.recognises(root)] == [kind]
        assert not kind.recognises(tmp_path / "nowhere")


@pytest.fixture(params=["Clevr", "ClevrTex", "CelebA", "Animals", "Pictures", "LabelledScenes", "LabelledFaces"])
def opened(request, tmp_path):
    """Each dataset with two pictures, as a function of options."""
    if request.param == "Clevr":
        write_clevr(tmp_path, "train", [3, 4])
        return lambda **options: Clevr(tmp_path, "train", **options)
    if request.param == "ClevrTex":
        scenes.generate(tmp_path, "outd", 2, (3, 4), layout="clevrtex", resolution=(48, 36))
        return lambda **options: ClevrTex(tmp_path, "test", **options)
    if request.param == "CelebA":
        write_celeba(tmp_path, CELEBA_ROWS[:2])
        return lambda **options: CelebA(tmp_path, **options)
    for name in ("cat_dog_1.png", "cat_rabbit_2.png"):
        Image.effect_noise((12, 8), 80).convert("RGB").save(tmp_path / name)
    if request.param.startswith("Labelled"):
        lines = ["file_name,points,Smiling", 'cat_dog_1.png,"[[3, 4]]",1', 'cat_rabbit_2.png,"[[5, 2], [7, 7]]",0']
        (tmp_path / "metadata.csv").write_text("\n".join(lines))
        if request.param == "LabelledFaces":
            return lambda **options: LabelledFaces(tmp_path, attributes=["Smiling"], val_share=0.0, **options)
        return lambda **options: LabelledScenes(tmp_path, num_objects=(1, 3), val_share=0.0, **options)
    if request.param == "Animals":
        return lambda **options: Animals(tmp_path, ["cat", "dog", "rabbit"], **options)
    return lambda **options: Pictures([tmp_path], **options)


def test_the_contract(opened):
    dataset = opened(resolution=16)
    assert len(dataset) == 2 and dataset.num_skipped == 0
    for i, item in enumerate(dataset):
        assert item["pixel_values"].shape == (3, 16, 16) and item["pixel_values"].dtype == torch.float32
        assert -1 <= item["pixel_values"].min() and item["pixel_values"].max() <= 1
        rest = {name: value for name, value in item.items() if name != "pixel_values"}
        again = dataset.annotation(i)
        assert rest.keys() == again.keys() and rest["image_id"] == again["image_id"]
        for name in rest.keys() - {"image_id"}:
            assert rest[name].equal(again[name]) and rest[name].dtype == torch.float32
            assert len(rest[name]) == len(rest["mask"])
        assert dataset.path_of(i).is_file()
    assert len({item["image_id"] for item in dataset}) == 2 and isinstance(dataset.facts(), dict)
    for wrong in (2, -1):
        with pytest.raises(IndexError):
            dataset.path_of(wrong)


def test_resolution_may_be_set_later(opened):
    late, early = opened(resolution=16), opened(resolution=8)
    late.resolution = 8
    assert late[1]["pixel_values"].equal(early[1]["pixel_values"]) and late.fingerprint() == early.fingerprint()


def test_every_dataset_leaves_out_bad_images_on_request(opened):
    opened().path_of(0).write_bytes(b"")
    with pytest.raises(DataError, match="is not readable"):
        opened()
    dataset = opened(skip_bad_images=True)
    assert len(dataset) == dataset.num_skipped == 1


@pytest.mark.parametrize(
    "files, ids",
    [
        (["a.png", "b.jpg"], ["a", "b"]),
        (["x/a.png", "y/a.png", "y/b.png"], ["x/a", "y/a", "b"]),
        (["x\\a.png", "y\\a.png"], ["x/a", "y/a"]),
        (["a.png", "a.jpg", "b.png"], ["a.png", "a.jpg", "b"]),
        (["a.png", "a.jpg", "x/a.png"], ["a.png", "a.jpg", "x/a"]),
        (["\x1b[0m.png"], ["\\x1b[0m"]),
    ],
)
def test_names_in_results(files, ids):
    assert unique_ids(files) == ids


def test_messages_of_loader_processes_keep_their_last_line():
    message = "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  x\n"
    assert str(DataError(f"{message}igm.data.DataError: image a.png: gone\n")) == "image a.png: gone"


def test_messages_are_one_line_of_printable_characters():
    message = str(DataError("image a\n\x1b[31m\u202e\ud800.png " + "x" * 5000))
    assert (
        message.isprintable() and message.startswith("image a\\n\\x1b[31m\\u202e\\ud800.png x") and len(message) < 1100
    )
