"""How the documentation is built: ``sphinx-build -n -W docs docs/_build``. No network is used."""

import sys
import tomllib
from pathlib import Path

from django.conf import settings

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE / "_extensions"), str(ROOT)]

# What is described is imported, which takes settings, though none in particular.
settings.configure(SECRET_KEY="for the documentation")  # noqa: S106

_metadata = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
project = _metadata["name"]
author = _metadata["authors"][0]["name"]
copyright = author  # noqa: A001 - the name that Sphinx reads
release = version = _metadata["version"]

extensions = ["sphinx.ext.autodoc", "package_facts", "settings_reference", "name_links"]
exclude_patterns = ["_build"]
# Docstrings write code in single backticks.
default_role = "literal"
autodoc_typehints = "none"
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = f"{project} {release}"
html_show_copyright = False
# Blocks without a language are commands, output and drawings.
highlight_language = "none"
pygments_style = "a11y-high-contrast-light"
