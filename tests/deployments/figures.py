"""What faults of the stores cost a site, in figures."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from django_sessionstores.storages.outage_log import QUIET
from tests.deployments.browsers import SIGNED_OUT, WRONGS, Habits
from tests.deployments.faults import close_connections, closes_connections
from tests.deployments.load import Load
from tests.deployments.setups import STORE_RETRY, Deployment
from tests.disks import Disk

Row = dict[str, str]
"""The cells of a table by their headings."""

_BROWSERS: Final = 8
_CROWD: Final = 24
"""Browsers that keep all threads of a site waiting, two requests each."""
_PLAIN_VISITORS: Final = 4
_BEFORE: Final = 5
"""Seconds that pages are counted before a store hangs."""


@dataclass(frozen=True)
class Lengths:
    """How long faults last, in seconds."""

    hung: float
    away: float


def _load(deployment: Deployment, browsers: int = _BROWSERS, think: float = 0.05) -> Load:
    habits = Habits(think=think)
    return Load(deployment.site, browsers, _PLAIN_VISITORS, habits=habits, plain_think=0)


def rows(deployment: Deployment, lengths: Lengths) -> Iterator[Row]:
    """Break each store in each way, and yield its row of the table."""
    for name, store in deployment.stores.items():
        label = f"{deployment.setup.name}: {name}" if len(deployment.stores) > 1 else ""
        row = {"Server": deployment.site.kind.name, "Store": label or deployment.setup.name}
        is_server = not isinstance(store, Disk)
        faults: list[Callable[[], tuple[Row, Load]]] = [
            partial(_restart, deployment, store),
            partial(_outage, deployment, store, lengths.away),
        ]
        if closes_connections(store):
            faults.append(partial(_idle, deployment, store))
        if is_server:
            faults.append(partial(_hang, deployment, store, lengths.hung))
        wrongs: Counter[str] = Counter()
        for fault in faults:
            cells, load = fault()
            row |= cells
            wrongs += load.wrongs
        if deployment.setup.forgets:
            del wrongs[SIGNED_OUT]
        row[WRONG] = ", ".join(f"{wrongs[what]} {what}" for what in WRONGS if wrongs[what]) or "0"
        yield row


IDLE: Final = "Errors after an idle close"
RESTART: Final = "Errors after a restart"
PLAIN: Final = "Plain pages per second"
HUNG: Final = "While it hangs"
BACK: Final = "Seconds until served again"
LINES: Final = "Lines per process in an outage"
WRONG: Final = "Sessions harmed"


def _idle(deployment: Deployment, store: Any) -> tuple[Row, Load]:
    with _load(deployment) as load:
        load.wait_for_sessions(100)
        with load.paused():
            close_connections(store)
        since = time.monotonic()
        load.wait_for_sessions(100)
    return {IDLE: _errors(load, since)}, load


def _restart(deployment: Deployment, store: Any) -> tuple[Row, Load]:
    with _load(deployment) as load:
        load.wait_for_sessions(100)
        if isinstance(store, Disk):
            store.kill()
        store.restart()
        since = time.monotonic()
        load.wait_for_sessions(100)
    return {RESTART: _errors(load, since)}, load


def _hang(deployment: Deployment, store: Any, seconds: float) -> tuple[Row, Load]:
    with _load(deployment, _CROWD, think=0.25) as load:
        load.wait_for_sessions()
        before = time.monotonic()
        time.sleep(_BEFORE)
        began = time.monotonic()
        store.pause()
        time.sleep(seconds)
        ended = time.monotonic()
        store.resume()
        load.wait_for_sessions()
    usual, hung = load.plain_rate(before, began), load.plain_rate(began, ended)
    back = load.first_good(ended)
    row = {
        PLAIN: f"{usual:.0f}",
        HUNG: f"{hung:.0f} ({hung / usual:.0%})",
        BACK: f"{back:.1f}" if back is not None else "never",
    }
    return row, load


def _outage(deployment: Deployment, store: Any, seconds: float) -> tuple[Row, Load]:
    with _load(deployment) as load:
        load.wait_for_sessions()
        before = len(deployment.site.log())
        store.kill()
        time.sleep(seconds)
        store.restart()
        load.wait_for_sessions()
        time.sleep(STORE_RETRY + QUIET + 2)  # Until each process has said that it is over.
        load.wait_for_sessions()
    lines = deployment.site.lines_logged(before)
    return {LINES: str(max(lines.values(), default=0))}, load


def _errors(load: Load, since: float) -> str:
    return str(sum(load.errors(since).values()))


# Tables --------------------------------------------------------------------------------------


def table(rows: list[Row], *, rst: bool) -> str:
    """Return the rows in columns, for a terminal or, as a list, for the documentation."""
    headings = list(dict.fromkeys(heading for row in rows for heading in row))
    lines = [headings, *([row.get(heading, "-") for heading in headings] for row in rows)]
    if rst:
        marks = ["   * -", *["     -"] * (len(headings) - 1)]
        body = [f"{mark} {cell}" for line in lines for mark, cell in zip(marks, line, strict=True)]
        return "\n".join([".. list-table::", "   :header-rows: 1", "", *body])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
