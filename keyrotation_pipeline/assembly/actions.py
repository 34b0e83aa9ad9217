"""Lists every action that a request can ask for, with the procedures that carry them out."""

from collections.abc import Mapping

from keyrotation_pipeline.backups.destruction import DESTROY
from keyrotation_pipeline.model.requests import RequestAction
from keyrotation_pipeline.ports.actions import Action
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.policy import POLICY
from keyrotation_pipeline.rotation.reconcile import RECONCILE
from keyrotation_pipeline.rotation.replace_key import REPLACE_KEY
from keyrotation_pipeline.rotation.rollback import ROLLBACK
from keyrotation_pipeline.rotation.rotate import ROTATE

ACTIONS: Mapping[RequestAction, Action[Pipeline]] = {
    each.name: each for each in (ROTATE, ROLLBACK, RECONCILE, DESTROY, POLICY, REPLACE_KEY)
}
