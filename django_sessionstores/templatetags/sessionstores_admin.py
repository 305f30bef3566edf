"""Template tags for the admin: times in words, and the link from a user's page to the sessions."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from django import template
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured
from django.template import Context
from django.urls import NoReverseMatch, reverse

from ..core.phrases import format_exact_duration, format_number
from ..exceptions import CannotList, StorageUnavailable
from ..inventory import Inventory
from ..operations.overview import count_of_user
from ..sessions.user_ids import user_id_of
from .sessionstores import breakable, exact, exact_time, moment

register = template.Library()


register.simple_tag(moment)
register.simple_tag(exact_time)
register.filter(exact)
register.filter(breakable)
register.filter("grouped", format_number)


@register.filter
def duration(time: timedelta) -> str:
    """Return how long a time is."""
    return format_exact_duration(time.total_seconds())


@register.simple_tag(takes_context=True)
def user_sessions(context: Context, user: Any) -> dict[str, Any] | None:
    """Return the URL of a user's sessions, and how many there are.

    The number is ``None`` if the store does not answer. Returns ``None`` if the reader of the page
    may not see sessions, or if there is no list of them.
    """
    request = context.get("request")
    may_view = request and request.user.has_perm("django_sessionstores.view_session")
    if not may_view or not isinstance(user, get_user_model()) or user.pk is None:
        return None
    try:
        url = reverse(
            "admin:django_sessionstores_session_changelist",
            current_app=getattr(request, "current_app", None),
        )
        inventory = Inventory()
        number = count_of_user(inventory, user)
    except StorageUnavailable:
        number = None
    except (NoReverseMatch, CannotList, ImproperlyConfigured):
        return None
    return {"url": f"{url}?{urlencode({'user': user_id_of(user)})}", "number": number}
