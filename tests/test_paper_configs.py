"""configs/paper: one file per row of the paper's tables; each is options that its script has, with values that it takes."""

import pytest
import yaml
from conftest import ROOT
from test_scripts import check_refused

from igm.baselines.joint_positions import JointPositionUNet
from igm.models.unet import build_network, read_config
from igm.training.learner import find_learner

FOLDER = ROOT / "configs" / "paper"
SCRIPTS = {
    "clevr_train": "train_clevr",
    "clevr_gc_train": "train_clevr",
    "clevr_resnet_train": "train_clevr",
    "clevr_slot_attention_train": "train_clevr",
    "clevr_dinosaur_train": "train_clevr",
    "celeba_train": "train_celeba",
    "celeba_gc_train": "train_celeba",
    "celeba_resnet_train": "train_celeba",
    "clevr_gradient": "eval_clevr",
    "celeba": "eval_celeba",
    "animals": "eval_animal",
}


def test_every_file_is_of_a_script():
    assert {path.stem for path in FOLDER.iterdir()} == set(SCRIPTS)


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_file_is_taken(run_main, tmp_path, name):
    """Read and found sensible: what is refused is only the dataset, or the checkpoint, which are not there."""
    nowhere = ("--dataset_root", tmp_path / "nowhere", "--output_dir", tmp_path / "out")
    code, _, err = run_main(SCRIPTS[name], "--config", FOLDER / f"{name}.yaml", *nowhere)
    check_refused(code, err.splitlines()[-1], "nowhere")


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "baselines").glob("*.yaml")), ids=lambda path: path.stem)
def test_small_baseline_is_taken(run_main, tmp_path, path):
    """Its network is one that its learner trains, and no option is idle."""
    code, _, err = run_main("train_clevr", "--config", path, "--dataset_root", tmp_path / "nowhere")
    check_refused(code, err, "nowhere")
    assert "no effect" not in err and f"--config configs/baselines/{path.name}" in path.read_text()
    options = yaml.safe_load(path.read_text())
    network = build_network(read_config(ROOT / options["unet_config"], "--unet_config"))
    kind = find_learner(options["learner"], "positions")
    assert isinstance(network, kind.network_class or JointPositionUNet)


@pytest.mark.parametrize("name", ["clevr_train", "celeba_train"])
def test_published_commands_are_those_of_the_readme(name):
    """Flag by flag what the README's published command says."""
    text = (ROOT / "README.md").read_text()
    script = f"{SCRIPTS[name]}.py --enable"
    command = text[text.index(script) :].split("```")[0].replace("\\\n", " ").split()[1:]
    flags = {}
    for word in command:
        if word.startswith("--"):
            flags[last := word.removeprefix("--")] = "true"
        else:
            flags[last] = word.removeprefix("./").rstrip("/")
    del flags["dataset_root"]
    assert yaml.load((FOLDER / f"{name}.yaml").read_text(), yaml.BaseLoader) == flags


def test_examples_of_the_files_name_themselves():
    for path in FOLDER.iterdir():
        comment = "".join(line for line in path.read_text().splitlines() if line.startswith("#"))
        assert f"configs/paper/{path.name}" in comment and SCRIPTS[path.stem] in comment
