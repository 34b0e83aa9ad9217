"""`console`, where it cannot be served."""

import socket
from pathlib import Path

import pytest

from keyrotation_pipeline.assembly.console import serve
from keyrotation_pipeline.cli.console import token_in
from keyrotation_pipeline.errors import HomeError, KeyRotationError


def test_a_taken_port_is_refused_in_a_sentence_and_no_address_is_announced(tmp_path: Path) -> None:
    announced = list[str]()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(HomeError, match=rf"^port {port} of 127\.0\.0\.1 is taken; .* choose another with --port$"):
            serve(tmp_path / "keyrotation.toml", "a token", port, (), announced.append)
    assert announced == []


@pytest.mark.parametrize("content", [None, b"", b"short\n", b"\xff" * 40, b"two\nlines of a longer token"])
def test_a_file_without_a_token_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(KeyRotationError, match="holds no token of at least 16 characters"):
        token_in(file)
    file.write_text(f"{'a1' * 16}\n")
    assert token_in(file) == "a1" * 16
