"""A place for each package's tests: its unpacked source, and an environment to run them in."""

import hashlib
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import django

from tests.packages.suites import Suite
from tests.sdists import ROOT, unpack_sdist
from tests.services import run, skip_or_fail

CACHE = ROOT / ".cache" / "packages"
TOOLS = ("pytest>=9", "pytest-django>=4.11", "pytest-xdist>=3.8")


def source(suite: Suite) -> Path:
    """Return the folder with the package and its tests. Skips if it cannot be fetched."""
    folder = CACHE / f"{suite.package}-{suite.version}"
    if suite.from_repository and not folder.is_dir():
        skip_or_fail(
            f"The source distribution of {suite.package} lacks modules that its tests import. "
            f"Put a checkout of its repository, tag {suite.version}, into {folder}."
        )
    folder = unpack_sdist(suite.package, suite.version, CACHE)
    for name, text in suite.files.items():
        folder.joinpath(name).write_text(text, encoding="utf-8")
    return folder


def python(suite: Suite) -> Path:
    """Return the interpreter of the package's environment; make it if it is not there.

    It holds the package, what its tests need, the Django that runs here, and this project, whose
    changes need no installation. Skips if something cannot be fetched.
    """
    uv = shutil.which("uv")
    if uv is None:
        skip_or_fail("uv is not installed. Install it with: python -m pip install uv")
    folder = source(suite)
    extras = f"[{suite.extras}]" if suite.extras else ""
    requirements = [
        *("--editable", f"{ROOT}[redis]", f"{folder}{extras}"),
        *(f"django=={django.get_version()}", *TOOLS, *suite.requires),
    ]
    # Another version, Python or requirement is another environment.
    digest = hashlib.sha256("\n".join([sys.version, *requirements]).encode()).hexdigest()[:12]
    environment = CACHE / "environments" / f"{suite.package}-{digest}"
    executable = Path("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not environment.is_dir():
        environment.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=environment.parent) as aside:
            made = Path(aside) / "environment"
            try:
                run(uv, "venv", "--quiet", "--python", sys.executable, str(made))
                run(
                    *(uv, "pip", "install", "--quiet", "--python", str(made / executable)),
                    *requirements,
                )
            except RuntimeError as error:
                skip_or_fail(f"No environment for {suite.package} could be made. {error}")
            with suppress(OSError):  # Another run was faster.
                made.rename(environment)
    return environment / executable
