"""The migration of sessions from previous backends."""
