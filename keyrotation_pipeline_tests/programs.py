"""Programs of others that some tests need: without one these are skipped, but in CI, which installs it, they fail.

`.ci/run` sets `KEYROTATION_TEST_PROGRAMS`; `CI` counts as well.
"""

import os
import shutil
from pathlib import Path

import pytest

WANTED = bool(os.environ.get("CI") or os.environ.get("KEYROTATION_TEST_PROGRAMS"))


def needs(program: str, package: str) -> pytest.MarkDecorator:
    """The mark of a test that needs a program.

    Args:
        package: of Debian, which has it.
    """
    missing = shutil.which(program) is None
    return pytest.mark.skipif(missing and not WANTED, reason=f"no {program} here: apt-get install {package}")


needs_aws = needs("aws", "awscli")
needs_chromium = needs("chromium", "chromium")
needs_kubectl = needs("kubectl", "kubernetes-client")
# The library by which a process whose user id has no name gets one.
needs_nss_wrapper = pytest.mark.skipif(
    not WANTED and not any(Path("/usr/lib").glob("*/libnss_wrapper.so")),
    reason="no libnss_wrapper.so here: apt-get install libnss-wrapper",
)
