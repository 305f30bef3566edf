"""The URLconf of a simulated site: its views are called directly."""

urlpatterns: list[object] = []
