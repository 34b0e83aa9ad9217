"""Fixtures of the acceptance tests."""

from keyrotation_pipeline_tests.acceptance.nights import night  # noqa: F401
