"""Composition root of the Dagster code location: `defs` is what Dagster loads."""

import dagster as dg

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly import host
from keyrotation_pipeline.defs.code_location import build_definitions, configured_definitions
from keyrotation_pipeline.defs.partitions import OWN
from keyrotation_pipeline.defs.resources import PipelineResource
from keyrotation_pipeline.demo.home import SHARDS, TABLES
from keyrotation_pipeline.errors import HomeError


def declared_definitions() -> dg.Definitions:
    """The definitions for the configuration that is found; without one, the demo's, whose runs say what is missing."""
    host.harden_process()
    try:
        found = configured_definitions(settings.load(), OWN)
    except HomeError:
        found = build_definitions(TABLES, SHARDS, PipelineResource())
    # Starting a process takes longer than a step.
    return dg.Definitions.merge(found, dg.Definitions(executor=dg.in_process_executor))


defs = declared_definitions()
