"""The site of the docs: its checker against sites with one mistake each, its navigation, and the build itself (slow)."""

import importlib.util
import subprocess
import sys

import pytest
from conftest import ROOT, script_env

SPHINX = ROOT / "docs" / "sphinx"
PAGE = '<!doctype html><title>x</title><h1 id="here">x</h1>'


def load(name: str):
    """A module of docs/sphinx, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_sphinx_{name}", SPHINX / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ('<a href="other.html#here">x</a><a href="#here">x</a><a href="https://arxiv.org/abs/1">x</a>', None),
        ('<a href="none.html">x</a>', "none.html leads nowhere"),
        ('<a href="other.html#there">x</a>', "other.html#there leads nowhere"),
        ('<a href="#there">x</a>', "#there leads nowhere"),
        ('<a href="folder">x</a>', "folder leads nowhere"),
        ('<img src="none.png">', "none.png leads nowhere"),
        ('<script src="https://cdn.example/x.js"></script>', "loads https://cdn.example/x.js"),
        ('<link rel="stylesheet" href="//fonts.example/x.css">', "loads //fonts.example/x.css"),
        ('<img src="http://pictures.example/x.png">', "loads http://pictures.example/x.png"),
    ],
)
def test_the_checker_finds(tmp_path, body, wrong):
    (tmp_path / "other.html").write_text(PAGE)
    (tmp_path / "folder").mkdir()
    (tmp_path / "index.html").write_text(PAGE + body)
    found = load("check_site").mistakes(tmp_path)
    assert found == ([f"index.html: {wrong}"] if wrong else [])


def test_the_checker_reads_styles(tmp_path):
    (tmp_path / "index.html").write_text(PAGE)
    (tmp_path / "x.css").write_text("@font-face { src: url(https://fonts.example/x.woff2) }")
    assert load("check_site").mistakes(tmp_path) == ["x.css: loads from elsewhere"]


def test_every_page_is_in_the_navigation(monkeypatch):
    """Each Markdown page of the docs once, in the order in which people need them."""
    monkeypatch.setattr(sys, "path", list(sys.path))  # the module adds to it
    listed = [entry.partition("<")[2].rstrip(">") for own in load("conf").NAVIGATION.values() for entry in own]
    pages = [path.relative_to(ROOT).with_suffix("").as_posix() for path in (ROOT / "docs").glob("*.md")]
    cards = [path.relative_to(ROOT).with_suffix("").as_posix() for path in ROOT.glob("models/pretrained/*/README.md")]
    assert set(pages) | set(cards) <= set(listed) and len(listed) == len(set(listed))
    order = ["README", "docs/method", "docs/training", "docs/inference", "docs/own_data", "docs/api", "docs/generation"]
    order += ["docs/extending", "docs/results", "docs/differences", "docs/robustness", "CHANGELOG"]
    assert [name for name in listed if name in order] == order


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path):
    """As `make docs` does: a warning is an error, all links lead somewhere, and nothing is loaded from elsewhere."""
    for package in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(package, reason=f"{package} is not there: pip install '.[docs]'")
    site = tmp_path / "site"
    options = f"-E -W --keep-going -q -b html -c docs/sphinx -d {tmp_path / 'doctrees'} . {site}".split()
    recipe = (ROOT / "Makefile").read_text()
    assert f"-m sphinx {' '.join(options[:8])}" in recipe and "docs/sphinx/check_site.py site" in recipe
    for words in (["-m", "sphinx", *options], [SPHINX / "check_site.py", site]):
        done = subprocess.run(
            [sys.executable, *map(str, words)], cwd=ROOT, env=script_env(tmp_path), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    reference = (site / "docs" / "sphinx" / "reference.html").read_text()
    for name in (
        "igm.api.load_model",
        "igm.api.ObjectModel.find",
        "igm.tasks.positions.Scene.draw",
        "igm.editing.Edit.render",
    ):
        assert f'id="{name}"' in reference
    assert "<math" in (site / "docs" / "method.html").read_text()
    assert "README.html" in (site / "index.html").read_text()
