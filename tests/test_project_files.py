"""What forges and readers of the repository use says the same as the package."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from tests import ROOT

WORKFLOWS = ROOT / ".github" / "workflows"
VERSIONS = r"^Framework :: Django :: (\d.*)$", r"^Programming Language :: Python :: (\d\.\d+)$"

# An archive of the sources does not have them.
in_checkout = pytest.mark.skipif(not WORKFLOWS.exists(), reason="There is no folder .github here")


# The line of equals signs between the two sides also underlines a heading of seven characters.
MERGE_MARKERS = r"^(<{7}|\|{7}|>{7})( |$)"


def merge_markers(folder: Path, *options: str) -> str:
    """Return the lines of the text files below a folder that an unfinished merge has left."""
    # grep says 0 if it finds lines, and 1 if it finds none.
    command = ["git", "grep", "-nI", "--no-color", *options, "-E", MERGE_MARKERS]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert answer.returncode in {0, 1}, answer.stderr
    return answer.stdout


def load(name: str) -> Any:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def project() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        data: dict[str, Any] = tomllib.load(file)["project"]
    return data


@in_checkout
def test_ci_tests_each_version_that_the_package_is_said_to_support() -> None:
    """A version that nobody tests is not supported."""
    matrix = load(".github/workflows/ci.yml")["jobs"]["versions"]["strategy"]["matrix"]
    classifiers = "\n".join(project()["classifiers"])
    django, python = (re.findall(each, classifiers, re.MULTILINE) for each in VERSIONS)
    assert (matrix["django"], matrix["python"]) == (django, python)
    left_out = {(each["python"], each["django"]) for each in matrix["exclude"]}
    # The oldest Python has the oldest Django only.
    assert left_out == {(python[0], each) for each in django[1:]}


@in_checkout
@pytest.mark.parametrize(
    "name",
    [
        *(f".github/workflows/{each}.yml" for each in ("ci", "release")),
        *(f".github/ISSUE_TEMPLATE/{each}.yml" for each in ("bug", "config", "feature")),
        ".readthedocs.yaml",
    ],
)
def test_files_of_forges_can_be_read(name: str) -> None:
    """A forge ignores a file that it cannot read, or shows nothing."""
    data = load(name)
    assert isinstance(data, dict)
    for job in data.get("jobs", {}).values() if "workflows" in name else ():
        assert job["runs-on"]
        assert all("run" in step or "uses" in step for step in job["steps"])


@in_checkout
def test_only_the_job_that_publishes_may_prove_who_it_is() -> None:
    """Code of a dependency that a test runs must not be able to publish."""
    for path in WORKFLOWS.glob("*.yml"):
        workflow = load(f".github/workflows/{path.name}")
        assert workflow["permissions"] == {"contents": "read"}
        for name, job in workflow["jobs"].items():
            assert ("permissions" in job) == (name == "publish")
            if name == "publish":
                assert job["environment"] == "release"
                assert not any("run" in step for step in job["steps"])


def test_the_changelog_has_the_headings_of_its_format() -> None:
    """Programs read it, and so do people who upgrade."""
    text = (ROOT / "docs" / "changelog.rst").read_text(encoding="utf-8")
    versions = re.findall(r"^(.+)\n-{3,}$", text, re.MULTILINE)
    assert all(re.fullmatch(r"Unreleased|\d+\.\d+\.\d+ \(20\d\d-\d\d-\d\d\)", v) for v in versions)
    kinds = set(re.findall(r"^(.+)\n~{3,}$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert versions
    assert kinds


def test_files_that_texts_name_exist() -> None:
    """A reader follows them, also from the page of a forge."""
    pages = [*ROOT.glob("*.rst"), *(ROOT / ".github").rglob("*.*"), *ROOT.glob("docs/**/*.rst")]
    for page in pages:
        for name in re.findall(r"\b[A-Z_]{5,}\.rst\b", page.read_text(encoding="utf-8")):
            assert (ROOT / name).exists(), (page, name)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="This is not a checkout")
def test_no_file_has_the_markers_of_a_merge() -> None:
    """No linter looks into pages, catalogs and templates."""
    assert merge_markers(ROOT) == ""


@pytest.mark.skipif(which("git") is None, reason="git is not installed")
@pytest.mark.parametrize("marker", ["<<<<<<< HEAD", "||||||| 1a2b3c4", ">>>>>>> branch", ">>>>>>>"])
def test_a_marker_of_a_merge_is_found(tmp_path: Path, marker: str) -> None:
    (tmp_path / "page.rst").write_text(f"Signals\n=======\n\n{marker}\n", encoding="utf-8")
    assert merge_markers(tmp_path, "--no-index") == f"page.rst:4:{marker}\n"


@pytest.mark.skipif(which("git") is None, reason="git is not installed")
def test_a_heading_and_a_prompt_are_not_taken_for_markers(tmp_path: Path) -> None:
    text = "Signals\n=======\n\n>>> 1 << 7\n<<<<<<<<<<\n"
    (tmp_path / "page.rst").write_text(text, encoding="utf-8")
    assert merge_markers(tmp_path, "--no-index") == ""
