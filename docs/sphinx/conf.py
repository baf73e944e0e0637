"""The site: the Markdown files as they stand in the repository, and a reference made of the docstrings.

`make docs` builds it into `site/`; a warning is an error. The pages' places are those in the repository, so that a link
means the same there and here. Nothing is fetched when a page is read: fonts are the reader's own, formulas are MathML.
"""

import re
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import igm  # noqa: E402  (of this checkout)

project, author, copyright = "IGM", "the authors of IGM", "the authors of IGM"
version = release = igm.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "source_pages", "mathml"]

root_doc = "README"
include_patterns = ["*.md", "docs/**", "examples/README.md", "data/README.md", "models/pretrained/*/README.md"]
exclude_patterns = [".*", "site", "outputs", "igm", "tests", "configs"]
SHIPPED = ("clevr-scene-mini", "clevr-scene-draw", "clevr-mini", "celeba-mini", "animals-mini")
NAVIGATION = {
    "Start": ["The README <README>", "What is where <docs/README>", "The method <docs/method>"],
    "Use": [
        "Data <docs/data>",
        "Training <docs/training>",
        "Inference and evaluation <docs/inference>",
        "Your own pictures <docs/own_data>",
        "Python API <docs/api>",
        "Reference <docs/sphinx/reference>",
        "Generation <docs/generation>",
        "The page <docs/page>",
        "Examples <examples/README>",
    ],
    "Change": ["Extending <docs/extending>", "Contributing <CONTRIBUTING>"],
    "Numbers": [
        "Results <docs/results>",
        "Shapes in other colours <docs/cogent>",
        "Benchmarks <docs/benchmarks>",
        "Speedrun <docs/speedrun>",
        "Differences from the published code <docs/differences>",
        "Robustness <docs/robustness>",
        "Changelog <CHANGELOG>",
    ],
    "What ships": [
        "Sample data <data/README>",
        *(f"{name} <models/pretrained/{name}/README>" for name in SHIPPED),
    ],
}

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
myst_dmath_double_inline = False
html_math_renderer = "mathml"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
default_role = "literal"  # a name between single backticks, as docstrings have it

html_theme = "furo"
html_title = f"IGM {version}"
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = html_copy_source = False
html_show_copyright = False
html_domain_indices = html_use_index = False
pygments_style, pygments_dark_style = "friendly", "monokai"
highlight_language = "text"


def add_navigation(app, docname: str, source: list[str]) -> None:
    """Give the README, which has none on the repository's host, the tables of contents of the side bar."""
    if docname == root_doc:
        for caption, entries in NAVIGATION.items():
            pages = "\n".join(entry for entry in entries if f"<{root_doc}>" not in entry)
            source[0] += f"\n\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{pages}\n```\n"


def one_a_line(app, what: str, name: str, obj, options, lines: list[str]) -> None:
    """Where a docstring tells of several arguments or exceptions in one line, make one line of each."""
    section, told = "", []
    for line in lines:
        section = line if line in ("Args:", "Raises:", "Attributes:") else section if line[:1] in ("", " ") else ""
        told += re.sub(r"(?<=[.)]) (?=(?:[a-z]\w*|[A-Z]\w*Error): )", "\n    ", line).split("\n") if section else [line]
    lines[:] = told


def add_first_page(app, error: Exception | None) -> None:
    """Lead from the folder itself to the README's page."""
    if error is None:
        page = f'<!doctype html><meta charset="utf-8"><title>{html_title}</title>'
        page += f'<meta http-equiv="refresh" content="0; url={root_doc}.html"><a href="{root_doc}.html">IGM</a>\n'
        Path(app.outdir, "index.html").write_text(page)


def setup(app) -> None:
    """What Sphinx calls."""
    app.connect("source-read", add_navigation)
    app.connect("autodoc-process-docstring", one_a_line, priority=400)  # before napoleon
    app.connect("build-finished", add_first_page)
