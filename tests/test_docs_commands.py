"""Every command in a block of README and docs runs at small size; or is parsed alone, and the reason stands here.

The commands run as they stand, with options of small size behind them, in a folder that has what the pages speak of:
CLEVR_v1.0, celeba, shelf, outputs/clevr/checkpoint-80000 and so on. A command of a script that is not named here fails.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import (
    CELEBA_ROWS,
    NETWORK_CONFIGS,
    ROOT,
    forget_processes,
    script_env,
    tiny_model,
    write_celeba,
    write_clevr,
    write_own_labels,
)
from PIL import Image
from test_docs import main_of, parse, split_command
from test_scripts import records_of

from igm.api import load_model
from igm.cli.launch import run
from igm.data import DataError
from igm.data.synthetic.clevr import generate
from igm.models.codec import load_codec

PAGES = ["README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]
PAGES.remove("docs/extending.md")  # tests/test_extending.py runs all of it

ATTRIBUTES = ("Black_Hair", "Eyeglasses", "Smiling")
TRAINING = (
    "--max_train_steps 1 --train_batch_size 2 --num_validation_images 0 --report_to none --dataloader_num_workers 0"
)
TINY = "--pretrained_model_name tiny-sd --resolution 16 --lr_warmup_steps 0"
EVALUATION = "--num_images 1 --num_draws 2 --num_steps 1 --no_figures"
SMALL = {  # options of small size, by the script
    "train_clevr.py": f"{TRAINING} {TINY} --unet_config unet.json",
    "train_celeba.py": f"{TRAINING} {TINY} --unet_config face_unet.json",
    "eval_clevr.py": EVALUATION,
    "eval_celeba.py": "--num_images 1 --num_draws 2 --no_figures",
    "eval_animal.py": "--num_images 1 --num_draws 2 --no_figures",
    "generate.py": "--num_images 1 --num_steps 2 --out NEW",
    "igm.data.synthetic.clevr": "--num_images 2 --workers 0 --out NEW",
    "igm.data.synthetic.faces": "--num_train 2 --num_val 2 --num_test 2 --workers 0 --out NEW",
    "igm.evaluation.summary": "",
    "igm.evaluation.export": "",
    "igm.figures": "",
    "scripts/fit_codec.py": "--max_images 12 --latent_channels 4",
    "scripts/export_model.py": "",
    "scripts/calibrate.py": "--num_images 2 --batch_size 64",
    "scripts/reproduce.py": "--dry_run",  # what it runs is in tests/test_reproduce.py
    "-c": "",
}
OWN_SIZE = {  # in place of the script's, by what the command has in it
    # their own networks and runs; the checkpoints here are of tiny ones
    **{
        f"--config configs/{name}": f"{TRAINING} --output_dir NEW"
        for name in ("clevr-mini", "clevr-scene-mini", "baselines")
    },
    "--dataset_root CLEVR_v1.0 --resolution 64": f"{EVALUATION} --resolution 16",
    "--count infer": f"{EVALUATION} --num_candidates 36 --count_draws 4 --max_objects 5",
    "--dataset_root photos": "--num_images 1 --num_draws 2 --no_figures --mixed_precision no",  # fp16 needs a GPU
}
PARSED_ALONE = {  # by what the command has in it
    "--dataset_root shelf --object_counts 1-3 --fields all": "a network of its own; tests/test_labelled.py trains one",
    "--push_to_hub": "the hub is out of reach; tests/test_publishing.py pushes to one of its own",
    "--resume_from_checkpoint": "needs the stopped run; tests/test_training.py resumes",
    "benchmarks/": "times networks of full size, for minutes; tests/test_throughput.py has the parts",
}
SLOW = ("scripts/reproduce.py",)  # runs in every fast test run by its parser alone
NOT_PYTHON = {
    "make demo": "installs packages; tests/test_house.py has its three parts",
    "make app": "serves until it is stopped; tests/test_page.py serves the same page",
    "make test": "is the test",
    **dict.fromkeys(
        ("pip wheel . --no-deps --wheel-dir dist", "cp -r demo space", "unzip -q dist/igm-*.whl 'igm/*' -d space"),
        "make the folder of a Space; tests/test_house.py builds the wheel, tests/test_page.py reads the folder",
    ),
    "hf auth login": "asks for a token",
}


def shell_lines(page: str) -> list[str]:
    """The lines of a page's blocks of commands, those that go on joined, without comments."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    lines = [
        re.sub(r"\s+#.*", "", line).strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()
    ]
    return [line for line in lines if line]


COMMANDS = [(page, line) for page in PAGES for line in shell_lines(page)]
IN_PYTHON = [(page, line) for page, line in COMMANDS if line not in NOT_PYTHON]


