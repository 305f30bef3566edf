"""The base of all session pages: their sessions, addresses, messages and templates."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import msgspec
from django.contrib import messages
from django.contrib.admin.utils import quote
from django.contrib.auth import get_user_model
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, reverse
from django.utils.translation import gettext as _

from ..accounts.users import usernames
from ..conf import full_name
from ..core import clock
from ..core.lifetime import utc_datetime
from ..core.phrases import isolate_direction, translated_message
from ..core.records import is_session_id
from ..devices.names import describe_device, describe_place
from ..devices.sessions import ids_of_request
from ..inventory import Inventory, SessionInfo
from ..middleware.installed import OWN_PATH, has_package_middleware, records_reads
from .search import PARAMETERS, Search, may_be_a_key, search
from .session_row import SessionRow, last_activity_heading

if TYPE_CHECKING:
    from .model_admin import SessionAdmin

_FROM_LIST: Final = "_changelist_filters"
"""The parameter of Django's admin with those of the list that the reader has come from."""


class Page:
    """A session page for one request, in the admin of ``model_admin``."""

    def __init__(self, model_admin: SessionAdmin, request: HttpRequest) -> None:
        self.model_admin = model_admin
        self.request = request

    @cached_property
    def inventory(self) -> Inventory:
        """Return the inventory of the engine in use."""
        return Inventory(by="staff")

    @cached_property
    def now(self) -> datetime:
        """Return the moment that the page's times are relative to."""
        return utc_datetime(clock.now())

    # --- Sessions --------------------------------------------------------------------------

    @property
    def own_ids(self) -> Collection[str]:
        """Return the ids of the session of the request."""
        return ids_of_request(self.request)

    def find(self, session_id: str) -> SessionInfo | None:
        """Return the live session with this id; ``None`` also for a text that is not an id."""
        return self.inventory.get(session_id) if is_session_id(session_id) else None

    def rows(self, sessions: Sequence[SessionInfo]) -> list[SessionRow]:
        """Return sessions as pages show them."""
        names, own_ids = usernames(each.user_id for each in sessions), self.own_ids
        if names.problem is not None:
            text = _("Users are shown by primary key: their database is unreachable: %(reason)s")
            reason = isolate_direction(str(names.problem))
            self.message(text % {"reason": reason}, messages.WARNING)
        return [
            SessionRow(
                info=self._seen_now(each) if each.id in own_ids else each,
                user=names.shown(each.user_id) if each.user_id is not None else "",
                device=describe_device(each.user_agent),
                place=describe_place(each.ip),
                url=self.url_from_list("change", each.id),
                is_own=each.id in own_ids,
                is_of_deleted_user=(
                    each.user_id is not None and not names.problem and each.user_id not in names
                ),
            )
            for each in sessions
        ]

    def _seen_now(self, own: SessionInfo) -> SessionInfo:
        """Return the reader's own session as it is at this moment."""
        if not records_reads():
            return own
        return msgspec.structs.replace(own, last_activity=self.now)

    # --- Addresses -------------------------------------------------------------------------

    def url(self, name: str, *args: str, **parameters: str | Sequence[str]) -> str:
        """Return the address of a session page."""
        admin = self.model_admin
        url = reverse(f"{admin.admin_site.name}:{admin.url_name(name)}", args=args)
        return f"{url}?{urlencode(parameters, doseq=True)}" if parameters else url

    @property
    def is_list(self) -> bool:
        """Return whether this is the page that lists sessions."""
        match = self.request.resolver_match
        return match is not None and match.url_name == self.model_admin.url_name("changelist")

    @cached_property
    def list_parameters(self) -> Mapping[str, Sequence[str]]:
        """Return the parameters of the list that the reader sees, or has come from.

        Other pages have them in one parameter, as those of Django's admin do.
        """
        given: QueryDict = self.request.GET
        if not self.is_list:
            given = QueryDict(given.get(_FROM_LIST, ""))
        return {
            name: values
            for name, values in given.lists()
            if name in PARAMETERS and any(values) and not any(map(may_be_a_key, values))
        }

    @property
    def list_url(self) -> str:
        """Return the address of the list that the reader has come from."""
        return self.url("changelist", **self.list_parameters)

    def search_of_list(self) -> Search | None:
        """Return the search of the list that the reader has come from.

        ``None``, and a message that says why, if it finds nothing.
        """
        parameters = {name: values[-1] for name, values in self.list_parameters.items()}
        found = search(self.inventory, parameters, self.now)
        if not found.problem:
            return found
        self.message(found.problem, messages.WARNING)
        return None

    def url_from_list(self, name: str, *args: str) -> str:
        """Return the address of a page that leads back to the list that the reader sees."""
        if not self.list_parameters:
            return self.url(name, *args)
        kept = urlencode(self.list_parameters, doseq=True)
        return self.url(name, *args, **{_FROM_LIST: kept})

    def end_user_url(self, user_id: str | None) -> str:
        """Return the address that ends all sessions of a user; empty without a user."""
        return self.url_from_list("end_user", quote(user_id)) if user_id else ""

    def user_url(self, user_id: str | None) -> str:
        """Return the address of a user's page in this admin.

        Empty if there is no such page, or if the reader may not see it.
        """
        users, site = get_user_model(), self.model_admin.admin_site
        registered = site._registry.get(users)
        if not user_id or registered is None or not registered.has_view_permission(self.request):
            return ""
        opts = users._meta
        try:
            name = f"{site.name}:{opts.app_label}_{opts.model_name}_change"
            return reverse(name, args=[quote(user_id)])
        except NoReverseMatch:
            return ""

    # --- Answers ---------------------------------------------------------------------------

    def message(self, text: str, level: int) -> None:
        """Have the next page show a message."""
        self.model_admin.message_user(self.request, text, level)

    def redirect_not_found(self) -> HttpResponse:
        """Return a redirect to the list, with the message that there is no such session."""
        text = _("There is no live session with this id. It may have ended.")
        self.message(text, messages.WARNING)
        return HttpResponseRedirect(self.list_url)

    def failure(self, title: str, reason: Exception, status: int) -> HttpResponse:
        """Return a page that says why there is nothing else to show."""
        return self.render("failure", status, title=title, reason=translated_message(reason))

    def render(self, template: str, status: int = 200, **context: Any) -> HttpResponse:
        """Return a response with a template of the session pages."""
        model_admin = self.model_admin
        self.request.current_app = model_admin.admin_site.name
        return TemplateResponse(
            self.request,
            f"admin/django_sessionstores/{template}.html",
            {
                **model_admin.admin_site.each_context(self.request),
                "opts": model_admin.opts,
                "page": template,
                "now": self.now,
                "can_end": model_admin.has_end_permission(self.request),
                "list_url": self.url("changelist") if self.is_list else self.list_url,
                "overview_url": self.url("overview"),
                "end_others_url": self.url("end_others"),
                "purge_url": self.url("purge"),
                "records_reads": records_reads(),
                "last_activity": last_activity_heading(),
                "notes": _notes(),
                **context,
            },
            status=status,
        )


def _notes() -> list[str]:
    """Return what the pages do not show because of the settings, and which setting that is."""
    notes = []
    if not has_package_middleware():
        text = _("Devices and IP addresses are not stored, because MIDDLEWARE has no %(path)s.")
        notes.append(text % {"path": isolate_direction(OWN_PATH)})
    if not records_reads():
        text = _(
            "The last change is when a session was last saved. Requests that only read it are "
            "recorded by %(path)s if %(option)s is greater than 0."
        )
        option = full_name("ACTIVITY_INTERVAL")
        notes.append(
            text % {"path": isolate_direction(OWN_PATH), "option": isolate_direction(option)}
        )
    return notes
