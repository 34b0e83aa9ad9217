"""Where the database runs, as a walk knows it again: through sockets, addresses and restarts."""

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline.adapters.postgres.server.connection import connect
from keyrotation_pipeline.adapters.postgres.server.embedded import EmbeddedServer
from keyrotation_pipeline.adapters.postgres.server.whereabouts import server_of
from keyrotation_pipeline.model.environment import DatabaseServer
from keyrotation_pipeline_tests.servers import (
    EMBEDDED_18,
    Server,
    discard,
    loopback_address,
    start_server,
)

ADDRESS = f"listen_addresses={loopback_address(1)},127.0.0.1"


@pytest.fixture
def running() -> Iterator[Server]:
    server = start_server(EMBEDDED_18, ADDRESS, "port=5499")
    with psycopg.connect(f"{server.url()}&port=5499", autocommit=True) as connection:
        connection.execute("CREATE ROLE somebody LOGIN")
    yield server
    discard(server)


def seen(url: str) -> DatabaseServer:
    with connect(url) as connection:
        return server_of(connection)


def test_a_server_on_this_machine_is_one_however_it_is_reached(running: Server) -> None:
    urls = [
        f"{running.url()}&port=5499",
        "postgresql://postgres@127.0.0.1:5499/postgres",
        f"postgresql://postgres@{loopback_address(1)}:5499/postgres",
    ]
    (server,) = {seen(url) for url in urls}
    assert server == DatabaseServer(f"{socket.gethostname()}, {running.directory}/data", 1)
    running.stop("fast")
    running.start(ADDRESS, "port=5498")
    assert seen(f"{running.url()}&port=5498") == server


def test_who_may_not_see_the_directory_knows_the_port(running: Server) -> None:
    assert seen(f"{running.url(user='somebody')}&port=5499").host == f"{socket.gethostname()}, port 5499"


def test_another_address_than_this_machine_is_what_the_server_says_it_has(running: Server) -> None:
    addresses = {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    address = next((each for each in sorted(addresses) if not each.startswith("127.")), None)
    if address is None:
        pytest.skip("this machine has no address but its loopback one")
    running.stop("fast")
    running.start("listen_addresses=*", "port=5499")
    (running.directory / "data" / "pg_hba.conf").open("a").write("host all all all trust\n")
    running.run("pg_ctl", "-D", str(running.directory / "data"), "reload")
    assert seen(f"postgresql://postgres@{address}:5499/postgres") == DatabaseServer(f"{address}:5499", 1)


def test_the_embedded_server_is_its_directory_wherever_that_is_and_a_copy_another_one(tmp_path: Path) -> None:
    def of(directory: Path) -> DatabaseServer:
        with EmbeddedServer(directory) as embedded, connect(embedded.url()) as connection:
            return server_of(connection, directory)

    first = of(tmp_path / "postgres")
    subprocess.run(["cp", "-a", tmp_path / "postgres", tmp_path / "copy"], check=True)  # with its owner
    (tmp_path / "postgres").rename(tmp_path / "moved")
    assert of(tmp_path / "moved") == first
    assert of(tmp_path / "copy") != first
