"""What storages around other storages do with each answer of those, as trees of text.

Each file has the trees of one storage; the module of the same room says how they are made. After a
change that was meant, ``python -m tests.storages.answers`` writes them anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.storages.answers import flows, layered, limited, migrating, registered, wrapper
from tests.storages.answers.common import Case

FOLDER: Final = Path(__file__).parent
CASES: Final[tuple[Case, ...]] = (
    *wrapper.cases(),
    *layered.cases(),
    *registered.cases(),
    *registered.cases_in_keys(),
    *limited.cases(),
    *migrating.cases(),
    *flows.cases(),
)
FILES: Final = tuple(dict.fromkeys(case.file for case in CASES))


def text_of(file: str) -> str:
    """Return what the file of a storage should have."""
    return "\n".join(f"# {case.title}\n\n{case.tree()}" for case in CASES if case.file == file)


def trees_of(file: str) -> dict[str, str]:
    """Return the trees that a file has, by their titles."""
    text = (FOLDER / f"{file}.txt").read_text()
    parts = [each.partition("\n\n") for each in text.removeprefix("# ").split("\n# ")]
    return {title: tree.rstrip("\n") + "\n" for title, _, tree in parts}
