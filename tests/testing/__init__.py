"""Tests of what the package offers for tests: the conformance suite and the simulation."""
