"""`console`, where it cannot be served."""

import socket
from pathlib import Path

import pytest

from keyrotation_pipeline.assembly.console import serve
from keyrotation_pipeline.errors import HomeError


def test_a_taken_port_is_refused_in_a_sentence_and_no_address_is_announced(tmp_path: Path) -> None:
    announced = list[str]()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(HomeError, match=rf"^port {port} of 127\.0\.0\.1 is taken; .* choose another with --port$"):
            serve(tmp_path / "keyrotation.toml", "a token", port, (), announced.append)
    assert announced == []
