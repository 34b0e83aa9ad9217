"""Attacks on the UI's port, on Dagster's real web server as `keyrotation up` starts it."""

import asyncio
import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, expect
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from keyrotation_pipeline.adapters.web_console import ConsoleInFront
from keyrotation_pipeline.defs.webserver import NO_CONSOLE
from keyrotation_pipeline_tests.acceptance.browsing import browser  # noqa: F401  a fixture
from keyrotation_pipeline_tests.contract.test_alert_channels import serving as serving_pages
from keyrotation_pipeline_tests.programs import needs_chromium
from keyrotation_pipeline_tests.waiting import PATIENCE_SECONDS
from keyrotation_pipeline_tests.web_server import (
    BEARER,
    BROWSER,
    METRICS_TOKEN,
    TOKEN,
    Pages,
    Server,
    serving,
)

pytestmark = pytest.mark.slow

PROXY_NAME = "rotation.clinic.example"
LOCATION = 'repositoryName: "__repository__", repositoryLocationName: "keyrotation_pipeline"'
LAUNCH = f"""mutation {{ launchRun(executionParams: {{selector: {{{LOCATION}, pipelineName: "evidence"}},
    executionMetadata: {{tags: [{{key: "mark", value: "%s"}}]}}}}) {{
    __typename ... on LaunchRunSuccess {{ run {{ runId }} }} }} }}"""
END = 'mutation {{ terminateRun(runId: "{}") {{ __typename }} }}'


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """As `keyrotation up --no-token --read-only --host rotation.clinic.example`."""
    home = tmp_path_factory.mktemp("proxied") / "home"
    with serving(home, "--no-token", "--read-only", "--host", PROXY_NAME) as server:
        yield server


def not_the_token(server: Server) -> dict[str, dict[str, str | bytes]]:
    """What somebody without the token may send as headers, by what it is."""
    cookie = server.cookie()["cookie"]
    return {
        "nothing": {},
        "another token": {"authorization": "Bearer another"},
        "the beginning of the token": {"authorization": f"Bearer {TOKEN[:-1]}"},
        "an empty token": {"authorization": "Bearer"},
        "the token under another scheme": {"authorization": f"Basic {TOKEN}"},
        "the token as a cookie": {"cookie": f"keyrotation-{server.port}={TOKEN}"},
        "an empty cookie": {"cookie": f"keyrotation-{server.port}="},
        "a cookie of another port": {"cookie": cookie.replace("-", "-1", 1)},
        "a cookie of another start": {"cookie": cookie[:-1]},
        "a damaged cookie": {"cookie": 'x="; keyrotation'},
    }


@pytest.mark.parametrize(("method", "path"), [
    ("GET", "/"), ("GET", "/asset-groups"), ("GET", "/server_info"), ("GET", "/graphql"), ("POST", "/graphql"),
    ("GET", "/logs/x"), ("GET", "/notebook"), ("GET", "/download_debug/x"), ("GET", "/favicon.png"), ("HEAD", "/"),
    ("POST", "/report_asset_check/key_version"), ("POST", "/report_asset_materialization/key_version"),
    ("GET", "/metrics"), ("HEAD", "/metrics"), ("POST", "/metrics"),
    ("PUT", "/graphql"), ("OPTIONS", "/graphql"),
])  # fmt: skip
def test_nothing_is_served_without_the_token(served: Server, method: str, path: str) -> None:
    body = {"json": {"query": "{ version }"}} if method == "POST" else {}
    bytes_above_ascii = {"authorization": b"Bearer \xff\xfe"}
    for name, headers in {**not_the_token(served), "no text": bytes_above_ascii}.items():
        answer = served.ask(method, path, headers=headers, **body)
        assert answer.status_code == 403, name
        assert method == "HEAD" or "keyrotation up" in answer.text, name
        assert "set-cookie" not in answer.headers, name
    assert served.ask(method, path, params={"token": "another"}, **body).status_code == 403


