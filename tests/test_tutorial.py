"""The tutorial does what it says, if a reader types it as it stands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT
from tests.services import HOST, accepts, free_port, wait_until

PAGE = ROOT / "docs" / "tutorial.rst"
PASSWORD = "correct horse battery staple"
STEP = re.compile(
    r"^In ``\w+`` of ``(?P<changed>[\w/.]+)``, replace this line::\n\n(?P<old>(?: {4}.*\n)+)\n"
    r"by .*::\n\n(?P<new>(?: {4}.*\n)+)"
    r"|^At the end of ``(?P<extended>[\w/.]+)``, add.*\n\n"
    r"\.\. code-block:: python\n\n(?P<more>(?: {4}.*\n|\n)+)"
    r"|^\.\. code-block:: (?:python|html\+django)\n\n"
    r" {4}(?:# |\{# )(?P<written>[\w/.]+)(?: #\})?\n(?P<text>(?: {4}.*\n|\n)+)"
    r"|^    \$ (?P<command>.+)\n(?P<output>(?:    [^$\n].*\n)*)",
    re.MULTILINE,
)
BY_HAND = ("python -m venv", ". .venv", "python -m pip", "cd ", "python manage.py runserver")
"""Commands that the test does in a way of its own: the packages are installed already."""


class Reader:
    """Somebody who works through the page, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done: list[str] = []
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTEST", "DJANGO_", "SESSIONSTORES"))
        }
        self.environment = kept | {
            "PYTHONPATH": str(ROOT),
            "DJANGO_SUPERUSER_PASSWORD": PASSWORD,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}",
        }

    @property
    def project(self) -> Path:
        return self.folder / "shop"

    def follow(self, text: str) -> None:
        """Do what this part of the page says, step by step."""
        for step in STEP.finditer(text):
            if step["changed"]:
                self.replace(step["changed"], step["old"].strip(), textwrap.dedent(step["new"]))
            elif step["extended"]:
                path = self.project / step["extended"]
                before = path.read_text(encoding="utf-8")
                path.write_text(before + textwrap.dedent(step["more"]), encoding="utf-8")
            elif step["written"]:
                path = self.project / step["written"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(textwrap.dedent(step["text"]), encoding="utf-8")
            else:
                self.type(step["command"], textwrap.dedent(step["output"]))
            self.done.append(next(filter(None, step.groups())))

    def replace(self, name: str, old: str, new: str) -> None:
        path = self.project / name
        before = path.read_text(encoding="utf-8").replace("'", '"')
        assert before.count(f" {old}\n") == 1, old
        path.write_text(before.replace(f" {old}\n", f" {new}"), encoding="utf-8")

    def type(self, command: str, shown: str) -> None:
        """Run a command, and compare what it prints with the page, except for ids and times."""
        if command.startswith(BY_HAND):
            return
        if "createsuperuser" in command:
            command += " --no-input"
        started = (self.project / "manage.py").exists()
        ended = subprocess.run(
            shlex.split(command),
            cwd=self.project if started else self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert _alike(shown) in _alike(ended.stdout), command


def _alike(output: str) -> str:
    """Return an output without what differs between two runs."""
    output = re.sub(r"\b[0-9a-f]{12}\b", "ID", output)
    return " ".join(re.sub(r"\d+ (?:s|min) ago", "AGO", output).split())


class Browser:
    """A device of the user."""

    def __init__(self, address: str) -> None:
        requests = pytest.importorskip("requests")
        self.address = address
        self._session: Any = requests.Session()
        self._session.headers["User-Agent"] = "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0"

    def open(self, path: str = "/", **fields: str) -> str:
        """Open a page, or send its form with these fields; the page that follows."""
        page = self._session.get(self.address + path, timeout=60)
        if fields:
            token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
            assert token is not None, page.text
            data = {"csrfmiddlewaretoken": token[1], **fields}
            page = self._session.post(page.url, data=data, timeout=60)
        page.raise_for_status()
        text: str = page.text
        return text

    def sign_in(self) -> str:
        return self.open(username="ada", password=PASSWORD)


@contextmanager
def serving(reader: Reader) -> Iterator[str]:
    """Yield where the site answers. It is started anew after a change, which it does itself."""
    address = f"{HOST}:{free_port()}"
    command = [sys.executable, "manage.py", "runserver", "--noreload", address]
    with (reader.folder / "log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=reader.project, env=reader.environment, stdout=log, stderr=log
        )
        try:
            wait_until(lambda: accepts(int(address.rpartition(":")[2])), "the site answers")
            yield f"http://{address}"
        finally:
            server.terminate()
            server.wait()


def test_the_tutorial_as_it_is_written(tmp_path: Path) -> None:
    """Sign in on two devices, see both, and sign out the other one on the first."""
    pytest.importorskip("requests")
    text = PAGE.read_text(encoding="utf-8")
    first, second, third, last = re.split(
        r"\nBe on two devices\n|\nLet users see their devices\n|\nSign out the others\n", text
    )
    reader = Reader(tmp_path)
    reader.follow(first)
    with serving(reader) as address:
        here, there = Browser(address), Browser(address)
        assert "Visits since you signed in: 1<" in here.sign_in()
        assert "Visits since you signed in: 2<" in here.open()
        assert "Visits since you signed in: 1<" in there.sign_in()
        reader.follow(second)
    reader.follow(third)
    with serving(reader) as address:
        here.address = there.address = address
        assert "Others that are signed in: 1<" in here.open()
        devices_path = "/accounts/devices/"
        devices = here.open(devices_path)
        assert "Firefox on Linux" in devices
        assert "Sign out all other devices…" in devices
        assert "1 other device was signed out." in here.open(
            f"{devices_path}end-others/", yes="yes"
        )
        assert "<h1>Sign in</h1>" in there.open()
        assert "Others that are signed in: 0<" in here.open()
        reader.follow(last)
        assert "<h1>Sign in</h1>" in here.open()
    assert len(reader.done) == text.count("    $ ") + text.count("code-block:: python\n") + (
        text.count("code-block:: html") + text.count("replace this line::")
    ), "A step of the page was not understood."
