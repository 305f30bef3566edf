"""Pages in Django's admin that show the sessions of the engine in use, and end them.

They ask `Inventory` and no model, so they are the same for every engine. Whoever looks at them sees
ids of sessions, never keys. A GET changes nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar, cast
from urllib.parse import urlencode

import msgspec
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.contrib.admin.utils import quote, unquote
from django.contrib.auth import get_user_model
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.db import Error as DatabaseError
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, URLPattern, path, reverse
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from django.views.decorators.http import require_http_methods, require_POST

from . import session
from .charts import position
from .client import normal_ip
from .conf import settings
from .devices import describe_device, describe_place
from .doctor import LEVELS, diagnose, in_words, summary
from .exceptions import CannotList, PartlyEnded, StorageUnavailable, UnreadablePayload
from .inventory import SHORT_ID, Inventory, SessionInfo
from .lifetime import aware
from .models import Session
from .overview import count_of_user, history, overview
from .records import is_storable
from .redaction import Node, Redactor
from .users import find_user, find_users, usernames
from .words import isolated, told

if TYPE_CHECKING:
    _Admin = admin.ModelAdmin[Session]
else:
    _Admin = admin.ModelAdmin

P = ParamSpec("P")
S = TypeVar("S", bound="SessionAdmin")

PER_PAGE: Final = 50
_WITHIN: Final = 2000
"""How many sessions are looked at for one page of those that a filter lets through."""
_MOST_ENDED: Final = 5000
"""How many one request ends: it must answer before the server loses patience."""
_MOST_PURGED: Final = 50_000
_SHOWN: Final = 20
"""How many sessions a question names that is about several."""

_ID: Final = re.compile(r"[0-9a-f]{40}", re.ASCII)
_ID_PREFIX: Final = re.compile(r"[0-9a-f]{6,40}", re.ASCII)
_LIKE_A_KEY: Final = re.compile(r"(?<![a-z0-9])[a-z0-9]{32}(?![a-z0-9])|\S{150}", re.ASCII)

_WHO: Final = {
    "": gettext_lazy("Users and visitors"),
    "users": gettext_lazy("Only users"),
    "visitors": gettext_lazy("Only visitors"),
}
_STATES: Final = {
    "": gettext_lazy("Live"),
    "expired": gettext_lazy("Expired, not purged"),
    "all": gettext_lazy("Live and expired"),
}
_IDLE: Final = {
    "": gettext_lazy("Whenever used"),
    "1": gettext_lazy("Unused for an hour"),
    "24": gettext_lazy("Unused for a day"),
    "168": gettext_lazy("Unused for a week"),
    "720": gettext_lazy("Unused for 30 days"),
}
"""By hours."""


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """A session in the words of a page."""

    info: SessionInfo
    user: str
    """The username, or the primary key of a user who is gone; empty for a visitor."""
    device: str
    place: str
    url: str
    is_own: bool
    """Whether the reader's own request came with it."""

    @property
    def words(self) -> str:
        """For a log."""
        return f"{self.info.id[:SHORT_ID]} ({self.user or '-'}, {self.device})"


class Search(msgspec.Struct, kw_only=True):
    """What a reader looks for."""

    filters: dict[str, Any] = {}
    parameters: dict[str, str] = {}
    """Those of the address, for the links of the page; without the cursor."""
    user: str = ""
    """The primary key of the one whose sessions are meant."""
    user_name: str = ""
    problem: str = ""
    """Why nothing can be found; empty where something can."""
    choices: dict[str, str] = {}
    """Primary keys and names, where the text means two users."""


def _told(
    view: Callable[Concatenate[S, HttpRequest, P], HttpResponse],
) -> Callable[Concatenate[S, HttpRequest, P], HttpResponse]:
    """For who may view sessions; what a store or an engine cannot do is said on a page."""

    @wraps(view)
    def wrapper(
        self: S, request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs
    ) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        try:
            return view(self, request, *args, **kwargs)
        except CannotList as error:
            return self._failure(request, _("These sessions cannot be listed"), error, 200)
        except StorageUnavailable as error:
            return self._failure(request, _("The store of sessions does not answer"), error, 503)

    return wrapper


def _for_enders(
    view: Callable[Concatenate[S, HttpRequest, P], HttpResponse],
) -> Callable[Concatenate[S, HttpRequest, P], HttpResponse]:
    """For who may also end sessions."""

    @wraps(view)
    def wrapper(
        self: S, request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs
    ) -> HttpResponse:
        if not self.has_end_permission(request):
            raise PermissionDenied
        return view(self, request, *args, **kwargs)

    return _told(wrapper)