SCRAPER = {"authorization": f"Bearer {METRICS_TOKEN}"}


def test_metrics_need_a_token_and_theirs_opens_nothing_else(served: Server) -> None:
    for headers in (BEARER, SCRAPER, served.cookie()):
        answer = served.ask("GET", "/metrics", headers=headers)
        assert (answer.status_code, answer.text) == (200, "# TYPE a gauge\na 1\n# EOF\n")
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    accepts = {"accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
    asked = served.ask("GET", "/metrics", headers=SCRAPER | accepts)
    assert asked.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    for method, path in (
        ("GET", "/"), ("GET", "/server_info"), ("POST", "/graphql"), ("POST", "/metrics"), ("GET", "/metrics/"),
        ("GET", "//metrics"), ("GET", "/metrics/../server_info"), ("GET", "/%6detrics/x"), ("GET", "/graphql?/metrics"),
    ):  # fmt: skip
        body = {"json": {"query": "{ version }"}} if method == "POST" else {}
        assert served.ask(method, path, headers=SCRAPER, **body).status_code == 403, path
    assert served.ask("GET", "/metrics", params={"token": METRICS_TOKEN}).status_code == 403
    with pytest.raises(InvalidStatus, match="403"):
        open_socket(served, dict(SCRAPER))


def test_the_console_is_the_first_page_and_everything_else_is_dagsters(served: Server) -> None:
    front = served.ask("GET", "/", headers=BROWSER | BEARER)
    assert (front.status_code, front.text) == (200, "<!doctype html><h1>the console</h1>")
    [policy, _] = front.headers.get_list("content-security-policy")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert served.ask("GET", "/console/requests/known", headers=BEARER).text == "<h1>request known</h1>"
    assert served.ask("GET", "/console/databases", headers=BEARER).text == "<h1>each database</h1>"
    assert served.ask("GET", "/console/requests/other", headers=BEARER).status_code == 404
    assert served.ask("GET", "/console/console.css", headers=BEARER).headers["content-type"].startswith("text/css")
    assert '<div id="root"' in served.ask("GET", "/overview", headers=BROWSER | BEARER).text


def test_no_metrics_are_served_where_the_status_cannot_be_read(served: Server, pages: tuple[Path, Pages]) -> None:
    pages[1].text = None
    try:
        assert served.ask("GET", "/metrics", headers=SCRAPER).status_code == 503
    finally:
        pages[1].text = Pages.text


def test_a_console_that_has_ended_is_said_in_a_sentence(tmp_path: Path) -> None:
    async def asked() -> httpx.Response:
        front = ConsoleInFront(nothing, str(tmp_path / "none"), NO_CONSOLE)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(front), base_url="http://here") as client:
            return await client.get("/")

    answer = asyncio.run(asked())
    assert (answer.status_code, answer.text) == (503, NO_CONSOLE)


async def nothing(*_: object) -> None:
    """What is behind the console, and is not asked."""


def test_the_token_is_not_taken_by_a_post_of_a_form(served: Server) -> None:
    assert served.ask("POST", "/", params={"token": TOKEN}).status_code == 403
    assert served.ask("POST", "/", data={"token": TOKEN}).status_code == 403


def test_the_bare_address_says_where_the_token_is(served: Server) -> None:
    answer = served.ask("GET", "/", headers=BROWSER)

    assert answer.status_code == 403
    assert "text/html" in answer.headers["content-type"]
    assert "The token is missing" in answer.text
    assert "the file dagster/address" in answer.text


def test_the_token_is_exchanged_for_a_cookie_and_leaves_the_address(served: Server) -> None:
    answer = served.ask("GET", "/asset-groups", params={"token": TOKEN, "a": "1 &2"}, headers=BROWSER)
    served.client.cookies.clear()

    assert answer.status_code == 303
    assert answer.headers["location"] == "/asset-groups?a=1+%262"
    name, *flags = answer.headers["set-cookie"].split("; ")
    assert name.startswith(f"keyrotation-{served.port}=")
    assert TOKEN not in name
    assert {flag.lower() for flag in flags} == {"httponly", "path=/", "samesite=strict"}
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_the_exchange_leads_to_no_other_host(served: Server) -> None:
    answer = served.ask("GET", "//evil.example/", params={"token": TOKEN}, headers=BROWSER)
    served.client.cookies.clear()

    assert answer.headers["location"] == "/evil.example/"


