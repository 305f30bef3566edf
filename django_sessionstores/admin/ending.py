"""End sessions for the session pages, and report the result to the reader."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from django.contrib import messages
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from ..core import clock
from ..core.phrases import format_number, isolate_direction, translated_message
from ..exceptions import PartlyEnded, StorageUnavailable
from ..inventory import SessionInfo, Total
from ..storages.base import MOST_AT_ONCE
from .log_entries import log_ended
from .page import Page
from .search import WITHIN


def end_each(page: Page, ids: Sequence[str]) -> None:
    """End the sessions with these ids except the reader's own, and log each of them.

    Messages say how many ended, how many had ended already, and how many may still be live.
    """
    ended: Sequence[SessionInfo] = ()
    own, reason = page.own_ids, ""
    others = [id_ for id_ in ids if id_ not in own]
    if len(others) < len(ids):
        text = _("Your own session was kept: log out to end it.")
        page.message(text, messages.WARNING)
    try:
        ended = page.inventory.end_many(others)
    except PartlyEnded as error:
        ended, reason = error.sessions, translated_message(error.reason)
    except StorageUnavailable as error:
        reason = translated_message(error)
    if ended:
        log_ended(page, page.rows(ended))
        _say_ended(page, len(ended))
    left = len(others) - len(ended)
    gone, failed = (0, left) if reason else (left, 0)
    if gone:
        text = ngettext(
            "%(number)s session had ended already.",
            "%(number)s sessions had ended already.",
            gone,
        )
        page.message(text % {"number": gone}, messages.WARNING)
    if failed:
        text = ngettext(
            "%(number)s session may still be live: %(reason)s",
            "%(number)s sessions may still be live: %(reason)s",
            failed,
        )
        text %= {"number": failed, "reason": isolate_direction(reason)}
        page.message(text, messages.ERROR)


class Ended(NamedTuple):
    """The result of `end_many`."""

    number: int
    """How many sessions have ended."""
    continues: bool
    """Whether there may be more, for another request."""


def end_many(page: Page, end: Callable[[], Total], *, is_purge: bool = False) -> Ended:
    """Call ``end``, and return how many sessions it has ended.

    Messages show this number, and why not all sessions have ended. After a failure, the reader
    decides whether to continue.
    """
    continues = False
    try:
        total, problem = end(), ""
        number, continues = int(total), not total.is_complete
    except PartlyEnded as error:
        number, problem = error.ended, translated_message(error.reason)
    if number or not problem:
        _say_ended(page, number, is_purge=is_purge)
    if problem:
        text = _("Not everything was done: %(reason)s") % {"reason": isolate_direction(problem)}
        page.message(text, messages.ERROR)
    if continues:
        text = _("There may be more, because one request ends only so many. Continue here.")
        page.message(text, messages.WARNING)
    return Ended(number, continues)


def end_found(page: Page, filters: Mapping[str, Any], seconds: float) -> Total:
    """End the sessions that match filters of the inventory, except those of the reader.

    Begins no other batch after ``seconds``. Raises `PartlyEnded` if the store stops answering after
    some sessions have ended.
    """
    began, ended, cursor = clock.monotonic(), 0, ""
    while True:
        try:
            sessions, cursor = page.inventory.list(
                cursor=cursor, limit=MOST_AT_ONCE, within=WITHIN, **filters
            )
            others = [each.id for each in sessions if each.id not in page.own_ids]
            ended += len(page.inventory.end_many(others))
        except PartlyEnded as error:
            raise PartlyEnded(ended + error.ended, error.reason) from error
        except StorageUnavailable as error:
            if not ended:
                raise
            raise PartlyEnded(ended, error) from error
        if not cursor or clock.monotonic() - began >= seconds:
            return Total(ended, is_complete=not cursor)


def _say_ended(page: Page, number: int, *, is_purge: bool = False) -> None:
    if is_purge:
        text = ngettext(
            "%(number)s expired session was purged.",
            "%(number)s expired sessions were purged.",
            number,
        )
    else:
        text = ngettext("%(number)s session was ended.", "%(number)s sessions were ended.", number)
    page.message(
        text % {"number": format_number(number)},
        messages.SUCCESS if number else messages.WARNING,
    )
