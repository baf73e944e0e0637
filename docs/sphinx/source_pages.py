"""A page for each file or folder of the repository that a page links to: code with colours, notebooks with their pictures.

On the repository's host such a link leads to the file itself; the site has no host to lead to, and stands for itself.
"""

import json
import re
from collections.abc import Iterator
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from markdown_it import MarkdownIt
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

Page = tuple[str, dict[str, Any], str]
LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json", ".sh": "sh"}
linked: set[Path] = set()  # within the repository; the build reads all pages anew (-E)


class SourceLinks(SphinxTransform):
    """Links to what is in the repository and no page of the site; of others the build itself says what is wrong."""

    default_priority = 400

    def apply(self, **options: Any) -> None:
        for kind in (addnodes.download_reference, addnodes.pending_xref):
            for node in list(self.document.findall(kind)):
                if node.get("reftype") == "myst" and not node.get("refdomain"):
                    self.lead(node)

    def lead(self, node: nodes.Element) -> None:
        """Replace a link by one to its own page."""
        root, page = Path(self.env.srcdir).resolve(), self.env.docname
        place = (root / page).parent.joinpath(node["reftarget"]).resolve()
        if node["reftarget"].startswith("#") or not place.exists() or root not in place.parents:
            return
        linked.add(place.relative_to(root))
        uri = self.app.builder.get_relative_uri(page, f"source/{place.relative_to(root)}")
        node.replace_self(nodes.reference("", "", *node.children, internal=True, refuri=uri))


def pages(app) -> Iterator[Page]:
    """The pages of all that is linked, and of the files of linked folders."""
    root = Path(app.srcdir).resolve()
    for name in sorted(linked):
        files = [name]
        if (root / name).is_dir():
            files = [own.relative_to(root) for own in sorted((root / name).iterdir()) if own.is_file()]
            entries = [f'<li><a href="{name.name}/{own.name}.html"><code>{own.name}</code></a></li>' for own in files]
            yield page(name, f"<ul>{''.join(entries)}</ul>")
        for file in files:
            yield page(file, notebook(app, root / file) if file.suffix == ".ipynb" else code(app, root / file))


def page(name: Path, body: str) -> Page:
    """A page with a title."""
    return f"source/{name}", {"title": str(name), "body": f"<h1>{escape(str(name))}</h1>\n{body}"}, "page.html"


def code(app, file: Path) -> str:
    """A file's text."""
    return highlighted(app, file.read_text(encoding="utf-8"), LANGUAGES.get(file.suffix, "text"))


def highlighted(app, text: str, language: str) -> str:
    """Code in colours."""
    return f'<div class="highlight-{language}">{app.builder.highlighter.highlight_block(text, language)}</div>'


def notebook(app, file: Path) -> str:
    """The cells of a notebook with what they gave."""
    parts = []
    for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(re.sub(r'(?<=href=")([^":]+)\.md', partial(page_of, app, file), MarkdownIt().render(source)))
            continue
        parts.append(highlighted(app, source, "python"))
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                png = "".join(data["image/png"]).replace("\n", "")
                parts.append(f'<p><img alt="what the cell shows" src="data:image/png;base64,{png}"></p>')
            else:
                text = "".join(output.get("text") or data.get("text/plain", ""))
                parts.append(highlighted(app, text, "text"))
    return "\n".join(parts)


def page_of(app, file: Path, link: re.Match) -> str:
    """The page of a Markdown file that a notebook links to."""
    root = Path(app.srcdir).resolve()
    target = (file.parent / link[1]).resolve().relative_to(root)
    return app.builder.get_relative_uri(f"source/{file.relative_to(root)}", str(target))


def setup(app) -> None:
    """What Sphinx calls."""
    linked.clear()
    app.add_transform(SourceLinks)
    app.connect("html-collect-pages", pages)
