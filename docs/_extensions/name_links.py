"""Links from each setting, exception, signal and check that a page names to where it is described.

A page writes the name in ``code font``, as README does, which is read without Sphinx as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from django.dispatch import Signal
from docutils import nodes
from sphinx.application import Sphinx

from django_sessionstores import conf, exceptions, signals

CHECK: Final = re.compile(r"sessionstores\.([EWI]\d{3})")
FIRST_CELLS: Final = {"reference/checks", "reference/signals"}
"""Pages with a table whose first column has names. Each of these cells is linked to."""


NOT_LINKED: Final = (nodes.reference, nodes.title, nodes.term)


def places() -> dict[str, tuple[str, str]]:
    """Return the page and the anchor of each name, except those of checks."""
    module = exceptions.__name__
    found = {name: ("reference/settings", f"option-{nodes.make_id(name)}") for name in conf.OPTIONS}
    for name, value in vars(exceptions).items():
        if isinstance(value, type) and value.__module__ == module:
            found[name] = ("reference/exceptions", f"{module}.{name}")
    for name, value in vars(signals).items():
        if isinstance(value, Signal):
            found[name] = ("reference/signals", f"name-{nodes.make_id(name)}")
    return found


PLACES: Final = places()


def place_of(name: str) -> tuple[str, str] | None:
    """Return the page and the anchor of a name, or ``None`` if it is nothing of the package."""
    if CHECK.fullmatch(name):
        return "reference/checks", f"name-{nodes.make_id(name)}"
    return PLACES.get(name)


def mark_places(app: Sphinx, doctree: nodes.document) -> None:
    """Give an anchor to each cell of a first column that names a check or a signal."""
    if app.env.docname not in FIRST_CELLS:
        return
    for row in doctree.findall(nodes.row):
        for name in row[0].findall(nodes.literal):
            place = place_of(name.astext())
            if place is not None and place[1] not in row[0]["ids"]:
                row[0]["ids"].append(place[1])


def link_names(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Link each name in the text of a page, unless it is in a link, a heading or its own place."""
    for node in list(doctree.findall(nodes.literal)):
        place = place_of(node.astext())
        if place is None:
            continue
        page, anchor = place
        around = list(_around(node))
        if any(isinstance(each, NOT_LINKED) or anchor in each["ids"] for each in around):
            continue
        uri = "" if page == docname else app.builder.get_relative_uri(docname, page)
        link = nodes.reference("", "", internal=True, refuri=f"{uri}#{anchor}")
        node.replace_self(link)
        link += node


def _around(node: nodes.Node) -> Iterator[nodes.Element]:
    while node.parent is not None:
        node = node.parent
        yield node


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-read", mark_places)
    app.connect("doctree-resolved", link_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
