"""What commands and pages say: durations, moments, and English that pages translate."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, Self

from django.utils.formats import number_format
from django.utils.timesince import timesince
from django.utils.translation import (
    get_language,
    get_language_bidi,
    gettext,
    ngettext,
    ngettext_lazy,
)


class Phrase(str):
    """English words that pages say in the reader's language, see `translated`.

    For what commands, logs and exceptions tell developers, in English as all of Django's does,
    and a page tells too. The template is marked for translators with ``gettext_noop``; values that
    are phrases, one or a tuple of them, are translated with it.
    """

    template: str
    values: dict[str, Any]

    def __new__(cls, template: str, **values: Any) -> Self:
        phrase = super().__new__(cls, _filled(template, values, str))
        phrase.template, phrase.values = template, values
        return phrase


def translated(text: str) -> str:
    """A phrase in the language of the page; any other text as it is."""
    if not isinstance(text, Phrase):
        return text
    return _filled(gettext(text.template), text.values, lambda value: isolated(translated(value)))


def isolated(text: str) -> str:
    """A text that stands in one of a language that is read from right to left, where else names
    and signs of both directions would change places."""
    return (
        f"\N{FIRST STRONG ISOLATE}{text}\N{POP DIRECTIONAL ISOLATE}"
        if get_language_bidi()
        else text
    )


def _filled(template: str, values: dict[str, Any], say: Callable[[str], str]) -> str:
    """A template with its values, those that are texts said so. A tuple is texts in a row."""

    def worded(value: Any) -> Any:
        if isinstance(value, tuple):
            return ", ".join(map(say, value))
        return say(value) if isinstance(value, str) else value

    # What takes no values may have a percent sign.
    return (
        template % {name: worded(value) for name, value in values.items()} if values else template
    )


def said(error: Exception) -> str:
    """What an exception says: the `Phrase`, where it is one."""
    first = error.args[0] if error.args else ""
    return first if isinstance(first, Phrase) else str(error)


def told(error: Exception) -> str:
    """What an exception says, in the language of the page as far as it is a `Phrase`."""
    return translated(said(error))


def grouped(number: int) -> str:
    """A number with what parts its thousands in the language of the page: ``1,209,600``."""
    if get_language() is None:  # Without a language, Django parts nothing.
        return f"{number:,}"
    return str(number_format(number, use_l10n=True, force_grouping=True))


def span(seconds: float) -> str:
    """A duration in its largest unit: ``42 s``, ``3 min``, ``5 h``, ``12 days``."""
    if seconds < 60:
        return gettext("%(number)s s") % {"number": max(0, int(seconds))}
    if seconds < 3600:
        return gettext("%(number)s min") % {"number": int(seconds // 60)}
    if seconds < 2 * 86_400:
        return gettext("%(number)s h") % {"number": int(seconds // 3600)}
    days = int(seconds // 86_400)
    return ngettext("%(number)s day", "%(number)s days", days) % {"number": grouped(days)}


# Whole sentences, as many languages inflect the unit behind "in" and "ago".
_AGO: Final[dict[str, Any]] = {
    "year": ngettext_lazy("%(num)d year ago", "%(num)d years ago", "num"),
    "month": ngettext_lazy("%(num)d month ago", "%(num)d months ago", "num"),
    "week": ngettext_lazy("%(num)d week ago", "%(num)d weeks ago", "num"),
    "day": ngettext_lazy("%(num)d day ago", "%(num)d days ago", "num"),
    "hour": ngettext_lazy("%(num)d hour ago", "%(num)d hours ago", "num"),
    "minute": ngettext_lazy("%(num)d minute ago", "%(num)d minutes ago", "num"),
}
_AHEAD: Final[dict[str, Any]] = {
    "year": ngettext_lazy("in %(num)d year", "in %(num)d years", "num"),
    "month": ngettext_lazy("in %(num)d month", "in %(num)d months", "num"),
    "week": ngettext_lazy("in %(num)d week", "in %(num)d weeks", "num"),
    "day": ngettext_lazy("in %(num)d day", "in %(num)d days", "num"),
    "hour": ngettext_lazy("in %(num)d hour", "in %(num)d hours", "num"),
    "minute": ngettext_lazy("in %(num)d minute", "in %(num)d minutes", "num"),
}


def distance(moment: datetime, now: datetime) -> str:
    """How far a moment is from now, in its largest unit: ``just now``, ``in 3 weeks``."""
    if abs(moment - now).total_seconds() < 60:
        return gettext("in a moment") if moment > now else gettext("just now")
    if moment > now:
        return timesince(now, moment, time_strings=_AHEAD, depth=1)
    return timesince(moment, now, time_strings=_AGO, depth=1)
