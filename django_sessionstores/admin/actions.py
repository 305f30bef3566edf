"""The actions of the menu above the list."""

from __future__ import annotations

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.utils.translation import gettext as _

from .end_pages import end_selected
from .export import export
from .page import Page


def run_action(page: Page) -> HttpResponseBase:
    """Run the action that was selected in the menu, if the user may."""
    action, model_admin = page.request.POST.get("action", ""), page.model_admin
    if action in {"end", "end_matching"} and not model_admin.has_end_permission(page.request):
        raise PermissionDenied
    if action == "export" and not model_admin.has_export_permission(page.request):
        raise PermissionDenied
    match action:
        case "end":
            return end_selected(page)
        case "end_matching":
            return HttpResponseRedirect(page.url_from_list("end_matching"))
        case "export":
            return export(page)
    page.message(_("No action selected."), messages.WARNING)
    return HttpResponseRedirect(page.list_url)
