"""The pages that ask whether to end or purge sessions, and do so on a POST.

A request ends sessions for `REQUEST_SECONDS`. If there are more, the response to the POST asks
again, and its form is sent without the reader if scripts run. No other request gets such a form:
a link to a page must not end sessions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from django.contrib import messages
from django.contrib.admin.models import CHANGE, DELETION
from django.contrib.admin.utils import unquote
from django.http import HttpResponse, HttpResponseRedirect
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from ..accounts.users import find_user, name_of, usernames
from ..core.phrases import escape_invisible
from ..core.records import is_session_id, is_storable
from ..inventory import REQUEST_SECONDS, SessionInfo
from ..models import Session
from ..operations.overview import count_of_user
from .ending import end_each, end_found, end_many
from .listing import PER_PAGE
from .log_entries import Subject, log_number_ended
from .page import Page
from .search import WITHIN

_SHOWN: Final = 20
"""The most sessions that a question shows."""


def end_one(page: Page, session_id: str) -> HttpResponse:
    """Ask whether to end a session; end it on a POST."""
    found = page.find(session_id)
    if found is None:
        return page.redirect_not_found()
    if page.request.method != "POST":
        return _question(
            page,
            title=_("End this session?"),
            sessions=[found],
            action=_("End this session"),
            back=page.url_from_list("change", found.id),
        )
    end_each(page, [found.id])
    return HttpResponseRedirect(page.list_url)


def end_selected(page: Page) -> HttpResponse:
    """Ask whether to end the sessions selected in the list; end them if that was confirmed."""
    ids = list(dict.fromkeys(filter(is_session_id, page.request.POST.getlist("id"))))[:PER_PAGE]
    back = page.list_url
    if not ids:
        page.message(_("No session was selected."), messages.WARNING)
        return HttpResponseRedirect(back)
    if "confirmed" not in page.request.POST:
        known = page.inventory.get_many(ids)
        found = [known[each] for each in ids if each in known]
        if not found:
            return page.redirect_not_found()
        return _question(
            page,
            title=ngettext("End %(number)s session?", "End %(number)s sessions?", len(found))
            % {"number": len(found)},
            sessions=found,
            action=_("End these sessions"),
            back=back,
            form_url=page.url_from_list("end_selected"),
            fields=[("id", each.id) for each in found],
        )
    end_each(page, ids)
    return HttpResponseRedirect(back)


def end_of_user(page: Page, user_id: str) -> HttpResponse:
    """Ask whether to end all sessions of a user except the reader's own; end them on a POST."""
    user_id = unquote(user_id)
    if not is_storable(user_id):
        return page.redirect_not_found()
    inventory, name = page.inventory, usernames([user_id]).shown(user_id)
    back = page.list_url if page.list_parameters else page.url("changelist", user=user_id)
    continues = False
    if page.request.method == "POST":
        own = page.own_ids
        ended, continues = end_many(
            page, lambda: inventory.end_all(user_id, but=own, seconds=REQUEST_SECONDS)
        )
        if ended:
            user = find_user(user_id)
            subject = Subject(Session, None, name)
            if user is not None:
                subject = Subject(type(user), user.pk, escape_invisible(name_of(user)))
            log_number_ended(page, subject, CHANGE, ended)
        if not continues:
            return HttpResponseRedirect(back)
    sessions, more = inventory.list(user=user_id, limit=_SHOWN, within=WITHIN)
    number = count_of_user(inventory, user_id) if more else len(sessions)
    return _question(
        page,
        title=_("End all sessions of %(user)s?") % {"user": name},
        sessions=sessions,
        number=number,
        is_complete=number is not None,
        action=_("End all sessions of %(user)s") % {"user": name},
        back=back,
        continues=continues,
    )


def end_matching(page: Page) -> HttpResponse:
    """Ask whether to end all sessions that match the filters of the list; end them on a POST."""
    wanted = page.search_of_list()
    if wanted is None:
        return HttpResponseRedirect(page.list_url)
    if wanted.is_of_everything:
        return HttpResponseRedirect(page.url("end_others"))
    inventory, filters, continues = page.inventory, wanted.of_inventory(expired=False), False
    if page.request.method == "POST":
        ended, continues = end_many(page, partial(end_found, page, filters, REQUEST_SECONDS))
        if ended:
            subject = Subject(Session, None, wanted.words)
            log_number_ended(page, subject, DELETION, ended)
        if not continues:
            return HttpResponseRedirect(page.list_url)
    sessions, more = inventory.list(limit=WITHIN, within=WITHIN, **filters)
    return _question(
        page,
        title=_("End all sessions that match the search and the filters?"),
        sessions=sessions,
        is_complete=not more,
        action=_("End all that match"),
        back=page.list_url,
        continues=continues,
    )


def end_others(page: Page) -> HttpResponse:
    """Ask whether to end all sessions except the reader's own; end them on a POST."""
    inventory, back = page.inventory, page.url("changelist")
    continues = False
    if page.request.method == "POST":
        own = page.own_ids
        ended, continues = end_many(
            page, lambda: inventory.end_everything(but=own, seconds=REQUEST_SECONDS)
        )
        if ended:
            log_number_ended(page, Subject(Session, None, _("all other sessions")), DELETION, ended)
        if not continues:
            return HttpResponseRedirect(back)
    number = None
    if inventory.storage.indexes_counts:
        number = inventory.count()
    return _question(
        page,
        title=_("End all sessions but yours?"),
        number=number,
        action=_("End all but mine"),
        back=back,
        warning=_(
            "Everybody else is logged out, and what visitors have in their sessions "
            "is lost, such as shopping baskets."
        ),
        continues=continues,
    )


def purge(page: Page) -> HttpResponse:
    """Ask whether to remove the expired sessions; remove them on a POST."""
    inventory, back = page.inventory, page.url("overview")
    continues = False
    if page.request.method == "POST":
        removed, continues = end_many(
            page, lambda: inventory.purge(seconds=REQUEST_SECONDS), is_purge=True
        )
        if removed:
            log_number_ended(page, Subject(Session, None, _("expired sessions")), DELETION, removed)
        if not continues:
            return HttpResponseRedirect(back)
    return _question(
        page,
        title=_("Purge expired sessions?"),
        action=_("Purge expired sessions"),
        back=back,
        warning=_("They have expired already: nobody is logged out."),
        continues=continues,
    )


def _question(
    page: Page,
    *,
    title: str,
    action: str,
    back: str,
    sessions: Sequence[SessionInfo] | None = None,
    number: int | None = None,
    is_complete: bool = True,
    form_url: str = "",
    fields: Sequence[tuple[str, str]] = (),
    warning: str = "",
    continues: bool = False,
) -> HttpResponse:
    """Return a page with one question.

    ``action`` is the text of the button that answers yes, and ``back`` the address for no.
    ``sessions`` are those that would end, and ``number`` how many if these are not all. Without
    ``is_complete``, there may be others, which a page would take too long to find. The form is sent
    to ``form_url``, by default to this address, with the names and values in ``fields``.
    ``continues`` says that the answer was yes, and that the form may be sent without the reader.
    """
    rows = page.rows(sessions or ())
    return page.render(
        "confirm",
        title=title,
        action=action,
        back=back,
        sessions=rows[:_SHOWN],
        others=max(0, (len(rows) if number is None else number) - _SHOWN),
        live=number,
        keeps_own=any(each.is_own for each in rows),
        is_complete=is_complete,
        is_nothing=sessions is not None and is_complete and all(each.is_own for each in rows),
        form_url=form_url or page.request.get_full_path(),
        fields=fields,
        warning=warning,
        continues=continues,
    )
