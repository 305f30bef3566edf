"""The `ModelAdmin` of the session pages: their permissions and their addresses."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from ..exceptions import CannotList, StorageUnavailable
from ..models import Session
from .actions import run_action
from .detail_page import detail_page, secrets_page
from .end_pages import end_matching, end_of_user, end_one, end_others, end_selected, purge
from .list_page import list_page
from .overview_page import overview_page
from .page import Page

if TYPE_CHECKING:
    _Admin = admin.ModelAdmin[Session]
else:
    _Admin = admin.ModelAdmin


@admin.register(Session)
class SessionAdmin(_Admin):
    """The session pages of an admin site."""

    # --- Permissions -----------------------------------------------------------------------

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_end_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may end sessions and purge expired ones."""
        return request.user.has_perm("django_sessionstores.end_session")

    def has_export_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may export the list of sessions."""
        return request.user.has_perm("django_sessionstores.export_session")

    def has_data_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may see session data."""
        return request.user.has_perm("django_sessionstores.view_session_data")

    def has_secrets_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may see the secrets in session data as well as the rest."""
        return self.has_data_permission(request) and request.user.has_perm(
            "django_sessionstores.view_session_secrets"
        )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Session]:
        """Return an empty queryset, because the model does not have the sessions."""
        return Session._base_manager.none()

    # --- Addresses -------------------------------------------------------------------------

    def get_urls(self) -> list[URLPattern]:
        """Return the addresses of the session pages.

        The usual pages of a model are left out, because the model does not have the sessions.
        """

        def url(route: str, view: Callable[..., HttpResponseBase], name: str) -> URLPattern:
            return path(route, self.admin_site.admin_view(view), name=self.url_name(name))

        def end_view(answer: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
            return require_http_methods(["GET", "HEAD", "POST"])(self._view(answer, ends=True))

        return [
            url("", self._view(list_page), "changelist"),
            url("overview/", self._view(overview_page), "overview"),
            url("action/", require_POST(self._view(run_action)), "action"),
            url("end/", require_POST(self._view(end_selected, ends=True)), "end_selected"),
            url("end-matching/", end_view(end_matching), "end_matching"),
            url("end-others/", end_view(end_others), "end_others"),
            url("purge/", end_view(purge), "purge"),
            url("user/<str:user_id>/end/", end_view(end_of_user), "end_user"),
            url("<str:session_id>/change/", self._view(detail_page), "change"),
            url("<str:session_id>/secrets/", require_POST(self._view(secrets_page)), "secrets"),
            url("<str:session_id>/end/", end_view(end_one), "end"),
        ]

    def url_name(self, name: str) -> str:
        """Return the name of a page's address, as Django names those of a model."""
        return f"{self.opts.app_label}_{self.opts.model_name}_{name}"

    def _view(
        self, answer: Callable[..., HttpResponseBase], *, ends: bool = False
    ) -> Callable[..., HttpResponseBase]:
        """Return the view of a page, whose response ``answer`` returns.

        The user must have the permission to view sessions and, if the page ``ends`` sessions, the
        permission to end them. If the store does not answer, or the engine keeps no list of its
        sessions, the response is a page that says so.
        """

        @wraps(answer)
        def view(request: HttpRequest, /, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if not self.has_view_permission(request):
                raise PermissionDenied
            if ends and not self.has_end_permission(request):
                raise PermissionDenied
            page = Page(self, request)
            try:
                return answer(page, *args, **kwargs)
            except CannotList as error:
                return page.failure(_("These sessions cannot be listed"), error, 200)
            except StorageUnavailable as error:
                return page.failure(_("The store of sessions could not do this"), error, 503)

        return view
