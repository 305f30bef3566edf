"""Links of the documentation lead somewhere, and names of the package are links."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from django_sessionstores import conf
from tests import ROOT
from tests.services import skip_or_fail

FOREIGN = re.compile(r"`[^`]+<(\w+:[^>]+)>`_")


class Page(HTMLParser):
    """The anchors of a page, and what it links to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors = {""}
        self.targets: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value is None:
                continue
            if name == "id":
                self.anchors.add(value)
            elif (tag, name) in {("a", "href"), ("img", "src"), ("link", "href")}:
                self.targets.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """Return the pages of the documentation as HTML, by their paths."""
    if find_spec("sphinx") is None or find_spec("furo") is None:
        skip_or_fail("Sphinx and furo are not installed. Install them with: uv sync --group docs")
    target = tmp_path_factory.mktemp("html")
    command = [sys.executable, "-m", "sphinx", "-q", "-n", "-W", ROOT / "docs", target]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return {path: Page(path) for path in target.rglob("*.html")}


@pytest.mark.slow
def test_each_link_leads_to_a_place(site: dict[Path, Page]) -> None:
    """A link to nothing costs a reader the answer."""
    broken = []
    for path, page in site.items():
        for target in page.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            other = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            known = site.get(other)
            if not other.exists() or (
                known is not None and unquote(parts.fragment) not in known.anchors
            ):
                broken.append(f"{path.name}: {target}")
    assert broken == []


@pytest.mark.slow
def test_each_name_of_the_package_leads_to_its_description(site: dict[Path, Page]) -> None:
    """In the text of any page: settings, exceptions, signals and checks."""
    pages = {path.stem: page for path, page in site.items() if path.parent.name == "howto"}
    for page, target in (
        ("limiting", "../reference/settings.html#option-max-sessions"),
        ("limiting", "../reference/signals.html#name-session-ended"),
        ("troubleshooting", "../reference/checks.html#name-sessionstores-e020"),
        ("outages", "../reference/exceptions.html#django_sessionstores.exceptions.StorageFull"),
    ):
        assert target in pages[page].targets, (page, target)
    (settings,) = (page for path, page in site.items() if path.stem == "settings")
    for name in conf.OPTIONS:
        assert f"option-{name.lower().replace('_', '-')}" in settings.anchors


def test_links_to_other_sites_are_encrypted() -> None:
    """Nobody on the way may send readers of the documentation elsewhere."""
    pages = [*ROOT.glob("*.rst"), *ROOT.glob("docs/**/*.rst")]
    links = {
        link
        for page in pages
        if "_build" not in page.parts
        for link in FOREIGN.findall(page.read_text(encoding="utf-8"))
    }
    assert links
    assert [link for link in links if not link.startswith("https://")] == []


def test_files_that_the_readme_names_exist() -> None:
    """Forges show it beside the files, and so do people who unpack the sources."""
    readme = (ROOT / "README.rst").read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:docs|tests)/[\w/]+\.\w+", readme))
    assert len(named) > 5
    assert [name for name in named if not (ROOT / name).exists()] == []
