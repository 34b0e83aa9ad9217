"""The pipeline as a Dagster resource: it holds the path of a configuration, and no secret."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import dagster as dg
from dagster._core.remote_origin import RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorStatus

from keyrotation_pipeline import settings
from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.assembly import backups
from keyrotation_pipeline.assembly.alerts import access_audit, alert_channels, flag_sources
from keyrotation_pipeline.assembly.backups import RestoredStages, open_backups
from keyrotation_pipeline.assembly.home import heartbeat_store, keep_embedded_server
from keyrotation_pipeline.assembly.keystores import signing_key
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.backups.catalog import BackupContext
from keyrotation_pipeline.backups.rehearsal import rehearse
from keyrotation_pipeline.defs.partitions import OWN, Naming
from keyrotation_pipeline.defs.triggers import refuse_configured
from keyrotation_pipeline.incidents.access import AccessAudit
from keyrotation_pipeline.incidents.alerts import Channels
from keyrotation_pipeline.model.incidents import Incident
from keyrotation_pipeline.model.progress import Report
from keyrotation_pipeline.model.request_events import Rehearsed
from keyrotation_pipeline.monitoring.scheduler_health import AUTOMATION, OPTIONAL, SCHEDULES
from keyrotation_pipeline.ports.backups import ManifestSigner, RecoveryKey
from keyrotation_pipeline.ports.heartbeats import Heartbeats
from keyrotation_pipeline.ports.incidents import FlagSource
from keyrotation_pipeline.ports.pipeline import Pipeline

# Not as plain as "pipeline", since other people's projects have it, too; the parameters that take it have this name.
RESOURCE = "keyrotation"


@dataclass(frozen=True)
class PipelineResource:
    """Opens the ports that a configuration names, for each use.

    Not a `ConfigurableResource`: anybody who launches a run can set the fields of one, and the path of a configuration
    decides where keys are read and backups go. Secrets are looked up when the pipeline is opened, and stay in the
    process that uses them.

    Args:
        config_file: absolute path; None looks for a file as the command line does.
        naming: the names of the pipeline's assets in the project.
    """

    config_file: str | None = None
    naming: Naming = OWN

    def definition(self) -> dg.ResourceDefinition:
        """The resource that every asset, check, sensor and schedule gets; it refuses runs with a configuration."""

        def provide(context: dg.InitResourceContext) -> PipelineResource:
            if context.run is not None:
                refuse_configured(context.run)
            return self

        return dg.ResourceDefinition(provide, config_schema={}, description="The ports that keyrotation.toml names.")

    @contextmanager
    def open(self, actor: str) -> Iterator[Pipeline]:
        """Opens the pipeline; `actor` is whom the audit names.

        Raises:
            KeyRotationError: no configuration, a wrong one, or no database.
        """
        with open_pipeline(self._declared(), actor=actor) as pipeline:
            yield pipeline

    @contextmanager
    def open_backups(self, actor: str) -> Iterator[BackupContext]:
        """Opens the pipeline with its backups; raises as `open`."""
        with open_backups(self._declared(), actor=actor) as site:
            yield site

    @contextmanager
    def recovery_key(self) -> Iterator[RecoveryKey]:
        """Opens the key of `[recovery]`.

        Raises:
            RecoveryKeyError, ConfigurationError: no usable key is named.
        """
        with backups.recovery_key(self._declared()) as key:
            yield key

    def rehearse(self, site: BackupContext, key: RecoveryKey, report: Report) -> Rehearsed:
        """Rehearses the next rotation on the newest backup; see `backups.rehearsal.rehearse`."""
        return rehearse(site, key, RestoredStages(self._declared()), None, report)

    def record_heartbeat(self, name: str, context: dg.SensorEvaluationContext | None = None) -> None:
        """Records for `keyrotation status` that a sensor or schedule ran; never fails its tick.

        Args:
            context: of a sensor, which also sees what is switched off.
        """
        with suppress(Exception):
            stopped, expected, gone = set[str](), set[str](), set[str]()
            if context is not None:
                ours = {self.naming.name(each): each for each in AUTOMATION}
                here = cast("dg.RepositoryDefinition", context.repository_def)
                names = [each.name for each in here.schedule_defs] + [each.name for each in here.sensor_defs]
                known = {ours[name] for name in names if name in ours}
                stopped = {ours[name] for name in _switched_off(context) if name in ours} & known
                expected, gone = (known & SCHEDULES.keys()) - stopped, set(OPTIONAL) - known
            self.heartbeats().record(name, SystemClock().now(), stopped, expected, gone)

    def keep_server(self) -> None:
        """Keeps an embedded database running for as long as this process evaluates sensors."""
        keep_embedded_server(self._declared())

    def heartbeats(self) -> Heartbeats:
        """The store of heartbeats."""
        return heartbeat_store(self._declared())

    def channels(self, opened: Pipeline) -> Channels:
        """Every channel for alerts."""
        return alert_channels(self._declared(), opened)

    def signer(self) -> ManifestSigner:
        """The pipeline's own key."""
        return signing_key(self._declared())

    def flag_sources(self) -> tuple[FlagSource, ...]:
        """The sources of incident flags in addition to our own table."""
        return flag_sources(self._declared())

    def access_audit(self, incident: Incident, opened: Pipeline) -> AccessAudit:
        """Who read what during an incident; see `access_audit`."""
        return access_audit(self._declared(), incident, opened)

    def has_recovery_key(self) -> bool:
        """Whether `[recovery]` names a key."""
        return self._declared().recovery.names_a_key

    def _declared(self) -> settings.Settings:
        return settings.load(Path(self.config_file) if self.config_file else None)


def _switched_off(context: dg.SensorEvaluationContext) -> Iterator[str]:
    """The sensors and schedules of this code location, not of others on the instance, that are switched off."""
    location, repository, here = context.code_location_origin, context.repository_name, None
    if location is not None and repository is not None:
        here = RemoteRepositoryOrigin(location, repository).get_selector_id()
    states = context.instance.all_instigator_state(
        repository_selector_id=here, instigator_statuses={InstigatorStatus.STOPPED}
    )
    return (state.instigator_name for state in states)


PipelineParameter = dg.ResourceParam[PipelineResource]
