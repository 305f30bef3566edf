"""Template tags: the sessions of the user who reads a page, and times in words."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

from django import template
from django.template import Context
from django.template.defaultfilters import date
from django.utils import timezone
from django.utils.html import conditional_escape, format_html
from django.utils.safestring import SafeString, mark_safe

from ..core.phrases import format_distance
from ..devices import ended
from ..devices.sessions import YourSessionList, YourSessions
from ..exceptions import CannotList, StorageUnavailable

register = template.Library()

T = TypeVar("T")


@register.simple_tag(takes_context=True)
def your_sessions(context: Context) -> YourSessionList | None:
    """Return the sessions of the user of the request.

    Returns ``None`` if the user is anonymous, if the engine cannot list sessions, or if the store
    does not answer.
    """
    return _ask_for_reader(context, YourSessions.list)


@register.simple_tag(takes_context=True)
def count_other_sessions(context: Context) -> int | None:
    """Return how many other sessions the user of the request has.

    Returns ``None`` in the same cases as `your_sessions`.
    """
    return _ask_for_reader(context, YourSessions.count_others)


@register.simple_tag(takes_context=True)
def ended_session(context: Context) -> ended.EndedSession | None:
    """Return the end of the session that the browser had, to say why its user is signed out.

    Returns ``None`` if there is nothing to say, see `django_sessionstores.devices.ended_session`.
    """
    request = context.get("request")
    return None if request is None else ended.ended_session(request)


def _ask_for_reader(context: Context, ask: Callable[[YourSessions], T]) -> T | None:
    request = context.get("request")
    if request is None or not request.user.is_authenticated:
        return None
    try:
        return ask(YourSessions(request))
    except (CannotList, StorageUnavailable):
        # The page is not about sessions, so it must not fail because of them.
        return None


@register.simple_tag
def moment(when: datetime, now: datetime) -> SafeString:
    """Return how far a moment is from now, in words, with the exact time as a tooltip."""
    words = format_distance(when, now)
    return format_html(
        '<time datetime="{}" title="{}">{}</time>', when.isoformat(), exact(when), words
    )


@register.simple_tag
def exact_time(when: datetime) -> SafeString:
    """Return a moment to the second, which the script shows in the time zone of the reader."""
    return format_html('<time datetime="{}" data-exact>{}</time>', when.isoformat(), exact(when))


@register.filter
def breakable(address: str) -> SafeString:
    """Return an address that breaks at its punctuation if it is too long for a line.

    An IP address breaks after a colon, an email address before the ``@``. What is copied from the
    page is the address alone.
    """
    escaped = conditional_escape(address)
    return mark_safe(escaped.replace(":", ":<wbr>").replace("@", "<wbr>@"))  # noqa: S308 - escaped


@register.filter
def exact(when: datetime) -> str:
    """Return a moment to the second, in the current time zone."""
    local = timezone.localtime(when)
    return f"{date(local, 'DATE_FORMAT')} {local:%H:%M:%S %Z}"
