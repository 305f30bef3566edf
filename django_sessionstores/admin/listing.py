"""The sessions of one page of the list: in the store's order, or sorted by a column.

A store lists sessions in its own order, page after page. To sort them by another column, or to
count them for the filters, all of them are read, which is only done for `WITHIN` at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import msgspec
from django.utils.translation import gettext as _

from ..core.phrases import format_number, translated_message
from ..exceptions import CannotList, StorageUnavailable
from ..inventory import SessionInfo
from .filters import STATE
from .page import Page
from .search import FACETS, WITHIN, Search
from .session_row import Column, SessionRow

PER_PAGE: Final = 50
_MOST_BACK: Final = 20
"""How many pages back a reader can go at most, because the address has a cursor for each."""
_LEAST_SEEN: Final = 20
"""The sessions that it takes at least to estimate how many there are."""
_ID_DIGITS: Final = 12
"""The digits of an id that tell its place among all ids."""


class Listed(msgspec.Struct, kw_only=True):
    """A page of the list."""

    rows: list[SessionRow] = []
    number: int = 1
    """The number of the page, from 1."""
    is_full: bool = False
    """Whether the page has as many sessions as a page has at most."""
    previous_url: str = ""
    next_url: str = ""
    total: int | None = None
    """How many sessions the search finds; ``None`` if that is not known."""
    is_estimate: bool = False
    """Whether ``total`` is only about right."""
    everything: list[SessionInfo] | None = None
    """All sessions that the text finds, whatever the filters are; ``None`` if they were not read.
    """
    is_sorted: bool = False
    can_sort: bool = True
    """Whether the sessions may be few enough to sort them by a column."""
    note: str = ""
    """Why the page is not as the reader wanted it."""
    problem: str = ""
    """Why there is nothing to show."""


def list_sessions(page: Page, wanted: Search, columns: Mapping[str, Column]) -> Listed:
    """Return the page of the list that the address of the request describes.

    ``columns`` are those by which sessions can be sorted, by their names.
    """
    order, counts = wanted.view.get("o", ""), FACETS in wanted.view
    column = columns.get(order.removeprefix("-"))
    listed = Listed(number=_page_number(page))
    try:
        if column is not None or counts:
            listed.everything = _read_all(page, wanted, counts=counts)
            if listed.everything is not None:
                _list_from(page, wanted, listed, column, is_reversed=order.startswith("-"))
                listed.is_full = True
                return listed
            listed.can_sort = False
            text = _("There are more than %(number)s sessions, too many to sort or count them.")
            listed.note = text % {"number": format_number(WITHIN)}
        _list_in_order_of_store(page, wanted, listed)
        listed.is_full = len(listed.rows) == PER_PAGE
    except CannotList as error:
        listed.problem = translated_message(error)
    except ValueError:
        listed.problem = _("This page of the list does not exist. Start with the first page.")
    return listed


def _page_number(page: Page) -> int:
    given = page.request.GET.get("p", "")
    least = 2 if page.request.GET.get("cursor") else 1
    return max(least, int(given)) if given.isdecimal() and len(given) < 10 else least


# --- All sessions --------------------------------------------------------------------------


def _read_all(page: Page, wanted: Search, *, counts: bool) -> list[SessionInfo] | None:
    """Return all sessions that the text finds; ``None`` if there are more than `WITHIN`.

    Unless ``counts``, those that have expired are only read if they are listed.
    """
    filters = {**wanted.of_inventory(), "where": None}
    if counts:
        filters["expired"] = None
    sessions, more = page.inventory.list(limit=WITHIN, within=WITHIN, **filters)
    return None if more else sessions


def _list_from(
    page: Page, wanted: Search, listed: Listed, column: Column | None, *, is_reversed: bool
) -> None:
    """Fill ``listed`` with its part of all sessions, sorted by a column."""
    state = next(each for each in wanted.selected if each.name == STATE)
    found = [
        each for each in listed.everything or () if state.matches(each) and wanted.matches(each)
    ]
    listed.total = len(found)
    start, end = (listed.number - 1) * PER_PAGE, listed.number * PER_PAGE
    if column is None or column.sort_key is None:
        listed.rows = page.rows(found[start:end])
    else:
        listed.is_sorted = True
        rows = sorted(page.rows(found), key=column.sort_key, reverse=is_reversed)
        listed.rows = rows[start:end]
    parameters = {**wanted.parameters, **wanted.view}
    if listed.number > 1:
        listed.previous_url = page.url("changelist", **parameters, p=str(listed.number - 1))
    if end < len(found):
        listed.next_url = page.url("changelist", **parameters, p=str(listed.number + 1))


# --- In the order of the store -------------------------------------------------------------


def _list_in_order_of_store(page: Page, wanted: Search, listed: Listed) -> None:
    """Fill ``listed`` with the sessions after the cursor in the address."""
    request = page.request.GET
    cursor, back = request.get("cursor", ""), request.getlist("back")
    sessions, following = page.inventory.list(
        cursor=cursor, limit=PER_PAGE, within=WITHIN, **wanted.of_inventory()
    )
    listed.rows = page.rows(sessions)
    if not cursor:
        listed.number = 1
    number, parameters = listed.number, wanted.parameters
    if cursor and number == 2:
        listed.previous_url = page.url("changelist", **parameters)
    elif back and number > 2:
        listed.previous_url = page.url(
            "changelist", **parameters, p=str(number - 1), cursor=back[-1], back=back[:-1]
        )
    if following:
        back = [*back, *([cursor] if cursor else [])][-_MOST_BACK:]
        listed.next_url = page.url(
            "changelist", **parameters, p=str(number + 1), cursor=following, back=back
        )
    # The list is there. A count that takes the store too long is only left out.
    with suppress(StorageUnavailable):
        _count(page, wanted, listed, sessions)
    listed.can_sort &= (listed.total or 0) <= WITHIN


def _count(page: Page, wanted: Search, listed: Listed, sessions: list[SessionInfo]) -> None:
    """Set the total if one call of the store tells it, or if it can be estimated."""
    inventory, storage = page.inventory, page.inventory.storage
    if not listed.next_url and not page.request.GET.get("cursor"):
        listed.total = len(sessions)
    elif wanted.is_of_everything and storage.indexes_counts:
        listed.total = inventory.count()
    elif wanted.found.keys() == {"user"} and not wanted.filters and storage.indexes_users:
        listed.total = inventory.count(user=wanted.user)
    elif not wanted.found and len(sessions) == PER_PAGE and is_in_order_of_ids(page):
        listed.total, listed.is_estimate = _estimate(sessions), True


def is_in_order_of_ids(page: Page) -> bool:
    """Return whether the store lists sessions by their ids, and not by their expiry."""
    return not page.inventory.storage.first_expired(int(page.now.timestamp() * 1000))


def _estimate(sessions: list[SessionInfo]) -> int | None:
    """Return about how many sessions there are, if these are neighbours by their ids.

    Ids are digests, so they are spread evenly. ``None`` if these are too few to tell.
    """
    places = [int(each.id[:_ID_DIGITS], 16) for each in (sessions[0], sessions[-1])]
    if len(sessions) < _LEAST_SEEN or places[0] >= places[1]:
        return None
    number = round((len(sessions) - 1) * 16**_ID_DIGITS / (places[1] - places[0]))
    unit: int = 10 ** max(0, len(str(number)) - 2)
    return round(number / unit) * unit
