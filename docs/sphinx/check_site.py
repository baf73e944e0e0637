"""Every link of a built site leads to a page and an anchor that are there, and no page asks another computer for anything.

python docs/sphinx/check_site.py site
"""

import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"src", "srcset", "poster", "data"}  # attributes whose address a browser fetches by itself
LOADING = {
    "stylesheet",
    "icon",
    "preload",
    "preconnect",
    "dns-prefetch",
    "modulepreload",
    "prefetch",
}  # so do these <link>


class Page(HTMLParser):
    """Anchors of a page, where its links lead, and what a browser loads with it."""

    def __init__(self, file: Path):
        super().__init__()
        self.anchors, self.links, self.loaded = set(), set(), set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        own = {name: value for name, value in attrs if value}
        self.anchors |= {own[name] for name in ("id", "name") if name in own}
        self.loaded |= {own[name] for name in LOADED & own.keys()}
        if "href" in own:
            loads = tag == "link" and LOADING & set(own.get("rel", "").split())
            (self.loaded if loads else self.links).add(own["href"])


@cache
def read(file: Path) -> Page:
    """A page, read once."""
    return Page(file)


def mistakes(site: Path) -> list[str]:
    """What is wrong, a line each."""
    found = []
    for file in sorted(site.rglob("*.html")):
        page, name = read(file), file.relative_to(site)
        found += [f"{name}: loads {url}" for url in sorted(page.loaded) if is_elsewhere(url)]
        for url in sorted(page.links | page.loaded):
            if not is_elsewhere(url) and not url.startswith(("data:", "mailto:")) and not leads(file, url):
                found.append(f"{name}: {url} leads nowhere")
    for file in sorted(site.rglob("*.css")):
        text = file.read_text(encoding="utf-8", errors="replace")
        found += [f"{file.relative_to(site)}: loads from elsewhere" for mark in ("url(http", "url(//") if mark in text]
    return found


def is_elsewhere(url: str) -> bool:
    """Whether it is on another computer."""
    return bool(urlsplit(url).netloc)


def leads(file: Path, url: str) -> bool:
    """Whether a page's link within the site leads to something."""
    parts = urlsplit(url)
    place = (file.parent / unquote(parts.path)).resolve() if parts.path else file
    place = place / "index.html" if place.is_dir() else place
    if not place.is_file():
        return False
    return not parts.fragment or place.suffix != ".html" or unquote(parts.fragment) in read(place).anchors


def main() -> None:
    """Print what is wrong with a site and leave with code 1; or say how many pages are right."""
    site = Path(sys.argv[1]).resolve()
    pages = list(site.rglob("*.html"))
    wrong = mistakes(site) if pages else [f"{site}: no pages"]
    print("\n".join(wrong) if wrong else f"{len(pages)} pages, all links lead somewhere")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
