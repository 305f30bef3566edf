"""What somebody who is woken up by a message needs: the setting to look at, and what to do."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests import ROOT

OPERATIONS = ROOT / "django_sessionstores" / "operations"
SETTING = re.compile(
    r"[A-Z]{2,}(_[A-Z]+)+|MIDDLEWARE|CACHES|DATABASES|full_name\(|\bNAME\b|message_of\(|maxmemory"
    r"|manage\.py|rs\.status"  # Some are cured by a command alone.
)
ELSEWHERE = {
    *("sessionstores.E022", "sessionstores.E026"),
    *(f"sessionstores.{number}" for number in ("W024", "W030", "W037", "W038", "W042")),
}
"""Their cure is in the words of the store, or of the caller: other tests look at these."""


def faults() -> Iterator[tuple[str, ast.Call, str]]:
    """Yield the id of each error and warning, the call that makes it, and the code around it."""
    for file in (*OPERATIONS.glob("checks/*.py"), *OPERATIONS.glob("doctor/*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
                    ("checks.Error", "checks.Warning")
                ):
                    (id_,) = [each.value for each in node.keywords if each.arg == "id"]
                    yield ast.literal_eval(id_), node, ast.unparse(function)


@pytest.mark.parametrize("fault", list(faults()), ids=lambda fault: fault[0])
def test_a_message_names_the_setting_and_the_cure(fault: tuple[str, ast.Call, str]) -> None:
    id_, call, around = fault
    if id_ in ELSEWHERE:
        return
    assert any(each.arg == "hint" for each in call.keywords), "It does not say what to do."
    assert SETTING.search(ast.unparse(call)) or SETTING.search(around), "It names no setting."
    words = [ast.unparse(each) for each in (*call.args, *call.keywords)]
    assert not any(re.match(r"(hint=)?f?['\"]", each) for each in words), "It has no translation."
