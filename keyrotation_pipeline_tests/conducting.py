"""Somebody who does what the conductor asks: sensors evaluated as the daemon would, and runs in this process."""

from dataclasses import dataclass, field

import dagster as dg

from keyrotation_pipeline.defs.resources import PipelineResource

CONDUCTOR = "rotation_conductor"


@dataclass
class Conducted:
    """Definitions on an instance."""

    definitions: dg.Definitions
    instance: dg.DagsterInstance
    resource: PipelineResource
    cursors: dict[str, str] = field(default_factory=dict, init=False)

    def tick(self, sensor: str = CONDUCTOR) -> dg.SensorResult | dg.SkipReason:
        """Evaluate a sensor, by its name without a prefix, and do what it asks of the instance."""
        definition = self.definitions.get_repository_def().get_sensor_def(self.resource.naming.name(sensor))
        context = dg.build_sensor_context(
            instance=self.instance,
            repository_def=self.definitions.get_repository_def(),
            resources={"keyrotation": self.resource},
            cursor=self.cursors.get(sensor),
        )
        result = definition(context)
        assert isinstance(result, dg.SensorResult | dg.SkipReason)
        if context.cursor is not None:  # whether it did anything or not
            self.cursors[sensor] = context.cursor
        if isinstance(result, dg.SensorResult):
            self.cursors |= {} if result.cursor is None else {sensor: result.cursor}
            for wanted in result.dynamic_partitions_requests or ():
                if isinstance(wanted, dg.AddDynamicPartitionsRequest):
                    self.instance.add_dynamic_partitions(wanted.partitions_def_name, list(wanted.partition_keys))
                else:
                    for key in wanted.partition_keys:
                        self.instance.delete_dynamic_partition(wanted.partitions_def_name, key)
            for event in result.asset_events:
                self.instance.report_runless_asset_event(event)
        return result

    def run(self, wanted: dg.RunRequest) -> dg.ExecuteInProcessResult:
        """Do one run that the conductor asked for."""
        job = self.definitions.resolve_job_def(str(wanted.job_name))
        if wanted.asset_selection is not None:
            checks = None if wanted.asset_check_keys is None else set(wanted.asset_check_keys)
            job = job.get_subset(asset_selection=set(wanted.asset_selection), asset_check_selection=checks)
        return job.execute_in_process(
            instance=self.instance,
            partition_key=wanted.partition_key,
            tags={**wanted.tags, "dagster/sensor_name": self.resource.naming.name(CONDUCTOR)},  # as the daemon does
            raise_on_error=False,
        )

    def conduct(self) -> list[str | None]:
        """Tick and run until the conductor asks for the evidence of a finished walk; the jobs that it asked for."""
        jobs: list[str | None] = []
        while True:
            result = self.tick()
            assert isinstance(result, dg.SensorResult), result.skip_message
            for wanted in result.run_requests or ():
                if wanted.job_name == self.resource.naming.name("evidence"):
                    return jobs
                jobs.append(wanted.job_name)
                done = self.run(wanted)
                assert done.success, sentences_of(done)


def sentences_of(done: dg.ExecuteInProcessResult) -> list[str | None]:
    """Why the steps of a run failed."""
    failures = [event.step_failure_data.user_failure_data for event in done.all_events if event.is_step_failure]
    return [failure.description if failure else None for failure in failures]
