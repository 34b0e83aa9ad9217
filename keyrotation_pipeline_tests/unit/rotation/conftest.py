"""Each audit that these tests make follows the explored protocol."""

from keyrotation_pipeline_tests.protocol.traces_check import audits_follow_the_protocol  # noqa: F401
