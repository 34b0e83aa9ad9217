"""Fixtures of the acceptance tests."""

from keyrotation_pipeline_tests.acceptance.browsing import browser, page  # noqa: F401
from keyrotation_pipeline_tests.acceptance.nights import new_desk, night  # noqa: F401
from keyrotation_pipeline_tests.backup_sites import backup_officers  # noqa: F401
from keyrotation_pipeline_tests.lost_clinics import forger, lost, machine, rekeyed_machine  # noqa: F401
