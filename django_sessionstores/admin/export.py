"""The list of sessions as a CSV file, which is sent while it is written.

It has what the list shows and nothing of the session data.
"""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from itertools import chain
from typing import Final

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponseRedirect, StreamingHttpResponse
from django.http.response import HttpResponseBase

from ..core.phrases import escape_invisible
from ..devices.names import device_name
from ..exceptions import StorageUnavailable
from .log_entries import log_exported
from .page import Page
from .search import WITHIN, Search
from .session_row import SessionRow

_AT_ONCE: Final = 500
"""How many sessions are read at once."""
_HEADER: Final = (
    *("id", "user_id", "username", "device", "user_agent", "ip", "place"),
    *("created", "last_activity", "expires", "expired", "bytes"),
)
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""How a cell begins that a spreadsheet takes for a formula. The last four are wide characters."""


def export(page: Page) -> HttpResponseBase:
    """Return the sessions that match the search and the filters of the list as a CSV file.

    The admin's history has an entry for it.
    """
    wanted = page.search_of_list()
    if wanted is None:
        return HttpResponseRedirect(page.list_url)
    parts = _parts(page, wanted)
    # If the store does not answer, the response is the page that says so.
    parts = chain([next(parts)], parts)
    log_exported(page, wanted.words or "all sessions")
    is_async = isinstance(page.request, ASGIRequest)
    return StreamingHttpResponse(
        _in_thread(parts) if is_async else parts,
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="sessions.csv"'},
    )


async def _in_thread(parts: Iterator[str]) -> AsyncIterator[str]:
    following = sync_to_async(lambda: next(parts, None))
    while (part := await following()) is not None:
        yield part


def _parts(page: Page, wanted: Search) -> Iterator[str]:
    """Yield the file in parts, each of which takes a few calls of the store.

    The last line says so if the store stops answering, because a file that was cut short looks like
    a whole one.
    """
    lines: list[Sequence[str]] = [_HEADER]
    cursor = ""
    while True:
        try:
            sessions, cursor = page.inventory.list(
                cursor=cursor, limit=_AT_ONCE, within=WITHIN, **wanted.of_inventory()
            )
        except StorageUnavailable as error:
            if lines:
                raise
            yield _csv([("This file is incomplete.", str(error))])
            return
        lines += map(_line, page.rows(sessions))
        if lines:
            yield _csv(lines)
        if not cursor:
            return
        lines = []


def _line(row: SessionRow) -> Sequence[str]:
    info = row.info
    cells = (
        *(info.id, info.user_id or "", "" if row.is_of_deleted_user else row.user),
        *(
            device_name(info.user_agent) if info.user_agent else "",
            info.user_agent,
            info.ip,
            row.place,
        ),
        *(each.isoformat() for each in (info.created, info.last_activity, info.expires)),
        *("yes" if info.is_expired else "no", "" if info.size is None else str(info.size)),
    )
    return tuple(map(_neutral, cells))


def _neutral(cell: str) -> str:
    """Return the text of a cell that a spreadsheet does not calculate."""
    text = escape_invisible(cell)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _csv(lines: Iterable[Sequence[str]]) -> str:
    file = io.StringIO()
    # In quotes, so that no other separator of columns begins a cell within a text.
    csv.writer(file, quoting=csv.QUOTE_ALL).writerows(lines)
    return file.getvalue()
