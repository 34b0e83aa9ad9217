"""The recipe of docs/guides/ui.md, as it stands there: nginx with passwords in front of `up --no-token`."""

import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.ports.clock import attempts
from keyrotation_pipeline_tests.web_server import serving

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin")
RECIPE = Path(__file__).parents[2] / "docs" / "guides" / "ui.md"
NAME = "rotation.clinic.example"
OURS = {"host": NAME, "origin": f"https://{NAME}", "sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}
PERSON = ("anna", "a password of this test")
QUERY = {"query": "{ version }"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.external_nginx,
    pytest.mark.skipif(NGINX is None, reason="Debian's nginx is not installed"),
]


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The recipe with its paths and ports put into a directory of the test; gives the proxy's port."""
    place = tmp_path_factory.mktemp("nginx")
    with serving(place / "dagster", "--no-token", "--host", NAME) as server, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        certificate(place)
        password = subprocess.run(
            ["openssl", "passwd", "-apr1", PERSON[1]], check=True, capture_output=True, text=True
        ).stdout
        (place / "rotation.htpasswd").write_text(f"{PERSON[0]}:{password}")
        (place / "nginx.conf").write_text(configuration(place, port, server.port))
        nginx = subprocess.Popen([str(NGINX), "-p", place, "-c", place / "nginx.conf", "-e", place / "error.log"])
        try:
            for _ in attempts(SystemClock(), pause_seconds=0.1, patience_seconds=30):
                with socket.socket() as there:
                    if there.connect_ex(("127.0.0.1", port)) == 0:
                        break
            yield port
        finally:
            nginx.terminate()
            nginx.wait(30)


def configuration(place: Path, port: int, upstream: int) -> str:
    [recipe] = re.findall(r"```nginx\n(.*?)```", RECIPE.read_text(), re.DOTALL)
    for there, here in [
        ("443", f"127.0.0.1:{port}"),
        ("127.0.0.1:3000", f"127.0.0.1:{upstream}"),
        ("/etc/ssl/certs/", f"{place}/"),
        ("/etc/ssl/private/", f"{place}/"),
        ("auth_basic_user_file /etc/nginx/", f"auth_basic_user_file {place}/"),
    ]:
        assert there in recipe, there
        recipe = recipe.replace(there, here)
    places = "".join(
        f"{name}_temp_path {place}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        f"daemon off; user {Path(place).owner()};\npid {place}/pid;\nevents {{}}\n"
        f"http {{ access_log off;\n{places}{recipe} }}\n"
    )


def certificate(place: Path) -> None:
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={NAME}",
            "-keyout", place / "rotation.key", "-out", place / "rotation.pem",
        ],
        check=True, capture_output=True,
    )  # fmt: skip


def post(port: int, headers: dict[str, str], person: tuple[str, str] | None = PERSON) -> int:
    url = f"https://127.0.0.1:{port}/graphql"
    return httpx.post(url, json=QUERY, headers=headers, auth=person, verify=False, timeout=60).status_code  # noqa: S501


def test_a_person_with_a_password_uses_the_ui(proxy: int) -> None:
    assert post(proxy, OURS) == 200


@pytest.mark.parametrize("person", [None, ("anna", "another"), ("berta", PERSON[1])])
def test_nobody_else_does(proxy: int, person: tuple[str, str] | None) -> None:
    assert post(proxy, OURS, person) == 401


@pytest.mark.parametrize("headers", [
    {"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"},
])  # fmt: skip
def test_a_page_of_another_site_does_not_ride_on_the_password(proxy: int, headers: dict[str, str]) -> None:
    assert post(proxy, OURS | headers) == 403


def test_the_websocket_of_the_ui_goes_through(proxy: int) -> None:
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", proxy)) as plain:
        address = f"wss://{PERSON[0]}:{PERSON[1].replace(' ', '%20')}@{NAME}/graphql"
        with connect(address, sock=plain, ssl=trusting, subprotocols=["graphql-ws"]) as opened:  # type: ignore[list-item]
            opened.send('{"type": "connection_init"}')
            assert "connection_ack" in str(opened.recv(timeout=30))
    with socket.create_connection(("127.0.0.1", proxy)) as plain, pytest.raises(InvalidStatus, match="401"):
        connect(f"wss://{NAME}/graphql", sock=plain, ssl=trusting, subprotocols=["graphql-ws"])  # type: ignore[list-item]
