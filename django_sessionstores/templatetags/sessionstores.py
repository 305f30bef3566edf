"""The sessions of who reads a page, and times in words."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

from django import template
from django.template import Context
from django.template.defaultfilters import date
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from ..exceptions import CannotList, StorageUnavailable
from ..words import distance
from ..your_sessions import YourSessionList, YourSessions

register = template.Library()

T = TypeVar("T")


@register.simple_tag(takes_context=True)
def your_sessions(context: Context) -> YourSessionList | None:
    """The sessions of the user of the request.

    None where nobody is signed in, the engine has no list, or the store does not answer now.
    """
    return _of_reader(context, YourSessions.list)


@register.simple_tag(takes_context=True)
def count_other_sessions(context: Context) -> int | None:
    """How many sessions the user of the request has besides this one; None as above."""
    return _of_reader(context, YourSessions.count_others)


def _of_reader(context: Context, ask: Callable[[YourSessions], T]) -> T | None:
    request = context.get("request")
    if request is None or not request.user.is_authenticated:
        return None
    try:
        return ask(YourSessions(request))
    except (CannotList, StorageUnavailable):
        # The page is not about sessions, and can do without.
        return None


@register.simple_tag
def moment(when: datetime, now: datetime) -> SafeString:
    """How far a moment is from now, in words; exactly, to who points at it."""
    words = distance(when, now)
    return format_html(
        '<time datetime="{}" title="{}">{}</time>', when.isoformat(), exact(when), words
    )


@register.filter
def exact(when: datetime) -> str:
    """A moment to the second, in the zone of the reader."""
    local = timezone.localtime(when)
    return f"{date(local, 'DATE_FORMAT')} {local:%H:%M:%S %Z}"
