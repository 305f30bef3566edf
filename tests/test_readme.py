"""The steps of README keep users signed in, if a reader pastes them, and so does the way back."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path

import pytest

from tests import ROOT
from tests.test_tutorial import Reader

USING = (ROOT / "README.rst").read_text(encoding="utf-8").split(".. using-begins")[1]
STEPS, BACK = USING.split(".. using-ends")[0].split("**To go back**")
BLOCK = re.compile(r"^ {3}\.\. code-block:: python\n\n((?: {7}.*\n|\n)+)", re.MULTILINE)
COMMAND = re.compile(r"(?:^ {7}|``)python (manage\.py [^`\n]+)", re.MULTILINE)
ENTRY = re.compile(r'^ {4}(?:# before: ("[^"]+")\n {4})?("[^"]+"),', re.MULTILINE)

BROWSER = """
    import os
    import sys

    import django

    os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
    django.setup()
    from django.contrib.auth.models import User
    from django.test import Client

    for name in sys.argv[2:]:
        client = Client(SERVER_NAME="localhost")
        if sys.argv[1] == "sign-in":
            client.force_login(User.objects.create_superuser(name))
            print(client.cookies["sessionid"].value)
        else:
            client.cookies["sessionid"] = name
            print(client.get("/admin/").status_code)
"""


def pasted(settings: str, code: str) -> str:
    """Return settings with what a block of the page adds to them or replaces."""
    if "SESSION_ENGINE" in code:
        return f"{settings}\n{code}"
    entries = ENTRY.findall(code)
    for (old, name), (_old, following) in pairwise(entries):
        if name not in settings:
            assert settings.count(old or following) == 1, name
            new = name if old else f"{name},\n    {following}"
            settings = settings.replace(old or following, new)
    return settings


class Site(Reader):
    """A site that the reader has, with Django's default for sessions."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.type("django-admin startproject shop", "")
        self._path = self.project / "shop" / "settings.py"
        (self.project / "browser.py").write_text(textwrap.dedent(BROWSER), encoding="utf-8")

    @property
    def settings(self) -> str:
        return self._path.read_text(encoding="utf-8").replace("'", '"')

    @settings.setter
    def settings(self, text: str) -> None:
        self._path.write_text(text, encoding="utf-8")

    def run(self, command: str) -> list[str]:
        """Run a command of the page; the words that it prints."""
        ended = self._run(command)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout.split()

    def check(self, command: str) -> None:
        """Run the checks of the page. Django has findings of its own in a new project."""
        ended = self._run(command)
        found = ended.stdout + ended.stderr
        assert "System check identified" in found
        assert "(sessionstores.I001)" in found
        assert not re.search(r"sessionstores\.[EW]", found), found

    def _run(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *shlex.split(command)],
            cwd=self.project,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def sign_in(self, *names: str) -> list[str]:
        """Sign users in; their session keys."""
        return self.run(f"browser.py sign-in {' '.join(names)}")

    def visit(self, *keys: str) -> list[str]:
        """Open a page that needs a login with each of the keys; the status of each."""
        return self.run(f"browser.py visit {' '.join(keys)}")


@pytest.mark.slow
def test_the_steps_keep_users_signed_in_and_can_be_undone(tmp_path: Path) -> None:
    """One user comes back at once, the other one later, and the steps are undone in between."""
    site = Site(tmp_path)
    site.run("manage.py migrate")
    soon, late = site.sign_in("soon", "late")
    blocks = [textwrap.dedent(block) for block in BLOCK.findall(STEPS)]
    assert len(blocks) == 3
    app, middleware, engine = blocks
    with_app = pasted(site.settings, app)
    new = pasted(pasted(with_app, middleware), engine)
    migrate, check, move = COMMAND.findall(STEPS)
    (remove,) = COMMAND.findall(BACK)

    site.settings = new
    site.run(migrate)
    site.check(check)
    assert site.visit(soon) == ["200"]
    site.settings = with_app
    assert site.visit(soon, late) == ["302", "200"]

    site.settings = new
    assert site.visit(soon) == ["200"]
    assert "Moved 1" in " ".join(site.run(move))
    without_old = new.replace('    "django.contrib.sessions",\n', "")
    site.settings = re.sub("^SESSIONSTORES = .+$", "", without_old, flags=re.MULTILINE)
    assert site.visit(soon, late) == ["200", "200"]

    site.settings = with_app
    site.run(remove)
