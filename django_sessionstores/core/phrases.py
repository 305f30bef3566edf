"""The texts of commands and pages: durations, moments, and English phrases that pages translate."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, Self

from django.utils.formats import number_format
from django.utils.html import avoid_wrapping
from django.utils.translation import (
    get_language,
    get_language_bidi,
    gettext,
    ngettext,
    ngettext_lazy,
)

_INVISIBLE: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Without the marks that names in some languages need, such as the zero-width non-joiner."""


class Phrase(str):
    """An English text that pages show in the reader's language, see `translate`.

    It is for texts that commands, logs and exceptions show to developers, in English like all such
    texts of Django, and that pages show as well. Mark the template for translators with
    ``gettext_noop``. A value that is a phrase, or a tuple of phrases, is translated as well.
    """

    template: str
    values: dict[str, Any]

    def __new__(cls, template: str, **values: Any) -> Self:
        phrase = super().__new__(cls, _fill(template, values, str))
        phrase.template, phrase.values = template, values
        return phrase


def translate(text: str) -> str:
    """Return a phrase in the language of the page, and any other text unchanged."""
    if not isinstance(text, Phrase):
        return text
    template = gettext(text.template)
    return _fill(template, text.values, lambda value: isolate_direction(translate(value)))


def isolate_direction(text: str) -> str:
    """Return a text for use inside another text, isolated if the page is read from right to left.

    Otherwise names and punctuation of both directions would change places.
    """
    return (
        f"\N{FIRST STRONG ISOLATE}{text}\N{POP DIRECTIONAL ISOLATE}"
        if get_language_bidi()
        else text
    )


def escape_invisible(text: str) -> str:
    """Return a text for a page, with escapes in place of what has no form of its own.

    These are control characters other than white space, characters that change the direction of
    what follows them, and surrogates, which cannot be sent. Users choose their names: two of them
    must not look alike, and none may disturb what stands beside it.
    """
    return _INVISIBLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _fill(template: str, values: dict[str, Any], say: Callable[[str], str]) -> str:
    """Return a template filled with values. ``say`` converts each text.

    A tuple is a series of texts.
    """

    def convert(value: Any) -> Any:
        if isinstance(value, tuple):
            return ", ".join(map(say, value))
        return say(value) if isinstance(value, str) else value

    # A template without values may contain a percent sign.
    return (
        template % {name: convert(value) for name, value in values.items()} if values else template
    )


def message_of(error: Exception) -> str:
    """Return the message of an exception, as a `Phrase` if it is one."""
    first = error.args[0] if error.args else ""
    return first if isinstance(first, Phrase) else str(error)


def translated_message(error: Exception) -> str:
    """Return the message of an exception, in the language of the page if it is a `Phrase`."""
    return translate(message_of(error))


def format_number(number: int) -> str:
    """Return a number with the thousands separator of the page's language: ``1,209,600``."""
    if get_language() is None:  # Without a language, Django does not separate thousands.
        return f"{number:,}"
    return str(number_format(number, use_l10n=True, force_grouping=True))


_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86_400


def _in_largest_unit(seconds: float) -> tuple[str, int]:
    """Return the unit in which a duration in seconds is shown, and how many of them it has.

    The number is the nearest one, because a session that expires in 14 days has a second less when
    it is shown. The unit is hours from two hours on, and days from two days on: "2 hours" for 90
    minutes would mislead. It is never weeks, for the same reason.
    """
    for unit, size, end in (
        ("second", 1, _MINUTE),
        ("minute", _MINUTE, 2 * _HOUR),
        ("hour", _HOUR, 2 * _DAY),
    ):
        if (number := _nearest(seconds / size)) * size < end:
            return unit, number
    return "day", _nearest(seconds / _DAY)


def _nearest(number: float) -> int:
    # Not round(), by which a half becomes the even number beside it.
    return max(0, int(number + 0.5))


def format_duration(seconds: float) -> str:
    """Return about how long a duration is, in one unit: ``42 s``, ``90 min``, ``12 days``."""
    unit, number = _in_largest_unit(seconds)
    return _quantity(unit, number)


def format_exact_duration(seconds: float) -> str:
    """Return how long a duration is, in as many units as it takes: ``1 h 30 min``."""
    words, left = [], round(seconds, 3)
    for unit, size in (("day", _DAY), ("hour", _HOUR), ("minute", _MINUTE)):
        number, left = divmod(left, size)
        if number:
            words.append(_quantity(unit, int(number)))
    if left:
        words.append(_quantity("second", round(left, 3) if left % 1 else int(left)))
    return " ".join(words) or _quantity("second", 0)


def _quantity(unit: str, number: float) -> str:
    match unit:
        case "second":
            shown = number_format(number) if isinstance(number, float) else number
            return gettext("%(number)s s") % {"number": shown}
        case "minute":
            return gettext("%(number)s min") % {"number": number}
        case "hour":
            return gettext("%(number)s h") % {"number": number}
    days = int(number)
    return ngettext("%(number)s day", "%(number)s days", days) % {"number": format_number(days)}


# Whole sentences, because many languages inflect the unit after "in" or before "ago".
_AGO: Final[dict[str, Any]] = {
    "day": ngettext_lazy("%(num)d day ago", "%(num)d days ago", "num"),
    "hour": ngettext_lazy("%(num)d hour ago", "%(num)d hours ago", "num"),
    "minute": ngettext_lazy("%(num)d minute ago", "%(num)d minutes ago", "num"),
}
_AHEAD: Final[dict[str, Any]] = {
    "day": ngettext_lazy("in %(num)d day", "in %(num)d days", "num"),
    "hour": ngettext_lazy("in %(num)d hour", "in %(num)d hours", "num"),
    "minute": ngettext_lazy("in %(num)d minute", "in %(num)d minutes", "num"),
}


def format_distance(moment: datetime, now: datetime) -> str:
    """Return how far a moment is from now, in its largest unit: ``just now``, ``in 12 days``."""
    unit, number = _in_largest_unit(abs((moment - now).total_seconds()))
    if unit == "second":
        return gettext("in a moment") if moment > now else gettext("just now")
    words = (_AHEAD if moment > now else _AGO)[unit]
    return avoid_wrapping(words % {"num": number})
