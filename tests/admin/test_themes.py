"""The pages of the admin under other looks of it: not broken."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests import ROOT
from tests.services import skip_or_fail

# A process of its own for each: a theme replaces the admin's site when it is installed.
SCRIPT = """
import sys

import django
from django.conf import settings

from tests import settings as tested

theme = sys.argv[1]
settings.configure(
    **{
        **{name: getattr(tested, name) for name in dir(tested) if name.isupper()},
        "INSTALLED_APPS": [theme, *tested.INSTALLED_APPS],
        "DATABASES": {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        "SESSION_ENGINE": "django_sessionstores.backends.db",
        "ALLOWED_HOSTS": ["testserver"],
        "MIDDLEWARE": [
            "django_sessionstores.middleware.SessionMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
        ],
    }
)
django.setup()

from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.test import Client

from django_sessionstores.backends.db import SessionStore

call_command("migrate", verbosity=0)
session = SessionStore()
session["color"] = "aubergine"
session.save()
client = Client()
client.force_login(get_user_model().objects.create_superuser("root"))
pages = "/admin/django_sessionstores/session/"
for page, content in {
    pages: session.session_id[:12],
    f"{pages}?q={session.session_id[:8]}": session.session_id[:12],
    f"{pages}overview/": "<svg",
    f"{pages}{session.session_id}/change/": "aubergine",
    f"{pages}{session.session_id}/end/": "csrfmiddlewaretoken",
}.items():
    answer = client.get(page)
    text = answer.content.decode()
    assert answer.status_code == 200, (page, answer.status_code)
    assert content in text, page
    assert f"/static/{theme}/" in text, page  # Inside of the theme's frame.
answer = client.post(f"{pages}{session.session_id}/end/", {"confirmed": "yes"}, follow=True)
assert answer.status_code == 200, answer.status_code
assert not SessionStore().exists(session.session_key)
print("all is well")
"""


@pytest.mark.parametrize("theme", ["unfold", "jazzmin"])
def test_every_page_is_whole_and_a_session_is_ended(theme: str) -> None:
    """The pages are neither empty nor broken if a project has changed the look of the admin."""
    if find_spec(theme) is None:
        skip_or_fail(f"django-{theme} is not installed. Install it with: uv sync --group tests")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, theme],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        check=False,
    )
    assert done.stdout == "all is well\n", done.stderr
