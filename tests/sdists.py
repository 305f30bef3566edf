"""Source distributions of other packages, which carry the tests that their wheels leave out.

They are not ours to ship, so they are fetched into a folder that git ignores, once per version.
"""

import sys
import tarfile
import tempfile
from pathlib import Path

from tests.services import alone, run, skip_or_fail

ROOT = Path(__file__).resolve().parent.parent


def unpack_sdist(package: str, version: str, cache: Path) -> Path:
    """Return the unpacked source distribution, below ``cache``; fetch it if it is not there.

    Skips the test if it cannot be fetched, and fails it where everything must run.
    """
    target = cache / f"{package}-{version}"
    if not target.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with alone(cache):  # pip makes an environment to read the metadata, which takes long.
            if not target.is_dir():
                _fetch(package, version, target)
    return target


def _fetch(package: str, version: str, target: Path) -> None:
    # Aside, so that a broken download leaves no half folder.
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        try:
            run(
                *(sys.executable, "-m", "pip", "download", f"{package}=={version}"),
                *("--no-deps", "--no-binary", package, "--dest", folder),
            )
        except RuntimeError as error:
            skip_or_fail(f"The tests of {package} could not be fetched. {error}")
        (archive,) = Path(folder).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            # Refuses members outside the folder, in Pythons that can.
            tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
            tar.extractall(folder)
        (source,) = (path for path in Path(folder).iterdir() if path.is_dir())
        source.rename(target)