def words_of(line: str) -> tuple[str, list[str]]:
    """The script, module, or `-c`, and the arguments of a line; variables and the launcher before it are left out."""
    words = shlex.split(line)
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    return split_command(words)


def is_parsed_alone(line: str) -> bool:
    """Whether there is a reason not to run it."""
    return any(part in line for part in PARSED_ALONE)


def test_no_command_is_left_out():
    """The blocks hold all that the pages' other test finds in blocks; every exception is used, every script is named."""
    lines = [line for _, line in COMMANDS]
    for page in PAGES:
        blocks = re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
        other = [line for kind, block in blocks if kind != "sh" for line in block.splitlines()]
        assert not [line for line in other if re.match(r"(\$ )?(python|accelerate|igm-\w+|pip|make) ", line)], page
    assert set(NOT_PYTHON) <= set(lines)
    for part in PARSED_ALONE:
        assert any(part in line for line in lines), part
    for page, line in IN_PYTHON:
        assert is_parsed_alone(line) or words_of(line)[0] in SMALL, f"{page}: say how to test {line}"
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert {line.removeprefix("make ") for line in NOT_PYTHON if line.startswith("make ")} <= set(targets)


def test_commands_are_parsed_as_they_stand(capsys):
    """Without the options of small size, which might take the place of a wrong value."""
    for page, line in IN_PYTHON:
        script, arguments = words_of(line)
        assert script == "-c" or parse(script, arguments) is not None, f"{page}: {line}"


def run_line(script: str, arguments: list[str]) -> None:
    """Run a command in this process; it must end well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *arguments])
        try:
            run(main_of(script, patch), DataError)
        except SystemExit as end:
            assert not end.code, f"{script} {shlex.join(arguments)}"
        finally:
            forget_processes()


def write_datasets(folder: Path) -> None:
    """The folders of pictures that the pages speak of."""
    write_clevr(folder / "CLEVR_v1.0", "train", [3, 4, 5] * 4, seed=1)
    write_clevr(folder / "CLEVR_v1.0", "val", [3, 4, 5, 6, 7, 8, 3, 6], size=(60, 40), seed=2)
    for split, counts in {"train": (3, 5), "val": (3, 8)}.items():  # with all attributes
        generate(folder / "DIR", split, 24, counts, resolution=(48, 32))
    for split in ("trainA", "valA", "valB"):
        generate(folder / "cogent", split, 24, resolution=(48, 32))
    generate(folder / "tex", "outd", 24, (3, 8), layout="clevrtex", resolution=(48, 36))
    write_celeba(folder / "celeba", CELEBA_ROWS)
    write_own_labels(folder / "shelf", 12, suffix=".jpg")
    for name, number_of in {"fruit": 12, "new_fruit": 2, "my_pictures": 2}.items():
        (folder / name).mkdir()
        for number in range(number_of):
            Image.effect_noise((40, 40), 80 + number).convert("RGB").save(folder / name / f"{number}.png")
    rows = [f"{number}.png,{number % 2},{number // 2 % 2},1" for number in range(12)]
    (folder / "fruit" / "metadata.csv").write_text("\n".join(["file_name,ripe,spotted,round", *rows]) + "\n")
    for name in ("a.png", "b.png"):
        shutil.copy(folder / "my_pictures" / "0.png", folder / name)
    (folder / "photos").mkdir()
    for name in ("cat_dog_000.jpg", "dog_rabbit_001.jpg"):
        shutil.copy(next((ROOT / "data" / "animals").glob(f"{name[:-7]}*.jpg")), folder / "photos" / name)


def write_models(folder: Path) -> None:
    """The checkpoints that the pages speak of, tiny; a shipped model's folder to write into is a copy."""
    codec = load_codec(folder / "tiny-sd")
    known = {"task": "positions", "min_separation": 0.1, "bounds": [0.1, 0.1, 0.9, 0.9], "resolution": 16}
    scenes = tiny_model("position_unet", codec=codec, **known)
    places = (
        "clevr/checkpoint-80000",
        "shelf/checkpoint-600",
        "clevr-mini/checkpoint-7000",
        "speedrun/checkpoint-2000",
    )
    for place in places:
        scenes.save_pretrained(folder / "outputs" / place)
    scenes.save_pretrained(folder / "shelf-model")
    faces = tiny_model("attribute_unet", codec=codec, task="attributes", resolution=16)
    faces.save_pretrained(folder / "outputs" / "celeba" / "checkpoint-30000")
    (folder / "outputs" / "clevr-scene-mini").mkdir()
    whole = ROOT / "models" / "pretrained" / "clevr-scene-mini"
    (folder / "outputs" / "clevr-scene-mini" / "checkpoint-9000").symlink_to(whole)
    shutil.copytree(ROOT / "models" / "pretrained" / "clevr-mini", folder / "models" / "pretrained" / "clevr-mini")


