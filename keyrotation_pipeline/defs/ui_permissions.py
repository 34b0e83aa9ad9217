"""What people may do in the UI: launch, stop and switch, and nothing else, whatever a release of Dagster adds.

What Dagster shows comes from runs and from the ledger, so nobody reports a result or a materialization, wipes one,
deletes a run with its own, adds a partition, sets the cursor of a sensor or changes the pools. And no sensor or
schedule is evaluated there: a dry run executes it, with any cursor, so that it records and mails once more.
"""

from collections.abc import Mapping

from dagster._core.workspace.context import WorkspaceProcessContext, WorkspaceRequestContext
from dagster._core.workspace.permissions import PermissionResult, Permissions
from dagster_webserver.webserver import DagsterWebserver
from graphene import Schema
from graphql import GraphQLError, GraphQLObjectType

BY_HAND = frozenset({
    Permissions.LAUNCH_PIPELINE_EXECUTION,
    Permissions.LAUNCH_PIPELINE_REEXECUTION,
    Permissions.LAUNCH_PARTITION_BACKFILL,
    Permissions.CANCEL_PARTITION_BACKFILL,
    Permissions.TERMINATE_PIPELINE_EXECUTION,
    Permissions.START_SCHEDULE,
    Permissions.STOP_RUNNING_SCHEDULE,
    Permissions.EDIT_SENSOR,
    Permissions.RELOAD_REPOSITORY_LOCATION,
    Permissions.RELOAD_WORKSPACE,
})  # fmt: skip
NOT_BY_HAND = PermissionResult(enabled=False, disabled_reason="Nobody does this by hand here")
# What Dagster's queries, too, lead to: of a sensor's next tick as of a dry run.
EVALUATION = ("DryRunInstigationTick", "evaluationResult")


class RequestContext(WorkspaceRequestContext):
    """Dagster's permissions that are in `BY_HAND`; its HTTP routes and GraphQL both ask for them."""

    @property
    def permissions(self) -> Mapping[str, PermissionResult]:
        """What is allowed for the whole workspace."""
        return _by_hand(super().permissions)

    def permissions_for_location(self, *, location_name: str) -> Mapping[str, PermissionResult]:
        """What is allowed for the assets of one code location."""
        return _by_hand(super().permissions_for_location(location_name=location_name))

    def is_shutdown_supported(self, name: str) -> bool:  # noqa: ARG002  Dagster's
        """False: whoever may reload the code may not end its server, which twice in a row ends `keyrotation up`."""
        return False


def _by_hand(permissions: Mapping[str, PermissionResult]) -> Mapping[str, PermissionResult]:
    return {name: result if name in BY_HAND else NOT_BY_HAND for name, result in permissions.items()}


class ProcessContext(WorkspaceProcessContext):
    """A workspace whose requests all have these permissions."""

    def create_request_context(self, source: object | None = None) -> WorkspaceRequestContext:
        """The context of one request."""
        return RequestContext(
            instance=self.instance,
            current_workspace=self.get_current_workspace(),
            process_context=self,
            version=self.version,
            source=source,
            read_only=self.read_only,
        )


class Webserver(DagsterWebserver[ProcessContext, WorkspaceRequestContext]):
    """Dagster's web server, in whose GraphQL nothing evaluates a sensor or schedule."""

    def build_graphql_schema(self) -> Schema:
        """Dagster's schema; the fields and types are all there, since the UI's queries name them."""
        schema = super().build_graphql_schema()
        name, field = EVALUATION
        tick = schema.graphql_schema.type_map[name]
        assert isinstance(tick, GraphQLObjectType)  # noqa: S101  narrows
        tick.fields[field].resolve = _refuse_evaluation
        return schema


def _refuse_evaluation(*_: object, **__: object) -> None:
    raise GraphQLError("No sensor or schedule is evaluated here; the daemon does it, and its ticks show the results")
