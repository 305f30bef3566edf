"""One word for one thing: documentation, docstrings, messages and pages use the words of the field.

A reader who meets two words looks for two things. The words that this project has given up stand
here, each with what to write; `glossary.rst` has the words that it uses.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests import ROOT

PACKAGE: Final = ROOT / "django_sessionstores"
INSTEAD: Final = {
    r"former (?:engines?|backends?)|(?:engine|backend|session|worker)s? of before": "previous",
    r"adopt(?:s|ed|ing|ion)?": "migrate",
    r"take[sn]? over|took over|taking over": "migrate",
    r"(?:un)?seal(?:s|ed|ing)?": "encrypt, decrypt",
    r"(?<!round )(?<!round-)trips?": "round trip",
    r"IDLE_AGE|no such end": "idle timeout; disabled",
    r"renew(?:s|ed|ing|al)?": "rotate",
    r"(?:sessions?|logins?|stores?) (?:is|are|was|were|would be|has|have) (?:gone|over)": "has "
    "ended; lost; unreachable",
    r"graves?|bury|buries|buried": "tombstone",
    r"admissions?": "session limit",
    r"tally|tallies|tallied": "statistics",
    r"freshness|recent sign-ins?": "recent authentication",
    r"(?:is|are|was|were) away|out of reach": "unreachable",
    r"heeds?|heeded": "uses, ignores, accepts",
    r"looks? further": "load more",
    r"which sessions there are": "which sessions exist; list sessions",
    r"shall": "must, can, should",
    r"(?<!there )(?:is|are|was|were) no (?!longer\b|more\b)\w+": "is not a",
    r"int/float|is to be called": "a number; call",
}
"""Words, and what to write in their place."""

ALLOWED: Final = {
    "a replica takes over": "A failover, not a migration.",
    "The rest is no single part's": "Not about a kind of thing.",
    "another request has taken over": "A request continues what another one began.",
    "See `renew_if_closed`": "A connection to a database.",
    "whether `renew` has to look": "A connection to a database.",
}
"""Places in which a word has another meaning, and which one."""

AROUND: Final = 60
"""Characters on each side of a word in which a place of `ALLOWED` is looked for."""


def texts() -> Iterator[tuple[Path, str]]:
    """Yield what people read: pages, and the docstrings and other texts of modules."""
    for path in [*ROOT.glob("*.rst"), *ROOT.glob("docs/**/*.rst")]:
        if "_build" not in path.parts:
            yield path, path.read_text(encoding="utf-8")
    for path in PACKAGE.rglob("*.html"):
        yield path, path.read_text(encoding="utf-8")
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            # A name or a path is no prose.
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                yield path, node.value


def found(text: str) -> Iterator[tuple[str, str]]:
    """Yield each word that was given up in a text, with what stands around it, and what to write.

    Words in ``code font`` that are one name, such as ``RENEW_AFTER``, are not prose.
    """
    text = " ".join(text.split())
    for pattern, instead in INSTEAD.items():
        for match in re.finditer(rf"(?<![\w-])(?:{pattern})(?![\w-])", text, re.IGNORECASE):
            around = text[max(0, match.start() - AROUND) : match.end() + AROUND]
            if not any(place in around for place in ALLOWED):
                yield around, instead


def test_words_that_were_given_up_are_not_used() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: ... {around} ... Write: {instead}."
        for path, text in texts()
        for around, instead in found(text)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "sentence",
    [
        "Sessions of the former engine are kept.",
        "The session was adopted.",
        "Each payload is sealed.",
        "It costs one trip to the store.",
        "The session is gone.",
        "The store is away.",
        "The option is no dict.",
        "The clients of Redis shall not be asked.",
    ],
)
def test_a_word_that_was_given_up_is_found(sentence: str) -> None:
    assert len(list(found(sentence))) == 1


@pytest.mark.parametrize(
    "sentence", ["It costs one round trip.", "There is no session.", "It is no longer there."]
)
def test_a_word_of_the_field_is_not_taken_for_another(sentence: str) -> None:
    assert list(found(sentence)) == []


def test_each_place_with_another_meaning_exists() -> None:
    """A place that is not there any more would let a word through that is not the same."""
    everything = "\n".join(" ".join(text.split()) for _path, text in texts())
    assert [place for place in ALLOWED if place not in everything] == []
