"""The migration of sessions from previous backends: one at its next request, or all at once."""