def test_the_cookie_opens_the_ui(served: Server) -> None:
    page = served.ask("GET", "/asset-groups", headers=BROWSER | served.cookie())
    answer = served.ask("POST", "/graphql", json={"query": "{ version }"}, headers=served.cookie())

    assert page.status_code == 200
    assert '<div id="root"' in page.text
    assert answer.json()["data"]["version"]


FOREIGN = {
    "another site": {"origin": "https://evil.example"},
    "another port of this machine": {"origin": "http://127.0.0.1:8080"},
    "a sandboxed frame": {"origin": "null"},
    "another site, by what browsers say of themselves": {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"},
    "another port, by what browsers say of themselves": {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"},
}


@pytest.mark.parametrize("headers", [pytest.param(headers, id=name) for name, headers in FOREIGN.items()])
def test_a_page_of_another_origin_changes_nothing_even_with_the_cookie(served: Server, headers: dict[str, str]) -> None:
    body = {"query": LAUNCH % "mark-1"}
    answer = served.ask("POST", "/graphql", json=body, headers=served.cookie() | headers)

    assert answer.status_code == 403
    assert not served.has_launched("mark-1")
    with pytest.raises(InvalidStatus, match="403"):
        open_socket(served, served.cookie() | headers)


def test_a_page_of_another_origin_reads_nothing(served: Server) -> None:
    headers = served.cookie() | {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}

    assert served.ask("GET", "/server_info", headers=headers).status_code == 403


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "evil.example:3000"])
def test_a_name_that_was_made_to_point_here_is_refused_even_with_the_token(served: Server, host: str) -> None:
    for shown in (BEARER, served.cookie()):
        answer = served.ask("POST", "/graphql", json={"query": LAUNCH % "mark-2"}, headers={**shown, "host": host})
        assert answer.status_code == 400
    assert not served.has_launched("mark-2")


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_the_names_of_the_loopback_interface_are_served(served: Server, name: str) -> None:
    host = f"{name}:{served.port}"
    headers = served.cookie() | {"host": host, "origin": f"http://{host}", "sec-fetch-site": "same-origin"}

    assert served.ask("POST", "/graphql", json={"query": "{ version }"}, headers=headers).status_code == 200


QUERY = LAUNCH % "mark-3"
JSON, PLAIN, BARE = ({"content-type": kind} for kind in ("application/json", "text/plain", "application/graphql"))


@pytest.mark.parametrize(("method", "options"), [
    pytest.param("GET", {"params": {"query": QUERY}}, id="GET"),
    pytest.param("GET", {"params": {"query": QUERY}, "headers": JSON}, id="GET, JSON"),
    pytest.param("HEAD", {"params": {"query": QUERY}}, id="HEAD"),
    pytest.param("POST", {"params": {"query": QUERY}}, id="POST with the query in the address"),
    pytest.param("POST", {"data": {"query": QUERY}}, id="a form"),
    pytest.param("POST", {"content": QUERY, "headers": BARE}, id="bare GraphQL"),
    pytest.param("POST", {"content": json.dumps({"query": QUERY}), "headers": PLAIN}, id="text"),
])  # fmt: skip
@pytest.mark.parametrize("path", ["/graphql", "/graphql/", "//graphql", "/%67raphql"])
def test_no_mutation_is_made_but_by_a_post_of_json(
    served: Server, method: str, path: str, options: dict[str, Any]
) -> None:
    headers = served.cookie() | options.get("headers", {})
    answer = served.ask(method, path, **options | {"headers": headers})

    assert answer.status_code == 405
    assert not served.has_launched("mark-3")


