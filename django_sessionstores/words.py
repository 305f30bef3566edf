"""Durations in words, for commands and pages."""

from __future__ import annotations

from django.utils.translation import gettext


def span(seconds: float) -> str:
    """A duration in its largest unit: ``42 s``, ``3 min``, ``5 h``, ``12 days``."""
    if seconds < 60:
        return gettext("%(number)s s") % {"number": max(0, int(seconds))}
    if seconds < 3600:
        return gettext("%(number)s min") % {"number": int(seconds // 60)}
    if seconds < 2 * 86_400:
        return gettext("%(number)s h") % {"number": int(seconds // 3600)}
    return gettext("%(number)s days") % {"number": f"{int(seconds // 86_400):,}"}
