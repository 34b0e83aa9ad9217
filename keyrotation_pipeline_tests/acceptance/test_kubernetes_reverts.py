"""A rotation by the command in a cluster whose controllers undo it: each refusal says what to do."""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

import pytest

from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.keyring import PRIMARY_VARIABLE
from keyrotation_pipeline_tests.acceptance.test_cli import Clinic, clinic, officers  # noqa: F401 - fixtures
from keyrotation_pipeline_tests.acceptance.test_kubernetes import FIRST, SECOND, TABLES, fleet  # noqa: F401 - a fixture
from keyrotation_pipeline_tests.fleets import TestFleet
from keyrotation_pipeline_tests.key_places import KubernetesPlace

Undo = Callable[[], None]


@contextmanager
def controller(undo: Undo) -> Iterator[None]:
    """Inside, something corrects the cluster again and again."""
    ended = Event()

    def run() -> None:
        while not ended.wait(0.2):
            undo()

    thread = Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def keeps(fleet: TestFleet, manager: str, entry: str, text: str) -> Undo:  # noqa: F811
    """What a controller does whose source has this entry."""

    def undo() -> None:
        if fleet.secrets.entries().get(entry) != text:
            fleet.secrets.overwrite({entry: text}, f"{fleet.secrets.name}?fieldManager={manager}")

    return undo


def repair(fleet: TestFleet, sentence: str) -> None:  # noqa: F811
    """Type what a sentence says, with the real kubectl."""
    command = re.findall(r"`(kubectl .+?)`", sentence)[-1]
    environment = {**os.environ, "KUBECONFIG": str(fleet.cluster.kubeconfig)}
    subprocess.run(shlex.split(command), env=environment, check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.external_kubectl
@pytest.mark.extended
def test_a_rotation_whose_changes_are_undone_says_by_whom_and_continues(
    clinic: Clinic,  # noqa: F811
    fleet: TestFleet,  # noqa: F811
) -> None:
    place, secrets, old = KubernetesPlace(fleet), fleet.secrets, base64_of(clinic.key)
    clinic.path.write_text(f'database.url = "{clinic.database_url}"\n{place.configuration()}{TABLES}{clinic.roster}')
    with fleet.controlled():
        clinic.run("init")
        request = clinic.approved_request(*clinic.officers)

        with controller(keeps(fleet, "kustomize-controller", PRIMARY_VARIABLE, "v1")):
            clinic.run("rotate", request, expect=1)
        assert f"entry {PRIMARY_VARIABLE} of Secret {secrets.name} names v1, not v2" in clinic.error
        assert "(field manager kustomize-controller); have it leave" in clinic.error
        assert "`keyrotation docs flux`" in clinic.error
        repair(fleet, clinic.error)
        clinic.run("rotate", request, "--through", "zero_old_rows_proof")

        with controller(keeps(fleet, "argocd-controller", FIRST, old)):
            clinic.run("rotate", request, expect=1)
        assert f"entry {FIRST} of Secret {secrets.name} is back (field manager argocd-controller)" in clinic.error
        assert "`keyrotation docs argo-cd`" in clinic.error
        sentence = clinic.error
        assert json.loads(clinic.run("status", "--json"))["rotation"]["blocked_by"] in sentence
        repair(fleet, sentence)
        clinic.run("rotate", request)
    assert set(secrets.entries()) == {SECOND, PRIMARY_VARIABLE, "PEPPER"}
