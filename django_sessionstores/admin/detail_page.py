"""The page of one session: its timeline, its client and, as a tree, its data."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec
from django.core.exceptions import PermissionDenied
from django.http import HttpResponse
from django.utils.translation import gettext as _

from ..conf import settings
from ..core.lifetime import utc_datetime
from ..core.phrases import translated_message
from ..core.redaction import Node, Redactor
from ..exceptions import UnreadablePayload
from ..inventory import SHORT_ID, SessionInfo
from ..middleware.installed import reads_move_expiry, records_reads
from ..operations.charts import position
from .log_entries import log_secrets_shown
from .page import Page


def detail_page(page: Page, session_id: str) -> HttpResponse:
    """Return the page of a session, with its data for users with that permission."""
    found = page.find(session_id)
    if found is None:
        return page.redirect_not_found()
    return _detail(page, found)


def secrets_page(page: Page, session_id: str) -> HttpResponse:
    """Return the page of a session with its secrets, and note that in the admin's history."""
    if not page.model_admin.has_secrets_permission(page.request):
        raise PermissionDenied
    found = page.find(session_id)
    if found is None:
        return page.redirect_not_found()
    log_secrets_shown(page, found.id)
    return _detail(page, found, reveals=True)


def _detail(page: Page, found: SessionInfo, *, reveals: bool = False) -> HttpResponse:
    request, model_admin = page.request, page.model_admin
    (row,) = page.rows([found])
    tree: list[Node] | None = None
    problem = ""
    if model_admin.has_data_permission(request):
        try:
            data = page.inventory.data(found.id)
            redactor = Redactor(settings.SECRET_NAMES, reveals=reveals)
            tree = None if data is None else redactor.tree(data)
        except UnreadablePayload as reason:
            problem = translated_message(reason)
    return page.render(
        "detail",
        title=_("Session %(id)s") % {"id": found.id[:SHORT_ID]},
        session=row,
        timeline=_timeline(found, page.now),
        user_link="" if row.is_of_deleted_user else page.user_url(found.user_id),
        sessions_of_user=page.url("changelist", user=found.user_id) if found.user_id else "",
        end_user_url=page.end_user_url(found.user_id),
        end_url=page.url_from_list("end", found.id),
        secrets_url=page.url_from_list("secrets", found.id),
        can_see_data=model_admin.has_data_permission(request),
        can_reveal=model_admin.has_secrets_permission(request) and not reveals,
        tree=tree,
        problem=problem,
    )


# --- Timeline ------------------------------------------------------------------------------

LINE: Final = 600
"""The length of the timeline, in the units of the template's drawing."""


class TimelinePoint(msgspec.Struct, frozen=True, kw_only=True):
    """A moment in the life of a session."""

    name: str
    moment: datetime
    kind: str
    """The part of the CSS class that depends on the moment."""
    x: str
    """The place on the timeline, from 0 to `LINE`."""


def _timeline(info: SessionInfo, now: datetime) -> list[TimelinePoint]:
    """Return the moments of a session, the earliest first."""
    absolute = settings.timeouts.absolute
    active, ends = _("Last change"), _("Ends if unchanged")
    if records_reads():
        active = _("Last activity")
    if reads_move_expiry():
        ends = _("Ends if unused")
    moments = [
        ("created", _("Began, or logged in"), info.created),
        ("active", active, info.last_activity),
        ("now", _("Now"), now),
        ("expires", ends, info.expires),
    ]
    if absolute:
        end = utc_datetime(int(info.created.timestamp() * 1000) + absolute)
        moments.append(("absolute", _("Ends in any case"), end))
    moments.sort(key=lambda each: each[2])
    first, last = moments[0][2], moments[-1][2]
    return [
        TimelinePoint(name=name, moment=moment, kind=kind, x=position(moment, first, last, LINE))
        for kind, name, moment in moments
    ]
