"""The filters beside the list of sessions: their options, and the sessions that each option has."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, timedelta
from typing import Final, NamedTuple, TypeAlias

from django.utils import timezone
from django.utils.formats import date_format
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from ..core.lifetime import LATEST, utc_datetime
from ..devices.names import (
    NO_DEVICE,
    country_name,
    describe_device,
    device_name,
    knows_countries,
)
from ..inventory import SessionInfo
from .session_row import last_activity_heading

Values: TypeAlias = Callable[[SessionInfo], AbstractSet[str]]
"""Returns the values of the options that have a session."""

STATE: Final = "state"
_ANY: Final = ""
"""The value of the option that has all sessions."""

_WHO: Final = {
    _ANY: gettext_lazy("All"),
    "users": gettext_lazy("Only users"),
    "visitors": gettext_lazy("Only visitors"),
}
_STATES: Final = {
    _ANY: gettext_lazy("Live"),
    "expired": gettext_lazy("Expired, not purged"),
    "all": gettext_lazy("Live and expired"),
}
_IDLE: Final = {
    _ANY: gettext_lazy("Any time"),
    "1": gettext_lazy("More than an hour ago"),
    "24": gettext_lazy("More than a day ago"),
    "168": gettext_lazy("More than a week ago"),
    "720": gettext_lazy("More than 30 days ago"),
}
"""By hours."""
_DAYS: Final = 7
"""How many days are options of their own."""
_SPAN: Final = re.compile(r"(\d{1,15})-(\d{1,15})", re.ASCII)
"""The value of a column of a chart, see `operations.charts.Column.span`."""


class Filter(NamedTuple):
    """A filter of the list, of which one option is selected."""

    name: str
    """Its name in the address."""
    title: str
    value: str
    """The value of the selected option."""
    options: Mapping[str, str | Promise]
    """The texts of the options by their values, the one for all sessions first."""
    values: Values
    describe: Callable[[SessionInfo], str] | None = None
    """Returns the text of a session's option, if only sessions tell which options there are."""

    def matches(self, session: SessionInfo) -> bool:
        """Return whether the selected option has a session."""
        return self.value in self.values(session)

    def options_for(self, sessions: Iterable[SessionInfo]) -> dict[str, str | Promise]:
        """Return the options, with those of ``sessions`` if only sessions tell them."""
        found = dict(self.options)
        if self.describe is not None:
            texts = {max(self.values(each)): self.describe(each) for each in sessions}
            texts.pop(_ANY, None)
            found |= dict(sorted(texts.items(), key=lambda item: str(item[1]).casefold()))
        return found


def filters(parameters: Mapping[str, str], now: datetime) -> list[Filter]:
    """Return the filters of the list, with the options that the parameters of an address select."""
    return [
        each
        for each in (
            _fixed("who", _("Whose"), _WHO, parameters, _who),
            _fixed(STATE, _("State"), _STATES, parameters, _state),
            _began(parameters.get("began", ""), now),
            _fixed("idle", last_activity_heading(), _IDLE, parameters, _idle(now)),
            _expires(parameters.get("expires", "")),
            _device(parameters.get("device", "")),
            _country(parameters.get("country", "")),
        )
        if each is not None
    ]


NAMES: Final = ("who", STATE, "began", "idle", "expires", "device", "country")
"""The names of all filters."""


def counts(
    selected: Sequence[Filter], sessions: Iterable[SessionInfo]
) -> dict[str, Mapping[str, int]]:
    """Return how many sessions each option has, by the name of the filter and the option's value.

    The other filters count with the options that are selected.
    """
    numbers: dict[str, Counter[str]] = {each.name: Counter() for each in selected}
    for session in sessions:
        missed = [each for each in selected if not each.matches(session)]
        # A session that no filter leaves out is one of each filter; one that two leave out of none.
        for each in selected if not missed else missed if len(missed) == 1 else ():
            numbers[each.name].update(each.values(session))
    return {name: dict(found) for name, found in numbers.items()}


# --- One of them each ----------------------------------------------------------------------


def _fixed(
    name: str,
    title: str,
    options: Mapping[str, str | Promise],
    parameters: Mapping[str, str],
    values: Values,
) -> Filter:
    value = parameters.get(name, _ANY)
    return Filter(name, title, value if value in options else _ANY, options, values)