def write_results(folder: Path) -> None:
    """The baselines' checkpoints and the evaluations that the pages speak of."""
    for learner, network in (("joint_label", "attribute_unet.json"), ("resnet50", "resnet.json")):
        words = f"--dataset_root celeba --learner {learner} {TRAINING} {TINY} --unet_config {network}"
        run_line("train_celeba.py", shlex.split(words))
    for name in ("slot_attention_objects", "resnet50_objects"):
        run_line("train_clevr.py", shlex.split(f"--config configs/baselines/{name}.yaml --dataset_root DIR {TRAINING}"))
    more = "--dataset_root DIR --object_counts 3-5 --checkpoint outputs/clevr/checkpoint-80000"
    run_line("eval_clevr.py", shlex.split(f"{more} {SMALL['eval_clevr.py']}"))
    shutil.copytree("outputs/clevr/eval-pursuit", "OTHER")
    more = "--dataset_root celeba --checkpoint outputs/celeba/checkpoint-30000"
    run_line("eval_celeba.py", shlex.split(f"{more} {SMALL['eval_celeba.py']}"))
    for place in ("celeba-gc/eval-gc", "celeba-resnet50/eval-resnet"):
        shutil.copytree("outputs/celeba/eval-discrete", Path("outputs") / place)


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_vae_dir):
    """A folder in which the pages' commands can be typed."""
    folder = tmp_path_factory.mktemp("world")
    for path in [*ROOT.glob("*.py"), *(ROOT / name for name in ("configs", "scripts", "sample_images", "examples"))]:
        (folder / path.name).symlink_to(path)
    (folder / "tiny-sd").symlink_to(tiny_vae_dir)
    for name, config in NETWORK_CONFIGS.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    write_datasets(folder)
    write_models(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("IGM_CACHE", str(folder / "igm-cache"))
        write_results(folder)
    return folder


def as_case(page: str, line: str):
    """A command as a case of a test; slow where it takes long even so."""
    marks = [pytest.mark.slow] if any(part in line for part in SLOW) else []
    return pytest.param(page, line, marks=marks, id=f"{page}: {line[:60]}")


@pytest.mark.parametrize(("page", "line"), [as_case(*own) for own in IN_PYTHON if not is_parsed_alone(own[1])])
def test_commands_run(page, line, world, monkeypatch, capsys, tmp_path):
    shutil.copytree(world, tmp_path / "world", symlinks=True)
    monkeypatch.chdir(tmp_path / "world")
    script, arguments = words_of(line)
    if script == "-c":
        exec(compile(arguments[0], line, "exec"), {})
        assert "".join(capsys.readouterr()).strip()
        return
    small = next((own for part, own in OWN_SIZE.items() if part in line), SMALL[script])
    run_line(script, [*arguments, *(str(tmp_path / word) if word == "NEW" else word for word in shlex.split(small))])
    assert "".join(capsys.readouterr()).strip()


@pytest.mark.slow
def test_forty_pictures_become_a_model_in_four_commands(tmp_path):
    """The first block of docs/own_data.md one after the other as a person types it, with 20 steps in place of 600."""
    lines = shell_lines("docs/own_data.md")[:4]
    assert [words_of(line)[0] for line in lines] == ["train_clevr.py", "eval_clevr.py", "scripts/export_model.py", "-c"]
    for path in [*ROOT.glob("*.py"), ROOT / "configs", ROOT / "scripts", ROOT / "examples"]:
        (tmp_path / path.name).symlink_to(path)
    points = write_own_labels(tmp_path / "shelf", 40, num_objects=(1, 5), suffix=".jpg")
    said = []
    for line in lines:
        words = [sys.executable, *shlex.split(line.replace("600", "20"))[1:]]
        done = subprocess.run(
            words, cwd=tmp_path, env=script_env(tmp_path), capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"
        said.append(done.stdout)
    records = records_of(tmp_path / "outputs" / "clevr" / "eval-pursuit")
    assert records and all(own["num_true"] == len(points[int(own["image_id"].rpartition("_")[2])]) for own in records)
    assert f"{2 * (40 - len(records))} training images" in said[0]  # and their mirror images
    assert load_model(tmp_path / "shelf-model", device="cpu").model.facts.num_objects == (1, 5)
    assert said[3].startswith("Scene(positions=array(")
