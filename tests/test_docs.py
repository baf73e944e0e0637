"""README, docs and model cards say what is so: links lead somewhere, commands have the options that are shown."""

import importlib
import re
import runpy
import shlex
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

import igm
from igm.models.unet import read_config

CARDS = sorted((ROOT / "models" / "pretrained").glob("*/README.md"))
PAGES = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md", "examples/README.md")
]
PAGES += [*sorted((ROOT / "docs").glob("*.md")), *CARDS]
BARE = ("--multi_gpu", "--cpu")  # options of `accelerate launch` that take no word; the others take one
INTERPRETERS = ("python", "accelerate", "igm-")
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
TOYS = set(re.findall(r"^\*\*`([^`]+)`\*\*$", (ROOT / "docs" / "extending.md").read_text(), re.MULTILINE))


def test_readme_is_one_page():
    assert len((ROOT / "README.md").read_bytes()) <= 10_240


def text_without_code(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors_of(page: Path) -> set[str]:
    """GitHub's anchors of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", text_without_code(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    page = ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", text_without_code(page)):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists() and place.is_relative_to(ROOT), f"{name}: {target}"
        assert not anchor or anchor in anchors_of(place), f"{name}: {target}"


def commands_of(page: Path) -> list[list[str]]:
    """The words of every command of a page, in blocks of code and between backticks."""
    text = page.read_text()
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for kind, block in blocks if kind in ("", "sh") for line in block.replace("\\\n", " ").splitlines()]
    lines += [span.replace("\n", " ") for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text_without_code(page))]
    found = []
    for line in lines:
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # a quotation mark that is not a shell's
            continue
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words = words[1:]
        if words and words[0].startswith(INTERPRETERS) and (len(words) > 1 or words[0].startswith("igm-")):
            found.append(words)
    return found


def split_command(words: list[str]) -> tuple[str, list[str]]:
    """The script, module or console command that a command line runs, and the arguments that it gets."""
    if words[0].startswith("igm-"):
        return words[0], words[1:]
    words = words[1:]
    if words[0] == "launch":
        words = words[1:]
        while words and words[0].startswith("--"):
            words = words[1 + ("=" not in words[0] and words[0] not in BARE) :]
    if words[:1] == ["-m"]:
        words = words[1:]
    return (words[0], words[1:]) if words else ("", [])  # the launcher alone


@cache
def options_of(script: str) -> frozenset[str]:
    """The options that --help of a script, a module or a console command names."""
    if script.startswith("igm-"):
        scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
        module, _, name = scripts[script].partition(":")
        main = getattr(importlib.import_module(module), name)
    elif script.endswith(".py") and "/" not in script:
        main = importlib.import_module(script.removesuffix(".py")).main
    else:
        path = ROOT / script if script.endswith(".py") else None
        main = (lambda: runpy.run_path(str(path), run_name="__main__")) if path else module_main(script)
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr(sys, "argv", [script, "--help"])
        patch.syspath_prepend(str((ROOT / script).parent))
        patch.setattr(sys.stdout, "write", lambda text: printed.append(text) or len(text))
        with pytest.raises(SystemExit) as end:
            main()
    assert not end.value.code, script
    return frozenset(re.findall(r"--[\w-]+", "".join(printed)))


def module_main(name: str):
    """What `python -m NAME` runs."""
    place = ROOT / name.replace(".", "/")
    return importlib.import_module(f"{name}.__main__" if place.is_dir() else name).main


@pytest.mark.parametrize("name", [name for name in NAMES if name != "docs/extending.md"])  # its commands are run
def test_commands_have_the_options_that_are_shown(name):
    for words in commands_of(ROOT / name):
        script, arguments = split_command(words)
        if script in TOYS or script in ("", "pytest"):
            continue
        shown = {word.partition("=")[0] for word in arguments if word.startswith("--")}
        assert shown <= options_of(script), f"{name}: {' '.join(words)}"


def test_commands_are_found():
    """The pattern above finds what people type, among it the published commands."""
    found = [split_command(words) for words in commands_of(ROOT / "README.md")]
    training = [arguments for script, arguments in found if script == "train_clevr.py"]
    assert any("--enable_xformers_memory_efficient_attention" in arguments for arguments in training)
    assert {"eval_clevr.py", "eval_celeba.py", "eval_animal.py", "train_celeba.py"} <= {script for script, _ in found}
    assert sum(len(commands_of(page)) for page in PAGES) > 70


@pytest.mark.parametrize("name", NAMES)
def test_files_of_commands_are_there(name):
    """Configs and shipped models that commands name; a dataset, or what a training makes, is the reader's."""
    for words in commands_of(ROOT / name):
        for word in words:
            for path in re.findall(r"(?:configs|models|scripts|benchmarks|examples)/[\w./-]+", word):
                toy = any(file == path or file.startswith(f"{path}/") for file in TOYS)
                assert toy or (ROOT / path).exists(), f"{name}: {path}"


def test_the_toys_configs_are_read(tmp_path):
    """JSON and YAML of docs/extending.md."""
    page = (ROOT / "docs" / "extending.md").read_text()
    for number, text in enumerate(re.findall(r"^```json\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)):
        (tmp_path / f"{number}.json").write_text(text)
        assert "_class_name" in read_config(tmp_path / f"{number}.json", "--unet_config")
    for page in (ROOT / "docs").glob("*.md"):
        for text in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE):
            assert isinstance(yaml.safe_load(text), dict)


def test_citation_names_paper_and_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    version = igm.__version__
    assert citation["version"] == version and citation["cff-version"] == "1.2.0"
    assert citation["preferred-citation"]["url"].endswith("2505.21780")
    assert [author["family-names"] for author in citation["preferred-citation"]["authors"]] == ["Wang", "Dauwels", "Du"]