def _who(session: SessionInfo) -> set[str]:
    return {_ANY, "visitors" if session.user_id is None else "users"}


def _state(session: SessionInfo) -> set[str]:
    return {"all", "expired" if session.is_expired else _ANY}


def _idle(now: datetime) -> Values:
    def values(session: SessionInfo) -> set[str]:
        hours = (now - session.last_activity) / timedelta(hours=1)
        return {_ANY, *(each for each in _IDLE if each and hours >= int(each))}

    return values


def _began(value: str, now: datetime) -> Filter:
    """Return the filter of the day on which a session began, or of a span of time.

    The days of the last week become options when one of them, or the week, is selected.
    """
    today = timezone.localtime(now).date()
    days = [today - timedelta(days=number) for number in range(_DAYS)]
    options: dict[str, str | Promise] = {
        _ANY: _("Any date"),
        today.isoformat(): _("Today"),
        "week": _("Past 7 days"),
    }
    is_day = _parse_day(value) is not None
    if value == "week" or is_day:
        options |= {each.isoformat(): _day_text(each) for each in days[1:]}
    options |= {"month": _("Past 30 days"), "older": _("Longer ago")}
    options |= _span_option(value)
    if is_day and value not in options:
        options[value] = _day_text(date.fromisoformat(value))

    def values(session: SessionInfo) -> set[str]:
        day = timezone.localtime(session.created).date()
        age = (today - day).days
        found = {_ANY, day.isoformat(), "older" if age >= 30 else "month"}
        if age < _DAYS:
            found.add("week")
        return found | _spans_with(session.created, value)

    return Filter("began", _("Began"), value if value in options else _ANY, options, values)


def _expires(value: str) -> Filter | None:
    """Return the filter of a span of time in which sessions expire, if one is selected."""
    if not (option := _span_option(value)):
        return None
    options: dict[str, str | Promise] = {_ANY: _("Any date"), **option}
    return Filter(
        "expires",
        _("Expires"),
        value,
        options,
        lambda session: {_ANY} | _spans_with(session.expires, value),
    )


def _device(value: str) -> Filter:
    return _of_sessions(
        "device",
        _("Device"),
        value,
        _("Unknown device") if value == NO_DEVICE else value,
        lambda session: device_name(session.user_agent),
        lambda session: describe_device(session.user_agent),
    )


def _country(value: str) -> Filter | None:
    if not knows_countries():
        return None

    def country(session: SessionInfo) -> str:
        return country_name(session.ip)

    return _of_sessions("country", _("Country"), value, value, country, country)


def _of_sessions(
    name: str,
    title: str,
    value: str,
    text: str,
    option_of: Callable[[SessionInfo], str],
    describe: Callable[[SessionInfo], str],
) -> Filter:
    """Return a filter of which only sessions tell the options.

    ``text`` is that of the selected option, which may have no session.
    """
    options: dict[str, str | Promise] = {_ANY: _("All")}
    if value:
        options[value] = text
    return Filter(name, title, value, options, lambda session: {_ANY, option_of(session)}, describe)


# --- Days and spans ------------------------------------------------------------------------


def _parse_day(value: str) -> date | None:
    try:
        found = date.fromisoformat(value)
    except ValueError:
        return None
    # Python reads other forms of a date as well.
    return found if found.isoformat() == value else None


def _day_text(day: date) -> str:
    return date_format(day, "DATE_FORMAT")


def _parse_span(value: str) -> tuple[int, int] | None:
    found = _SPAN.fullmatch(value)
    if found is None or int(found[2]) > LATEST + 1:
        return None
    return int(found[1]), int(found[2])


def _span_option(value: str) -> dict[str, str]:
    """Return the option of a span of time; nothing for another value."""
    if (found := _parse_span(value)) is None:
        return {}
    begin, end = (
        date_format(timezone.localtime(utc_datetime(each - 1)), "SHORT_DATETIME_FORMAT")
        for each in found
    )
    return {value: f"{begin} \N{EN DASH} {end}"}


def _spans_with(moment: datetime, value: str) -> set[str]:
    found = _parse_span(value)
    is_within = found is not None and found[0] <= _milliseconds(moment) < found[1]
    return {value} if is_within else set()


def _milliseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)


_EPOCH: Final = utc_datetime(0)
