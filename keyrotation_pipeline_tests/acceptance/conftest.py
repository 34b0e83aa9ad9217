"""Fixtures of the acceptance tests."""

from keyrotation_pipeline_tests.acceptance.nights import new_desk, night  # noqa: F401
