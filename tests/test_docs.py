"""README, docs, cards and the notebook say what is so: links lead somewhere, commands are parsed by their own parsers."""

import argparse
import importlib
import json
import re
import runpy
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

import igm
from igm import UserError
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


def text_of(page: Path) -> str:
    """A page's Markdown; of a notebook that of its cells of text."""
    if page.suffix != ".ipynb":
        return page.read_text()
    cells = json.loads(page.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def text_without_code(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)


def anchors_of(page: Path) -> set[str]:
    """GitHub's anchors of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", text_without_code(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", [*NAMES, "examples/quickstart.ipynb"])
def test_links_lead_somewhere(name):
    page = ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", text_without_code(page)):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists() and place.is_relative_to(ROOT), f"{name}: {target}"
        assert not anchor or anchor in anchors_of(place), f"{name}: {target}"


@pytest.mark.parametrize("name", NAMES)
def test_tables_are_whole(name):
    """A row after an empty line is no row, and a sentence right after a table is one."""
    for block in re.split(r"\n\s*\n", text_without_code(ROOT / name)):
        rows = [line.startswith("|") for line in block.strip().splitlines()]
        if any(rows):
            assert all(rows), f"{name}: {block[:80]}"
            assert re.fullmatch(r"\|( :?-+:? \|)+", block.strip().splitlines()[1]), f"{name}: {block[:80]}"


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


class Parsed(BaseException):
    """What a command's own parser made of its words, before anything is done with it."""


def main_of(script: str, patch: pytest.MonkeyPatch):
    """What a script, a module or a console command runs."""
    if script.startswith("igm-"):
        scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
        module, _, name = scripts[script].partition(":")
        return getattr(importlib.import_module(module), name)
    if not script.endswith(".py"):
        place = ROOT / script.replace(".", "/")
        return importlib.import_module(f"{script}.__main__" if place.is_dir() else script).main
    if "/" not in script:
        return importlib.import_module(script.removesuffix(".py")).main
    patch.syspath_prepend(str((ROOT / script).parent))
    return lambda: runpy.run_path(str(ROOT / script), run_name="__main__")


def parse(script: str, arguments: list[str]) -> argparse.Namespace | None:
    """The options of a command, by its own parser, with those of its --config; None where it ends by itself (--help).

    Every option must be known, every value of its type or among its choices.
    """
    real = argparse.ArgumentParser.parse_args

    def stop(self, args=None, namespace=None):
        raise Parsed(real(self, args, namespace))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(sys, "argv", [script, *arguments])
        patch.chdir(ROOT)
        with pytest.raises((Parsed, SystemExit)) as end:
            main_of(script, patch)()
    if isinstance(end.value, SystemExit):
        assert not end.value.code, f"{script} {' '.join(arguments)}"
        return None
    return end.value.args[0]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "docs/extending.md"])  # its commands are run
def test_commands_are_parsed(name, capsys):
    for words in commands_of(ROOT / name):
        script, arguments = split_command(words)
        if script in TOYS or script in ("", "pytest", "-c") or not arguments:  # without arguments: the name alone
            continue
        parse(script, arguments)


@pytest.mark.parametrize("wrong", ["--no_such_option 1", "--count sometimes", "--num_images few", "--config none.yaml"])
def test_a_wrong_command_is_not_parsed(wrong, capsys):
    with pytest.raises((AssertionError, UserError)):
        parse("eval_clevr.py", shlex.split(wrong))


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
