"""The page that lists sessions, with a search and filters."""

from __future__ import annotations

from typing import Final

from django.contrib import messages
from django.http import HttpResponse, HttpResponseRedirect
from django.utils.text import capfirst
from django.utils.translation import gettext as _

from ..core.phrases import translated_message
from ..core.records import is_session_id
from ..exceptions import CannotList
from ..inventory import SessionInfo
from .page import Page
from .search import WITHIN, may_be_a_key, search, selects
from .session_row import columns

PER_PAGE: Final = 50


def list_page(page: Page) -> HttpResponse:
    """Return a page of the sessions that match the search and the filters."""
    request, now = page.request, page.now
    text = request.GET.get("q", "").strip()
    if may_be_a_key(text):
        # Neither the page nor its address may repeat it.
        message = _("That may be a session key, which is a secret. Search for a session's id.")
        page.message(message, messages.WARNING)
        return HttpResponseRedirect(page.url("changelist"))
    if is_session_id(text.lower()):
        return HttpResponseRedirect(page.url("change", text.lower()))
    wanted = search(page.inventory, request, text, now)
    sessions: list[SessionInfo] = []
    cursor = ""
    if not wanted.problem:
        try:
            sessions, cursor = page.inventory.list(
                cursor=request.GET.get("cursor", ""),
                limit=PER_PAGE,
                within=WITHIN,
                **wanted.filters,
            )
        except CannotList as error:
            wanted.problem = translated_message(error)
        except ValueError:
            wanted.problem = _("This page of the list does not exist. Start with the first page.")
    rows = page.rows(sessions)
    is_first = "cursor" not in request.GET
    return page.render(
        "list",
        title=capfirst(page.model_admin.opts.verbose_name_plural),
        search=wanted,
        query=text,
        per_page=PER_PAGE,
        end_user_url=page.end_user_url(wanted.user),
        sessions=rows,
        columns=columns(),
        selects=selects(request),
        more_url=page.url("changelist", **wanted.parameters, cursor=cursor) if cursor else "",
        first_url="" if is_first else page.url("changelist", **wanted.parameters),
        user_link=page.user_url(wanted.user),
        choice_urls=[
            (name, page.url("changelist", user=user_id)) for user_id, name in wanted.choices.items()
        ],
        can_end_any=page.model_admin.has_end_permission(request)
        and any(not each.is_own and not each.info.is_expired for each in rows),
    )
