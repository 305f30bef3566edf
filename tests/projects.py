"""Projects that a test writes, whose own tests run in a pytest of their own."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

from tests import ROOT

_OURS = ("PYTEST", "DJANGO_", "SESSIONSTORES")
"""What the names of variables begin with that are for the tests of the package."""


def run_tests(folder: Path, files: Mapping[str, str], *arguments: str) -> str:
    """Write the files into the folder, run its tests, and return what pytest has written."""
    for name, text in files.items():
        (folder / name).write_text(textwrap.dedent(text), encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", *arguments],
        cwd=folder,
        env=kept | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return ended.stdout + ended.stderr
