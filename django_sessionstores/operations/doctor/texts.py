"""The texts of a diagnosis, for the command and for the page in the admin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

from django.conf import settings as django_settings
from django.utils.formats import number_format
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from ... import conf
from ...core.phrases import format_exact_duration, format_number, isolate_direction
from ...payloads.cookie_chunks import split
from .diagnosis import CAPABILITIES, OPTIONS, Diagnosis
from .findings import Finding
from .stores import Store

_DISABLED_BY_ZERO: Final = ("IDLE_TIMEOUT", "ABSOLUTE_TIMEOUT", "ROTATE_AFTER", "MAX_SESSIONS")
"""The options that a value of 0 disables."""
_TENTH: Final = 0.1


def summary(diagnosis: Diagnosis) -> dict[str, str]:
    """Return the names and values of the diagnosis, without its findings."""
    able: list[str] = []
    unable: list[str] = []
    for name, phrases in CAPABILITIES.items():
        (able if diagnosis.capabilities[name] else unable).extend(map(str, phrases))
    keys = diagnosis.encryption_keys
    return {
        _("Engine"): diagnosis.engine,
        _("Stores"): "\n".join(_stores_in_words(diagnosis.stores)) or _("none, but the browser"),
        **_index_in_words(diagnosis),
        **({_("Sessions can"): "\n".join(able)} if able else {}),
        **({_("Sessions cannot"): "\n".join(unable)} if unable else {}),
        _("Size limit"): _size_limit_in_words(diagnosis),
        _("Middleware"): "\n".join(diagnosis.middleware) or _("none, so no view has a session"),
        _("Encryption keys"): _("wrong, see the findings") if keys is None else str(keys),
        _("Policy"): "\n".join(
            f"{name} = {_value_in_words(name, value)}" for name, value in diagnosis.policy.items()
        ),
    }


def _index_in_words(diagnosis: Diagnosis) -> dict[str, str]:
    words = {}
    if diagnosis.index_is_complete is not None:
        words[_("Index")] = (
            _("complete")
            if diagnosis.index_is_complete
            else _("not complete: the next list makes it, or manage.py sessions reindex")
        )
    report = diagnosis.index
    if report is not None and report.incomplete and not diagnosis.index_is_complete:
        words[_("Parts missing")] = format_number(report.incomplete)
    if report is not None:
        words[_("Index buckets")] = format_number(report.buckets)
    if report is not None and report.bytes_per_session is not None:
        words[_("Session bytes")] = format_number(report.bytes_per_session)
    return words


def _stores_in_words(stores: Sequence[Store]) -> Iterator[str]:
    """Yield a line for each store or node. The nodes follow the description of their store."""
    for description, nodes in groupby(stores, attrgetter("description")):
        first, *others = nodes
        if first.node:
            yield f"{isolate_direction(description)}:"
        for each in (first, *others):
            yield _store_in_words(each)


def _store_in_words(store: Store) -> str:
    if store.error:
        words, value = _("%(store)s: CANNOT BE USED. %(error)s"), store.error
    elif store.write_obstacle and store.is_probed:
        words, value = _("%(store)s: REFUSES SOME OPERATIONS. %(error)s"), store.write_obstacle
    elif store.write_obstacle:
        words, value = _("%(store)s: CANNOT BE WRITTEN. %(error)s"), store.write_obstacle
    elif store.belongs_to_another:
        words, value = _("%(store)s: not tried, see the findings"), ""
    else:
        words, value = _("%(store)s: answers in %(number)s ms"), ""
    return words % {
        "store": isolate_direction(store.node or store.description),
        "error": isolate_direction(value),
        "number": _format_milliseconds(store.milliseconds),
    }


def _format_milliseconds(milliseconds: float | None) -> str:
    milliseconds = milliseconds or 0
    # "0.0 ms" would say that it took no time.
    return number_format(milliseconds, decimal_pos=1 if milliseconds >= _TENTH else 3)


def _size_limit_in_words(diagnosis: Diagnosis) -> str:
    if diagnosis.max_payload:
        return _bytes_in_words(diagnosis.max_payload)
    if not diagnosis.holds_in_key:
        return _("none")
    limit = diagnosis.cookie_bytes
    if limit is None:
        return _("wrong, see the findings")
    number = len(split(django_settings.SESSION_COOKIE_NAME, "x" * limit))
    words = ngettext(
        "%(size)s, encrypted, in %(number)s cookie",
        "%(size)s, encrypted, in up to %(number)s cookies",
        number,
    )
    return words % {"size": _bytes_in_words(limit), "number": format_number(number)}


def _bytes_in_words(size: int) -> str:
    return ngettext("%(number)s byte", "%(number)s bytes", size) % {"number": format_number(size)}


def _value_in_words(name: str, value: Any) -> str:
    if value is None and name in OPTIONS:
        return _("wrong, see the findings")
    if name in _DISABLED_BY_ZERO and not value:
        words = _("disabled")
    elif isinstance(value, int | float) and (
        name in conf.DURATIONS or name == "SESSION_COOKIE_AGE"
    ):
        words = format_exact_duration(value)
    else:
        return repr(list(value) if isinstance(value, tuple) else value)
    return f"{value} ({isolate_direction(words)})"


def finding_in_words(finding: Finding) -> str:
    """Return what a finding breaks, its message, and its hint, each on a line of its own."""
    return "\n".join(filter(None, (finding.breaks, finding.message, finding.hint)))
