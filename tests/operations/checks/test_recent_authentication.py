"""Checks of the page where users log in again."""

from __future__ import annotations

import pytest
from django.contrib import admin
from django.contrib.auth.views import LoginView
from django.test import override_settings
from django.urls import include, path
from django.utils.decorators import method_decorator
from django.views.generic import View

from django_sessionstores.accounts import bound_session_required, recent_authentication_required
from django_sessionstores.operations.checks.recent_authentication import check_recent_authentication
from tests.operations.checks.configurations import ids

# The URLconf of this module's tests.
urlpatterns = [
    path("open/", LoginView.as_view(), name="open"),
    path("shut/", LoginView.as_view(redirect_authenticated_user=True), name="shut"),
    path("admin/", admin.site.urls),
]


@pytest.mark.parametrize(
    ("login_url", "options", "found"),
    [
        ("open", {}, []),
        ("shut", {}, ["W018"]),
        ("/shut/?x=1", {}, ["W018"]),
        ("admin:login", {}, ["W018"]),
        ("shut", {"RECENT_AUTHENTICATION_URL": "open"}, []),
        ("open", {"RECENT_AUTHENTICATION_URL": "shut"}, ["W018"]),
        ("shut", {"RECENT_AUTHENTICATION_AGE": None}, []),
        (
            "open",
            {"RECENT_AUTHENTICATION_AGE": None, "RECENT_AUTHENTICATION_URL": "nowhere"},
            ["W019"],
        ),
        (
            "open",
            {"RECENT_AUTHENTICATION_AGE": None, "RECENT_AUTHENTICATION_URL": "shut"},
            ["W018"],
        ),
        ("nowhere", {}, ["W019"]),
        ("/not/in/the/urlconf/", {}, []),
        ("https://id.example/shut/", {}, []),
        ("open", {"RECENT_AUTHENTICATION_AGE": 0}, []),
    ],
)
def test_a_page_to_sign_in_again(login_url, options, found):
    """A browser that is sent to and fro shows an error of its own, and nothing is in the log."""
    with override_settings(
        ROOT_URLCONF=__name__,
        LOGIN_URL=login_url,
        SESSIONSTORES={"RECENT_AUTHENTICATION_AGE": 600} | options,
    ):
        assert ids(check_recent_authentication) == [f"sessionstores.{id_}" for id_ in found]


class Invoices(View):
    """A class with an age of its own."""

    @method_decorator(recent_authentication_required(age=60))
    def dispatch(self, request, *args, **kwargs):
        raise NotImplementedError


class URLs:
    """A URLconf with some views beside those of this module."""

    def __init__(self, *views):
        self.urlpatterns = [
            *urlpatterns,
            path("more/", include([path(f"{place}/", view) for place, view in enumerate(views)])),
        ]


def view(request):
    raise NotImplementedError


@pytest.mark.parametrize(
    ("decorated", "found"),
    [
        (view, []),
        (recent_authentication_required(view), []),
        (recent_authentication_required(age=60)(view), ["W018"]),
        (Invoices.as_view(), ["W018"]),
        (bound_session_required(view), ["W018"]),
    ],
    ids=["view", "age of the settings", "own age", "class", "bound session"],
)
def test_a_view_with_an_age_of_its_own_needs_the_page(decorated, found):
    """W018: the views of a site may ask although the settings have no age."""
    with override_settings(ROOT_URLCONF=URLs(decorated), LOGIN_URL="shut", SESSIONSTORES={}):
        assert ids(check_recent_authentication) == [f"sessionstores.{id_}" for id_ in found]
