"""The URLs of a project that has none: the cases call their views themselves."""

urlpatterns: list[object] = []
