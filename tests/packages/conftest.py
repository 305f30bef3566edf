"""Which of the tests with other packages run."""

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes many minutes, unless it is asked for."""
    asked = config.option.markexpr
    names = set()
    if "all_packages" not in asked:
        names.add("all_packages")
    if not (config.getoption("--packages") or "packages" in asked):
        names.add("packages")
    rest = {item for item in items if any(item.get_closest_marker(name) for name in names)}
    if rest:
        config.hook.pytest_deselected(items=list(rest))
        items[:] = [item for item in items if item not in rest]