def test_a_mutation_by_a_post_of_json_is_made(served: Server) -> None:
    launched = served.with_token(LAUNCH % "mark-4")["data"]["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess"
    assert served.has_launched("mark-4")
    served.with_token(END.format(launched["run"]["runId"]))


FRAMED = [
    pytest.param("GET", "/asset-groups", {}, 200, id="a page"),
    pytest.param("GET", "/", {"params": {"token": TOKEN}}, 303, id="the exchange of the token"),
    pytest.param("POST", "/graphql", {"json": {"query": "{ version }"}}, 200, id="GraphQL"),
    pytest.param("GET", "/graphql", {"headers": BROWSER}, 405, id="GraphiQL"),
    pytest.param("GET", "/favicon.png", {}, 200, id="a static file"),
    pytest.param("GET", "/logs/none/out", {}, 404, id="nothing there"),
    pytest.param("GET", "/metrics", {}, 200, id="the metrics"),
    pytest.param("POST", "/", {"headers": {"origin": "https://evil.example"}}, 403, id="another page"),
    pytest.param("GET", "/", {"headers": {"host": "evil.example"}}, 400, id="another host"),
    pytest.param("GET", "/", {"headers": {"authorization": ""}}, 403, id="no token"),
]


@pytest.mark.parametrize(("method", "path", "options", "status"), FRAMED)
def test_no_response_is_shown_in_a_frame(
    served: Server, method: str, path: str, options: dict[str, Any], status: int
) -> None:
    shown = {} if "params" in options else BEARER
    answer = served.ask(method, path, **options | {"headers": {**shown, **options.get("headers", {})}})
    served.client.cookies.clear()

    assert answer.status_code == status
    assert "frame-ancestors 'none'" in answer.headers.get_list("content-security-policy")
    assert answer.headers["x-frame-options"] == "DENY"


def test_dagsters_own_policy_is_still_that_of_its_pages(served: Server) -> None:
    page = served.ask("GET", "/asset-groups", headers=BROWSER | BEARER)
    [own, _] = page.headers.get_list("content-security-policy")

    assert "script-src 'nonce-" in own
    assert re.search(r"'nonce-([0-9a-f]+)'", own)[1] in page.text  # type: ignore[index]


@needs_chromium
def test_a_browser_shows_no_page_of_ours_in_one_of_another_port(served: Server, browser: Browser) -> None:  # noqa: F811
    class Attacker(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f"<iframe src='{served.url}/asset-groups'></iframe>".encode())

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    window = browser.new_page()
    window.goto(f"{served.url}/asset-groups?token={TOKEN}")
    expect(window.get_by_text("Global asset lineage")).to_be_visible(timeout=PATIENCE_SECONDS * 1000)
    with serving_pages(Attacker) as port:
        window.goto(f"http://127.0.0.1:{port}")
        [_, framed] = window.frames
        assert framed.url == "chrome-error://chromewebdata/"


REPORTED = """{ assetNodes { assetKey { path } assetMaterializations(limit: 1) { runId }
    assetChecksOrError { ... on AssetChecks { checks { name executionForLatestMaterialization { status } } } } } }"""
CHECK = {"check_name": "key_reads_back", "passed": True}
REPORT_EVENT = """mutation { reportRunlessAssetEvents(eventParams: {eventType: ASSET_MATERIALIZATION,
    assetKey: {path: ["key_version"]}, partitionKeys: ["v2"]}) { __typename } }"""
REPORT_CHECK = """mutation { reportAssetCheckEvaluations(eventParams: {assetKey: {path: ["key_version"]},
    checkName: "key_reads_back", passed: true}) { __typename } }"""
WIPE = """mutation { wipeAssets(assetPartitionRanges: [{assetKey: {path: ["key_version"]}}]) { __typename } }"""


@pytest.mark.parametrize(("path", "body"), [
    pytest.param("/report_asset_check/key_version", CHECK, id="a check"),
    pytest.param("/report_asset_check/", {"asset_key": ["key_version"], **CHECK}, id="a check by its key in the body"),
    pytest.param("/report_asset_check/nothing/of/ours", CHECK, id="a check of an unknown asset"),
    pytest.param("/report_asset_materialization/key_version", {"partition": "v2"}, id="a materialization"),
    pytest.param("/report_asset_observation/key_version", {"partition": "v2"}, id="an observation"),
])  # fmt: skip
def test_nothing_is_reported_from_outside_a_run_over_http(served: Server, path: str, body: dict[str, Any]) -> None:
    answer = served.ask("POST", path, json=body, headers=BEARER)

    assert answer.status_code == 401
    assert_nothing_is_reported(served)


@pytest.mark.parametrize("mutation", [
    pytest.param(REPORT_EVENT, id="an event"), pytest.param(REPORT_CHECK, id="a check"), pytest.param(WIPE, id="a wipe")
])  # fmt: skip
def test_nothing_is_reported_from_outside_a_run_or_wiped_over_graphql(served: Server, mutation: str) -> None:
    [answered] = served.with_token(mutation)["data"].values()

    assert answered["__typename"] == "UnauthorizedError"
    assert_nothing_is_reported(served)


def assert_nothing_is_reported(server: Server) -> None:
    text = json.dumps(server.with_token(REPORTED)["data"])

    assert "key_reads_back" in text
    assert "runId" not in text
    assert "SUCCEEDED" not in text


def open_socket(server: Server, headers: dict[str, Any]) -> Any:  # noqa: ANN401
    origin = headers.pop("origin", None)
    return connect(
        f"ws://127.0.0.1:{server.port}/graphql", additional_headers=headers, origin=origin, subprotocols=["graphql-ws"]  # type: ignore[list-item]
    )  # fmt: skip


def test_no_websocket_opens_without_the_token(served: Server) -> None:
    for headers in not_the_token(served).values():
        with pytest.raises(InvalidStatus, match="403"):
            open_socket(served, headers)


def test_a_websocket_with_the_cookie_answers_and_makes_no_mutation(served: Server) -> None:
    with open_socket(served, served.cookie() | {"origin": served.url}) as opened:
        opened.send(json.dumps({"type": "connection_init"}))
        assert json.loads(opened.recv(timeout=30))["type"] == "connection_ack"
        opened.send(json.dumps({"type": "start", "id": "1", "payload": {"query": LAUNCH % "mark-5"}}))
        assert json.loads(opened.recv(timeout=30))["type"] == "error"
    assert not served.has_launched("mark-5")


def test_the_token_is_in_no_argument_environment_log_or_file(served: Server) -> None:
    served.cookie()
    home = served.log.parent
    shown = [Path(f"/proc/{served.process.pid}/{name}").read_bytes() for name in ("cmdline", "environ")]

    assert TOKEN.encode() not in b"".join([*shown, *(file.read_bytes() for file in home.rglob("*") if file.is_file())])


def test_read_only_forbids_everything_that_changes(proxied: Server) -> None:
    answer = proxied.ask("POST", "/graphql", json={"query": LAUNCH % "mark-6"})
    reported = proxied.ask(
        "POST", "/report_asset_check/key_version", json={"check_name": "key_reads_back", "passed": True}
    )

    assert answer.json()["data"]["launchRun"]["__typename"] == "UnauthorizedError"
    assert reported.status_code == 401


def test_behind_a_proxy_its_name_is_served_and_other_pages_are_still_refused(proxied: Server) -> None:
    body = {"query": "{ version }"}
    served_name = {"host": PROXY_NAME, "origin": f"https://{PROXY_NAME}"}

    assert proxied.ask("POST", "/graphql", json=body, headers=served_name).status_code == 200
    assert (
        proxied.ask("POST", "/graphql", json=body, headers={**served_name, **FOREIGN["another site"]}).status_code
        == 403
    )
    assert proxied.ask("POST", "/graphql", json=body, headers={"host": "evil.example"}).status_code == 400
