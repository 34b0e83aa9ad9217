"""Something else than AWS answers with status 200, as a captive portal or a proxy does: each caller has a sentence."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler

import pytest

from keyrotation_pipeline.errors import (
    AlertError,
    BackupError,
    IncidentError,
    KeyRotationError,
    KeyStoreUnavailableError,
)
from keyrotation_pipeline_tests.buckets import CREDENTIALS, REGION
from keyrotation_pipeline_tests.contract.test_alert_channels import ALERT, serving
from keyrotation_pipeline_tests.fakes import FakeClock

# The first is XML, too, the second is not.
PAGES = [pytest.param(b"<html>Log in</html>", id="page"), pytest.param(b"<html><p>Log in", id="other page")]


@pytest.fixture
def portal(page: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)

    class Portal(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    with serving(Portal) as port:
        yield f"http://127.0.0.1:{port}"


def _alert(url: str) -> None:
    from keyrotation_pipeline.adapters.alerts.sns import SnsTopic  # noqa: PLC0415

    SnsTopic(f"arn:aws:sns:{REGION}:123456789012:t", url).deliver(ALERT)


def _alarms(url: str) -> None:
    from keyrotation_pipeline.adapters.aws_incidents import CloudWatchAlarms  # noqa: PLC0415

    CloudWatchAlarms({"a": "insider"}, REGION, url).raised()


def _logs(url: str) -> None:
    from keyrotation_pipeline.adapters.aws_incidents import CloudTrailFiles  # noqa: PLC0415

    now = datetime(2026, 11, 25, tzinfo=UTC)
    list(CloudTrailFiles("b", region_name=REGION, endpoint_url=url).records(now, now))


def _secret(work: str) -> Callable[[str], None]:
    def ask(url: str) -> None:
        from keyrotation_pipeline.adapters.keystores.secrets_manager import SecretsManager  # noqa: PLC0415

        aws = SecretsManager(FakeClock(), REGION, url)
        works: dict[str, Callable[[], object]] = {
            "read": lambda: aws.read("s"),
            "describe": lambda: aws.describe("s"),
            "tag": lambda: aws.tag("s", {"a": "b"}),
        }
        works[work]()

    return ask


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    ("ask", "failure"),
    [
        pytest.param(_alert, AlertError, id="alert"),
        pytest.param(_alarms, IncidentError, id="alarms"),
        pytest.param(_logs, IncidentError, id="logs"),
        pytest.param(_secret("read"), KeyStoreUnavailableError, id="secret"),
        pytest.param(_secret("describe"), KeyStoreUnavailableError, id="facts of a secret"),
        pytest.param(_secret("tag"), KeyStoreUnavailableError, id="change of a secret"),
    ],
)
def test_a_page_is_no_answer(portal: str, ask: Callable[[str], None], failure: type[KeyRotationError]) -> None:
    with pytest.raises(failure, match=r"\((NotFromAwsError|500)\)") as caught:
        ask(portal)
    assert type(caught.value) is failure


@pytest.mark.parametrize("page", [b"<html><p>Log in"])
def test_what_no_bucket_says_is_one_sentence(portal: str) -> None:
    from keyrotation_pipeline.adapters.backups.s3 import Bucket, S3Bucket  # noqa: PLC0415

    with pytest.raises(BackupError, match="cannot be listed"):
        S3Bucket(Bucket("b", region_name=REGION, endpoint_url=portal), FakeClock()).names()


def test_a_setting_of_aws_that_cannot_be_used_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from keyrotation_pipeline.adapters.aws_incidents import CloudTrailFiles  # noqa: PLC0415

    monkeypatch.setenv("AWS_PROFILE", "not-there")
    now = datetime(2026, 11, 25, tzinfo=UTC)
    with pytest.raises(IncidentError, match=r"cannot be read \(ProfileNotFound\)"):
        list(CloudTrailFiles("b", region_name=REGION).records(now, now))
