"""Whether a rotation may begin, as an asset to look at; `request` decides for itself."""

import dagster as dg

from keyrotation_pipeline.defs.names import Naming
from keyrotation_pipeline.defs.owners import DATABASE_ADMINISTRATORS
from keyrotation_pipeline.defs.performing import actor_of
from keyrotation_pipeline.defs.refusals import refusals
from keyrotation_pipeline.defs.resources import PipelineParameter
from keyrotation_pipeline.model.status import Light, Readiness
from keyrotation_pipeline.monitoring.readiness import readiness

_COLUMNS = [dg.TableColumn(name, "string") for name in ("light", "check", "value", "do")]


def rotation_readiness_asset(naming: Naming) -> dg.AssetsDefinition:
    """The asset `rotation_readiness`."""

    @dg.asset(
        key_prefix=naming.prefix,
        group_name=naming.name("inventory"),
        kinds={"postgres", "gpg"},
        owners=[DATABASE_ADMINISTRATORS],
    )
    def rotation_readiness(
        context: dg.AssetExecutionContext, keyrotation: PipelineParameter
    ) -> dg.MaterializeResult[None]:
        """Everything that a rotation needs, each with a light: keys, backups, officers, tables, room, time."""
        with refusals(), keyrotation.open_backups(actor_of(context)) as site:
            found = readiness(site, keyrotation.channels().in_words)
        return dg.MaterializeResult(
            metadata={
                "ready": found.ready,
                "summary": dg.MetadataValue.md(_summary(found)),
                "checks": dg.MetadataValue.table(_records(found), schema=dg.TableSchema(columns=_COLUMNS)),
            }
        )

    return rotation_readiness


def _records(found: Readiness) -> list[dg.TableRecord]:
    ordered = [check for light in (Light.RED, Light.AMBER, Light.GREEN) for check in found.of(light)]
    return [
        dg.TableRecord({"light": str(each.light), "check": each.name, "value": each.value, "do": each.do})
        for each in ordered
    ]


def _summary(found: Readiness) -> str:
    begun = "A rotation may be requested." if found.ready else "**A request is refused.**"
    open_points = [*found.of(Light.RED), *found.of(Light.AMBER)]
    lines = [f"- {each.light}: {each.value}. {each.do}" for each in open_points]
    return "\n".join([begun, "", *lines])
