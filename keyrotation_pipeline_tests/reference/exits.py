"""The exit codes."""

from collections.abc import Iterator

from keyrotation_pipeline.cli import _INTERRUPTED
from keyrotation_pipeline.cli.status import Service
from keyrotation_pipeline_tests.reference.markdown import code, page_of, table

_NAGIOS = {
    Service.OK: "nothing is wrong",
    Service.WARNING: "something will need attention, as `status` lists it under `Warning`",
    Service.CRITICAL: "something is overdue, blocked or stale, as `status` lists it under `Attention`",
    Service.UNKNOWN: "the status cannot be taken; the line says why",
}

_FOUND_WRONG = """
`status --exit-code` ends with 1 where anything is overdue, blocked or stale. `verify`, `restore-database`, `rehearse`,
`preflight`, `backup` and `audit verify` end with 1 after their work where what they found is wrong. `scan --compare
FILE --fail-on new` ends with 3 where something new is encrypted.
"""


def page() -> str:
    """The page."""
    return page_of("Exit codes", _parts())


def _parts() -> Iterator[str]:
    yield table(
        ("code", "means"),
        [
            ("0", "done; or there is nothing to do"),
            ("1", "refused or failed: one sentence on stderr says why, and what to type"),
            ("2", "wrong usage: an unknown command or option, or a value that it does not take"),
            (str(_INTERRUPTED), "interrupted by Ctrl-C: whatever was committed stays, and the same command continues"),
        ],
    )
    yield _FOUND_WRONG
    yield "`status --nagios` ends with the codes of Nagios and Icinga:"
    yield table(("code", "state", "means"), [(str(int(each)), code(each.name), _NAGIOS[each]) for each in Service])