@admin.register(Session)
class SessionAdmin(_Admin):
    """The browser of sessions."""

    # --- Permissions -----------------------------------------------------------------------

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_end_permission(self, request: HttpRequest) -> bool:
        """Whether the user may end sessions and purge expired ones."""
        return request.user.has_perm("django_sessionstores.end_session")

    def has_data_permission(self, request: HttpRequest) -> bool:
        """Whether the user may see what is in sessions."""
        return request.user.has_perm("django_sessionstores.view_session_data")

    def has_secrets_permission(self, request: HttpRequest) -> bool:
        """Whether the user may see secrets in sessions, besides what else is in them."""
        return self.has_data_permission(request) and request.user.has_perm(
            "django_sessionstores.view_session_secrets"
        )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Session]:
        """None: a model knows nothing of sessions."""
        return Session._base_manager.none()

    # --- Addresses -------------------------------------------------------------------------

    def get_urls(self) -> list[URLPattern]:
        """Only these: none of the pages that a model has would know the sessions."""

        def page(route: str, view: Callable[..., HttpResponse], name: str) -> URLPattern:
            return path(route, self.admin_site.admin_view(view), name=self._url_name(name))

        either = require_http_methods(["GET", "HEAD", "POST"])
        return [
            page("", self.list_page, "changelist"),
            page("overview/", self.overview_page, "overview"),
            page("end/", require_POST(self.end_selected), "end_selected"),
            page("end-others/", either(self.end_others), "end_others"),
            page("purge/", either(self.purge), "purge"),
            page("user/<str:user_id>/end/", either(self.end_of_user), "end_user"),
            page("<str:session_id>/change/", self.detail_page, "change"),
            page("<str:session_id>/secrets/", require_POST(self.secrets_page), "secrets"),
            page("<str:session_id>/end/", either(self.end_one), "end"),
        ]

    def _url_name(self, name: str) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}_{name}"

    def _url(self, name: str, *args: str, **parameters: str) -> str:
        url = reverse(f"{self.admin_site.name}:{self._url_name(name)}", args=args)
        return f"{url}?{urlencode(parameters)}" if parameters else url

    # --- Pages -----------------------------------------------------------------------------

    @_told
    def list_page(self, request: HttpRequest) -> HttpResponse:
        """Sessions that a search and filters let through, page by page."""
        inventory, now = Inventory(), aware(session.now())
        text = request.GET.get("q", "").strip()
        if _LIKE_A_KEY.search(text) and not (
            _ID_PREFIX.fullmatch(text) or text.startswith("user:")
        ):
            # Not shown again, and out of the address.
            text = _("That may be a session key, which is a secret. Search for a session's id.")
            self.message_user(request, text, messages.WARNING)
            return HttpResponseRedirect(self._url("changelist"))
        if _ID.fullmatch(text.lower()):
            return HttpResponseRedirect(self._url("change", text.lower()))
        search = self._search(request, text, now)
        sessions: list[SessionInfo] = []
        cursor = ""
        if not search.problem:
            try:
                sessions, cursor = inventory.list(
                    cursor=request.GET.get("cursor", ""),
                    limit=PER_PAGE,
                    within=_WITHIN,
                    **search.filters,
                )
            except CannotList as error:
                search.problem = told(error)
            except ValueError:
                search.problem = _("This page of the list is not there. Begin with the first.")
        shown = self._shown(request, sessions, now)
        return self._render(
            request,
            "list",
            title=capfirst(self.opts.verbose_name_plural),
            now=now,
            search=search,
            query=text,
            per_page=PER_PAGE,
            end_user_url=self._url("end_user", quote(search.user)) if search.user else "",
            sessions=shown,
            selects=[
                (name, label, options, request.GET.get(name, ""))
                for name, label, options in (
                    ("who", _("Whose"), _WHO),
                    ("state", _("State"), _STATES),
                    ("idle", _("Last use"), _IDLE),
                )
            ],
            more_url=self._url("changelist", **search.parameters, cursor=cursor) if cursor else "",
            first_url=self._url("changelist", **search.parameters)
            if "cursor" in request.GET
            else "",
            user_link=self._user_url(request, search.user),
            choice_urls=[
                (name, self._url("changelist", user=pk)) for pk, name in search.choices.items()
            ],
            can_end_any=self.has_end_permission(request)
            and any(not each.is_own and not each.info.is_expired for each in shown),
        )

    @_told
    def overview_page(self, request: HttpRequest) -> HttpResponse:
        """Numbers, charts, and how the store is."""
        inventory, now = Inventory(), aware(session.now())
        problem, figures = "", None
        try:
            figures = overview(inventory, now)
        except (CannotList, StorageUnavailable) as error:
            problem = told(error)
        counted, tally_problem = None, ""
        try:
            counted = history(now)
        except DatabaseError as error:
            tally_problem = str(error)
        diagnosis = diagnose(inventory.storage)
        return self._render(
            request,
            "overview",
            title=_("Overview of sessions"),
            now=now,
            figures=figures,
            problem=problem,
            history=counted,
            tally_problem=tally_problem,
            diagnosis=diagnosis,
            facts={name: text.split("\n") for name, text in summary(diagnosis).items()},
            findings=[(each, LEVELS[each.level], in_words(each)) for each in diagnosis.findings],
            self_expiring=inventory.storage.self_expiring,
        )

    @_told
    def detail_page(self, request: HttpRequest, session_id: str) -> HttpResponse:
        """One session: its clocks, its client and, for who may see it, what is in it."""
        inventory = Inventory()
        found = self._find(inventory, session_id)
        if found is None:
            return self._not_found(request)
        return self._detail(request, inventory, found)

    @_told
    def secrets_page(self, request: HttpRequest, session_id: str) -> HttpResponse:
        """The same with its secrets, noted in the admin's history."""
        if not self.has_secrets_permission(request):
            raise PermissionDenied
        inventory = Inventory()
        found = self._find(inventory, session_id)
        if found is None:
            return self._not_found(request)
        LogEntry.objects.create(
            user_id=cast("Any", request.user.pk),
            content_type=ContentType.objects.get_for_model(Session, for_concrete_model=False),
            object_id=found.id,
            object_repr=found.id,
            action_flag=CHANGE,
            change_message="Looked at its secrets.",
        )
        return self._detail(request, inventory, found, reveals=True)

    def _detail(
        self,
        request: HttpRequest,
        inventory: Inventory,
        found: SessionInfo,
        *,
        reveals: bool = False,
    ) -> HttpResponse:
        now = aware(session.now())
        (shown,) = self._shown(request, [found], now)
        tree: list[Node] | None = None
        problem = ""
        if self.has_data_permission(request):
            try:
                data = inventory.data(found.id)
                redactor = Redactor(settings.SECRET_NAMES, reveals=reveals)
                tree = None if data is None else redactor.tree(data)
            except UnreadablePayload as reason:
                problem = told(reason)
        return self._render(
            request,
            "detail",
            title=_("Session %(id)s") % {"id": found.id[:SHORT_ID]},
            now=now,
            session=shown,
            clocks=_clocks(found, now),
            user_link=self._user_url(request, found.user_id),
            sessions_of_user=self._url("changelist", user=found.user_id) if found.user_id else "",
            end_user_url=self._url("end_user", quote(found.user_id)) if found.user_id else "",
            can_see_data=self.has_data_permission(request),
            can_reveal=self.has_secrets_permission(request) and not reveals,
            tree=tree,
            problem=problem,
        )

    # --- Ending ----------------------------------------------------------------------------

    @_for_enders
    def end_one(self, request: HttpRequest, session_id: str) -> HttpResponse:
        """Ask whether to end a session; do it on a POST."""
        inventory = Inventory()
        found = self._find(inventory, session_id)
        if found is None:
            return self._not_found(request)
        if request.method != "POST":
            return self._ask(
                request,
                title=_("End this session?"),
                sessions=[found],
                action=_("End this session"),
                back=self._url("change", found.id),
            )
        self._end_each(request, inventory, [found.id])
        return HttpResponseRedirect(self._url("changelist"))

    @_for_enders
    def end_selected(self, request: HttpRequest) -> HttpResponse:
        """Ask whether to end the sessions that were chosen in the list; do it if that was told."""
        inventory = Inventory()
        ids = list(dict.fromkeys(filter(_ID.fullmatch, request.POST.getlist("id"))))[:PER_PAGE]
        back = self._url("changelist")
        if not ids:
            self.message_user(request, _("No session was chosen."), messages.WARNING)
            return HttpResponseRedirect(back)
        if "confirmed" not in request.POST:
            found = [info for id_ in ids if (info := inventory.get(id_))]
            if not found:
                return self._not_found(request)
            return self._ask(
                request,
                title=ngettext("End %(number)s session?", "End %(number)s sessions?", len(found))
                % {"number": len(found)},
                sessions=found,
                action=_("End these sessions"),
                back=back,
                fields=[("id", each.id) for each in found],
            )
        self._end_each(request, inventory, ids)
        return HttpResponseRedirect(back)

    @_for_enders
    def end_of_user(self, request: HttpRequest, user_id: str) -> HttpResponse:
        """Ask whether to end all sessions of a user, but for the reader's own; do it on a POST."""
        inventory, user_id = Inventory(), unquote(user_id)
        if not is_storable(user_id):
            return self._not_found(request)
        name = usernames([user_id]).get(user_id, user_id)
        back = self._url("changelist", user=user_id)
        if request.method != "POST":
            sessions, more = inventory.list(user=user_id, limit=_SHOWN, within=_WITHIN)
            return self._ask(
                request,
                title=_("End all sessions of %(user)s?") % {"user": name},
                sessions=sessions,
                number=count_of_user(inventory, user_id) if more else len(sessions),
                action=_("End all sessions of %(user)s") % {"user": name},
                back=back,
            )
        own = _own_ids(request)
        ended = self._end_many(
            request, lambda: inventory.end_all(user_id, but=own, most=_MOST_ENDED)
        )
        if ended:
            user = find_user(user_id)
            about = (Session, None, name) if user is None else (type(user), user.pk, str(user))
            self._log(request, CHANGE, ended, [about])
        return self._after(ended, _MOST_ENDED, back, request)

    @_for_enders
    def end_others(self, request: HttpRequest) -> HttpResponse:
        """Ask whether to end all sessions but the reader's; do it on a POST."""
        inventory, back = Inventory(), self._url("changelist")
        if request.method != "POST":
            number = None
            if inventory.storage.indexes_users:
                number = inventory.count()
            return self._ask(
                request,
                title=_("End all sessions but yours?"),
                number=number,
                action=_("End all but mine"),
                back=back,
                warning=_(
                    "Everybody else is logged out, and what visitors have in their sessions "
                    "is lost, as baskets of a shop."
                ),
            )
        own = _own_ids(request)
        ended = self._end_many(request, lambda: inventory.end_everything(but=own, most=_MOST_ENDED))
        if ended:
            about = (Session, None, _("all other sessions"))
            self._log(request, DELETION, ended, [about])
        return self._after(ended, _MOST_ENDED, back, request)

    @_for_enders
    def purge(self, request: HttpRequest) -> HttpResponse:
        """Ask whether to remove what has expired; do it on a POST."""
        inventory, back = Inventory(), self._url("overview")
        if request.method != "POST":
            return self._ask(
                request,
                title=_("Purge expired sessions?"),
                action=_("Purge expired sessions"),
                back=back,
                warning=_("They are over already: nobody is logged out."),
            )
        removed = self._end_many(request, lambda: inventory.purge(most=_MOST_PURGED), is_purge=True)
        if removed:
            about = (Session, None, _("expired sessions"))
            self._log(request, DELETION, removed, [about])
        return self._after(removed, _MOST_PURGED, back, request)

    # --- Steps of ending -------------------------------------------------------------------

    def _end_each(self, request: HttpRequest, inventory: Inventory, ids: Sequence[str]) -> None:
        """End some sessions, and say of how many that is true."""
        own, ended, gone, failed, reason = _own_ids(request), list[SessionInfo](), 0, 0, ""
        if any(id_ in own for id_ in ids):
            text = _("Your own session was left: log out to end it.")
            self.message_user(request, text, messages.WARNING)
        for number, id_ in enumerate(others := [id_ for id_ in ids if id_ not in own]):
            try:
                found = inventory.get(id_)
                if inventory.end(id_) and found:
                    ended.append(found)
                else:
                    gone += 1
            except StorageUnavailable as error:
                failed, reason = len(others) - number, told(error)
                break
        if ended:
            shown = self._shown(request, ended, aware(session.now()))
            about = [(Session, each.info.id, each.words) for each in shown]
            self._log(request, DELETION, None, about)
            self._say_ended(request, len(ended))
        if gone:
            text = ngettext(
                "%(number)s session had ended already.",
                "%(number)s sessions had ended already.",
                gone,
            )
            self.message_user(request, text % {"number": gone}, messages.WARNING)
        if failed:
            text = ngettext(
                "%(number)s session may still be live: %(reason)s",
                "%(number)s sessions may still be live: %(reason)s",
                failed,
            )
            text %= {"number": failed, "reason": isolated(reason)}
            self.message_user(request, text, messages.ERROR)

    def _end_many(
        self, request: HttpRequest, end: Callable[[], int], *, is_purge: bool = False
    ) -> int:
        """How many sessions an operation has ended, which is told with what went wrong."""
        try:
            number, problem = end(), ""
        except PartlyEnded as error:
            number, problem = error.ended, told(error.reason)
        if number or not problem:
            self._say_ended(request, number, is_purge=is_purge)
        if problem:
            text = _("Not all is done: %(reason)s") % {"reason": isolated(problem)}
            self.message_user(request, text, messages.ERROR)
        return number

    def _say_ended(self, request: HttpRequest, number: int, *, is_purge: bool = False) -> None:
        if is_purge:
            text = ngettext(
                "%(number)s expired session was purged.",
                "%(number)s expired sessions were purged.",
                number,
            )
        else:
            text = ngettext(
                "%(number)s session was ended.", "%(number)s sessions were ended.", number
            )
        level = messages.SUCCESS if number else messages.WARNING
        self.message_user(request, text % {"number": number}, level)

    def _after(self, number: int, most: int, back: str, request: HttpRequest) -> HttpResponse:
        """To where the reader came from, or to the same question again if there may be more."""
        if number < most:
            return HttpResponseRedirect(back)
        text = _("There may be more: one request does so many at most. Go on here.")
        self.message_user(request, text, messages.WARNING)
        return HttpResponseRedirect(request.path)

    def _log(
        self,
        request: HttpRequest,
        flag: int,
        number: int | None,
        objects: Iterable[tuple[type[Model], Any, str]],
    ) -> None:
        """Note in the admin's history that these were deleted, or so many sessions of them.

        As Django notes what it deletes, so that each reader of it is told in their language.
        """

        def message(words: str) -> str:
            if number is None:
                deleted = {"name": self.opts.verbose_name_raw, "object": words}
            else:
                deleted = {"name": "sessions", "object": str(number)}
            return json.dumps([{"deleted": deleted}])

        LogEntry.objects.bulk_create(
            LogEntry(
                user_id=cast("Any", request.user.pk),
                content_type=ContentType.objects.get_for_model(model, for_concrete_model=False),
                object_id=object_id,
                object_repr=words[:200],
                action_flag=flag,
                change_message=message(words),
            )
            for model, object_id, words in objects
        )

    # --- Steps of showing ------------------------------------------------------------------

    def _find(self, inventory: Inventory, session_id: str) -> SessionInfo | None:
        return inventory.get(session_id) if _ID.fullmatch(session_id) else None

    def _search(self, request: HttpRequest, text: str, now: datetime) -> Search:
        found = Search(
            parameters={
                name: value
                for name in ("q", "user", "who", "state", "idle")
                if (value := request.GET.get(name, "")) and not (name == "user" and text)
            }
        )
        who, state = request.GET.get("who", ""), request.GET.get("state", "")
        idle, user = request.GET.get("idle", ""), request.GET.get("user", "")
        filters: dict[str, Any] = {"expired": {"expired": True, "all": None}.get(state, False)}
        if who in {"users", "visitors"}:
            filters["logged_in"] = who == "users"
        if idle and idle in _IDLE:
            filters["idle_since"] = now - timedelta(hours=int(idle))
        if text:
            self._search_text(text, found, filters)
        elif user:
            found.user, found.user_name = user, usernames([user]).get(user, user)
        if found.user:
            filters["user"] = found.user
        found.filters = filters
        return found

    def _search_text(self, text: str, found: Search, filters: dict[str, Any]) -> None:
        """What somebody typed: a user, an address or the beginning of an id."""
        kind, colon, rest = text.partition(":")
        kind, wanted = (
            (kind, rest.strip()) if colon and kind in {"user", "ip", "id"} else ("", text)
        )
        if kind in {"", "ip"} and (ip := normal_ip(wanted)):
            filters["ip"] = ip
            return
        if kind in {"", "user"}:
            try:
                users = find_users(wanted)
            except DatabaseError as error:
                found.problem = _("The database of users does not answer: %s") % error
                return
            if len(users) > 1:
                found.choices = users
                found.problem = _("This means two users.")
            if users:
                found.user, found.user_name = next(iter(users.items()))
                return
        if kind in {"", "id"} and _ID_PREFIX.fullmatch(wanted.lower()):
            filters["id_prefix"] = wanted.lower()
            return
        found.problem = _(
            "This is no username or primary key of a user, no IP address, and not the beginning of "
            "a session's id, of which it takes 6 characters."
        )

    def _shown(
        self, request: HttpRequest, sessions: Sequence[SessionInfo], now: datetime
    ) -> list[Shown]:
        names, own = usernames(each.user_id for each in sessions), _own_ids(request)
        return [
            Shown(
                info=each,
                user=names.get(each.user_id, each.user_id) if each.user_id is not None else "",
                device=describe_device(each.user_agent),
                place=describe_place(each.ip),
                url=self._url("change", each.id),
                is_own=each.id in own,
            )
            for each in sessions
        ]

    def _user_url(self, request: HttpRequest, user_id: str | None) -> str:
        """The user's page in this admin; empty where there is none or it may not be seen."""
        users = get_user_model()
        registered = self.admin_site._registry.get(users)
        if not user_id or registered is None or not registered.has_view_permission(request):
            return ""
        opts = users._meta
        try:
            name = f"{self.admin_site.name}:{opts.app_label}_{opts.model_name}_change"
            return reverse(name, args=[quote(user_id)])
        except NoReverseMatch:
            return ""

    def _ask(
        self,
        request: HttpRequest,
        *,
        title: str,
        action: str,
        back: str,
        sessions: Sequence[SessionInfo] | None = None,
        number: int | None = None,
        fields: Sequence[tuple[str, str]] = (),
        warning: str = "",
    ) -> HttpResponse:
        """A page with one question; what it is about is all that a POST does."""
        now = aware(session.now())
        shown = self._shown(request, sessions or (), now)
        return self._render(
            request,
            "confirm",
            title=title,
            now=now,
            action=action,
            back=back,
            sessions=shown[:_SHOWN],
            others=max(0, (len(shown) if number is None else number) - _SHOWN),
            number=number,
            keeps_own=any(each.is_own for each in shown),
            is_nothing=sessions is not None and all(each.is_own for each in shown),
            fields=fields,
            warning=warning,
        )

    def _not_found(self, request: HttpRequest) -> HttpResponse:
        text = _("There is no live session with this id. It may have ended.")
        self.message_user(request, text, messages.WARNING)
        return HttpResponseRedirect(self._url("changelist"))

    def _failure(
        self, request: HttpRequest, title: str, reason: Exception, status: int
    ) -> HttpResponse:
        return self._render(request, "failure", status, title=title, reason=told(reason))

    def _render(
        self, request: HttpRequest, page: str, status: int = 200, **context: Any
    ) -> HttpResponse:
        request.current_app = self.admin_site.name
        return TemplateResponse(
            request,
            f"admin/django_sessionstores/{page}.html",
            {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "page": page,
                "can_end": self.has_end_permission(request),
                "list_url": self._url("changelist"),
                "overview_url": self._url("overview"),
                "end_selected_url": self._url("end_selected"),
                "end_others_url": self._url("end_others"),
                "purge_url": self._url("purge"),
                **context,
            },
            status=status,
        )


class Clock(msgspec.Struct, frozen=True, kw_only=True):
    """A moment in the life of a session."""

    name: str
    moment: datetime
    kind: str
    x: str
    """Where it is on the line of all of them."""


LINE: Final = 600
"""The length of that line."""


def _clocks(info: SessionInfo, now: datetime) -> list[Clock]:
    absolute = settings.limits.absolute
    moments = [
        ("created", _("Began, or logged in"), info.created),
        ("active", _("Last activity"), info.last_activity),
        ("now", _("Now"), now),
        ("expires", _("Ends if unused"), info.expires),
    ]
    if absolute:
        end = info.created + timedelta(milliseconds=absolute)
        moments.append(("absolute", _("Ends whatever is done"), end))
    moments.sort(key=lambda each: each[2])
    first, last = moments[0][2], moments[-1][2]
    return [
        Clock(name=name, moment=moment, kind=kind, x=position(moment, first, last, LINE))
        for kind, name, moment in moments
    ]


def _own_ids(request: HttpRequest) -> Collection[str]:
    """The ids of the session that the request came with, of an engine of this package."""
    return getattr(request.session, "stored_ids", ())
