"""The pipeline as a Dagster component, for somebody's own project: `dg scaffold defs keyrotation_pipeline.KeyRotation`.

Every `dg` command in that environment imports this file, so the pipeline is imported only where definitions are built.
"""

import re

import dagster as dg
from pydantic import Field

# The characters that Dagster allows in the name of a job.
PREFIX_PART = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)


class KeyRotationScaffolder(dg.Scaffolder):
    """Writes `defs.yaml`, with the folder's name as the prefix, so that no name collides with one of the project."""

    def scaffold(self, request: dg.ScaffoldRequest) -> None:
        """Scaffolds the component for `dg scaffold defs`."""
        dg.scaffold_component(request, {"config": "keyrotation.toml", "key_prefix": request.target_path.name})


@dg.scaffold_with(KeyRotationScaffolder)
class KeyRotation(dg.Component, dg.Resolvable, dg.Model):
    """Rotates application-level encryption keys in PostgreSQL: assets, checks, jobs, schedules and sensors."""

    config: str = Field("keyrotation.toml", description="Path of keyrotation.toml, from the root of the project.")
    key_prefix: str | list[str] = Field(
        "",
        description="The first parts of every asset key: security/rotation, or a list. The names of jobs, schedules, "
        "sensors, groups, pools and partitions then begin with security_rotation_. Empty: no prefix.",
        examples=["security/rotation"],
    )

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Builds everything that Dagster shows of the pipeline.

        Raises:
            ConfigurationError: the configuration or the prefix is wrong; one sentence that says what to correct.
        """
        from keyrotation_pipeline import settings  # noqa: PLC0415
        from keyrotation_pipeline.defs.code_location import configured_definitions  # noqa: PLC0415
        from keyrotation_pipeline.defs.partitions import Naming  # noqa: PLC0415
        from keyrotation_pipeline.errors import ConfigurationError  # noqa: PLC0415

        path = context.project_root / self.config
        if wrong := [part for part in self._prefix() if not PREFIX_PART.fullmatch(part)]:
            raise ConfigurationError(
                f"the attribute key_prefix of KeyRotation has the part {wrong[0]!r}; write letters, digits and "
                "underscores, beginning with a letter, and a slash between parts"
            )
        if not path.exists():
            raise ConfigurationError(
                f"{path} is not there; run `keyrotation init --config {path}`, or correct the attribute config of "
                "KeyRotation"
            )
        if len(context.component_tree.get_all_components(of_type=KeyRotation)) > 1:
            raise ConfigurationError(
                "this project has two KeyRotation components; keep one, and give another database a project of its own"
            )
        return configured_definitions(settings.load(path), Naming(self._prefix()))

    def _prefix(self) -> tuple[str, ...]:
        if isinstance(self.key_prefix, str):
            return tuple(self.key_prefix.split("/")) if self.key_prefix else ()
        return tuple(self.key_prefix)
