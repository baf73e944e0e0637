"""Drawn faces: the layout, what each attribute changes in the picture, and how the domains differ."""

import importlib

import numpy as np
import pytest
import torch

from igm.data.celeba import CelebA
from igm.data.synthetic.faces import ATTRIBUTES, Face, draw_face, generate, sample_attributes, sample_face


def drawn(**changes):
    """Pixels of one face with other attributes or looks."""
    face = sample_face(np.random.default_rng(5), male=False)
    names = {"No_Beard", "Young", *changes.pop("names", ())}
    looks = {**face.looks, "roll": 0.0, "scale": 1.0, "centre": np.array([89.0, 122.0]), "noise": 0.0, **changes}
    return np.asarray(draw_face(Face(names, looks))).astype(float)


def changed_box(a, b):
    """Left, top, right, bottom of the pixels that differ."""
    rows, columns = np.nonzero(np.abs(a - b).max(2) > 3)
    return columns.min(), rows.min(), columns.max(), rows.max()


def test_layout_is_celebas(tmp_path):
    path = generate(tmp_path, num_train=3, num_val=2, num_test=2, seed=1)
    lines = path.read_text().splitlines()
    assert lines[0] == "7" and tuple(lines[1].split()) == ATTRIBUTES and len(ATTRIBUTES) == 40
    assert (tmp_path / "list_eval_partition.txt").read_text().split("\n")[3] == "000004.jpg 1"
    assert len(CelebA(tmp_path)) == 3 and len(CelebA(tmp_path, "test", "male")) == len(CelebA(tmp_path, "test")) == 1
    # the places of these columns are known from the published code, which reads them by number
    assert [ATTRIBUTES.index(n) + 1 for n in ("Black_Hair", "Eyeglasses", "Male", "Smiling")] == [9, 16, 21, 32]
    with pytest.raises(ValueError, match="none below 0"):
        generate(tmp_path, num_train=-1)


def test_same_seed_same_files(tmp_path):
    folders = []
    for name, seed, workers in (("a", 1, 0), ("b", 1, 2), ("c", 2, 0)):
        generate(tmp_path / name, num_train=2, num_test=2, seed=seed, workers=workers)
        folders.append([p.read_bytes() for p in sorted((tmp_path / name).rglob("*.*")) if p.is_file()])
    assert folders[0] == folders[1] != folders[2]


def test_glasses_change_the_eyes_and_nothing_else():
    left, top, right, bottom = changed_box(drawn(), drawn(names=["Eyeglasses"]))
    assert 90 <= top < bottom <= 132 and right - left > 50


def test_a_smile_changes_the_mouth_and_cheeks_and_nothing_else():
    left, top, right, bottom = changed_box(drawn(smile=0.0), drawn(smile=0.8, names=["Smiling"]))
    assert 130 <= top < bottom <= 180 and right - left < 75


def test_black_hair_is_darker_than_any_other():
    rng = np.random.default_rng(0)
    grey = {name: [] for name in ("Black_Hair", "Brown_Hair", "Blond_Hair", "Gray_Hair")}
    for i in range(400):
        face = sample_face(rng, male=bool(i % 2))
        grey[next(name for name in grey if name in face.attributes)].append(np.mean(face.looks["hair"]))
    assert all(len(values) > 10 for values in grey.values())
    assert max(grey["Black_Hair"]) < min(min(v) for name, v in grey.items() if name != "Black_Hair")


def test_attributes_are_correlated_in_the_female_domain_only():
    pairs = [("Black_Hair", "Eyeglasses"), ("Smiling", "Eyeglasses"), ("Smiling", "Mouth_Slightly_Open")]
    found = {}
    for male in (False, True):
        rng = np.random.default_rng(0)
        faces = [sample_attributes(rng, male) for _ in range(3000)]
        assert all(("Male" in face) == male for face in faces)
        for a, b in pairs:
            found[male, a, b] = np.corrcoef([a in f for f in faces], [b in f for f in faces])[0, 1]
    assert found[False, *pairs[0]] > 0.1 and found[False, *pairs[1]] < -0.1 and found[False, *pairs[2]] > 0.3
    assert all(abs(found[True, *pair]) < 0.06 for pair in pairs)


def test_male_faces_look_different():
    rng = np.random.default_rng(0)
    looks = {male: [sample_face(rng, male) for _ in range(200)] for male in (False, True)}
    longest = max(face.looks["hair_length"] for face in looks[True])
    assert longest < min(face.looks["hair_length"] for face in looks[False])
    jaw = {male: torch.tensor([face.looks["jaw"] for face in faces]).mean() for male, faces in looks.items()}
    assert jaw[True] > jaw[False] + 0.1
    beards = {"Mustache", "Goatee", "Sideburns", "5_o_Clock_Shadow"}
    assert not any(face.attributes & beards for face in looks[False])
    assert sum(bool(face.attributes & beards) for face in looks[True]) > 80
    assert all(
        ("No_Beard" in face.attributes) != bool(face.attributes & (beards - {"5_o_Clock_Shadow"}))
        for face in looks[True]
    )


@pytest.mark.parametrize(
    "module, option, value",
    [
        ("faces", "male_train", "inf"), ("faces", "num_test", "1000000000000"), ("faces", "workers", "1000000000000"),
        ("clevr", "num_images", "1e400"), ("clevr", "batch_size", "0"), ("clevr", "workers", "-1"),
        ("animals", "resolution", "100000"), ("animals", "seed", "nan"),
    ],
)  # fmt: skip
def test_generators_refuse_numbers_without_sense(module, option, value, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [module, "--out", str(tmp_path / "out"), f"--{option}", value])
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(f"igm.data.synthetic.{module}").main()
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--{option}" in line and not (tmp_path / "out").exists()
