"""The command for session backends, and the real users whose sessions are in the same store."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth import SESSION_KEY

from django_sessionstores.testing import new_users
from django_sessionstores.testing.cases.backend import Backend
from django_sessionstores.testing.cases.catalog import CASES
from django_sessionstores.testing.cases.running import Outcome, run_cases
from django_sessionstores.testing.cases.users import new_user

ENDS = ("a-new-password-ends-other-sessions", "a-deleted-user-is-signed-out")
"""Cases in which all sessions of a user end."""


@pytest.mark.authoritative
def test_the_users_of_a_site_stay_signed_in(
    engine: Any, user: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one who has the primary key of a user of the command, which is in another database."""
    session = engine.SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session.save()
    user_id = user.pk
    for name in ENDS:
        user.pk = user_id
        user.save()
        monkeypatch.setattr(new_users, "new_user", lambda **_: user)
        (result,) = run_cases(Backend(settings.SESSION_ENGINE), [CASES[name]])
        assert result.outcome is Outcome.PASSED
    assert engine.SessionStore(session.session_key).get(SESSION_KEY) == str(user_id)


@pytest.mark.engines("memory")
def test_users_have_primary_keys_that_no_real_user_has(engine: Any, user: Any) -> None:
    """Some backends of other packages keep sessions by user, and do not tell sites apart."""
    keys = [new_user().pk for _ in range(2)]
    assert min(keys) > 2**30
    assert keys[0] != keys[1]
