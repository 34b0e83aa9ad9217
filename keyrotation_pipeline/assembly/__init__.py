"""Opens ports from settings: the only place that knows which adapter implements which port."""

from keyrotation_pipeline.adapters.process import harden_process
from keyrotation_pipeline.adapters.secret_directories import wipe_abandoned_keys

__all__ = ["harden_process", "wipe_abandoned_keys"]
