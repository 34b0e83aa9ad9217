"""Filippo Valsorda's litewitness, where `KEYROTATION_TEST_LITEWITNESS` names its folder, with `witnessctl`."""

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from keyrotation_pipeline_tests.waiting import eventually

FOLDER = os.environ.get("KEYROTATION_TEST_LITEWITNESS")


@dataclass
class LiteWitness:
    """A running one, with the part of `StrictWitness` that tests of both use."""

    folder: Path
    url: str
    vkey: str
    name: str = "witness.example/lite"

    @property
    def setting(self) -> str:
        return f'{{ url = "{self.url}", key = "{self.vkey}" }}'

    def add(self, vkey: str) -> None:
        database = str(self.folder / "witness.db")
        for command in (["add-log"], ["add-key", "-key", vkey]):
            program = [f"{FOLDER}/witnessctl", command[0], "-db", database, "-origin", vkey.partition("+")[0]]
            subprocess.run([*program, *command[1:]], check=True, capture_output=True)


@contextmanager
def serving(folder: Path) -> Iterator[LiteWitness]:
    """Serves one on loopback, with a key in an agent of its own."""
    key, agent_socket, port = folder / "key", folder / "agent", _free_port()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    shown = subprocess.run(["ssh-keygen", "-lf", key], check=True, capture_output=True, text=True).stdout.split()[1]
    with subprocess.Popen(["ssh-agent", "-D", "-a", agent_socket], stdout=subprocess.DEVNULL) as agent:
        assert eventually(agent_socket.exists)
        agent_of = {**os.environ, "SSH_AUTH_SOCK": str(agent_socket)}
        subprocess.run(["ssh-add", "-q", key], check=True, env=agent_of)
        where = ["-db", str(folder / "witness.db"), "-ssh-agent", str(agent_socket), "-listen", f"127.0.0.1:{port}"]
        command = [f"{FOLDER}/litewitness", "-name", LiteWitness.name, "-key", shown, *where]
        log = folder / "log"
        # It names its paths as Go's router did before 1.22.
        environment = {**os.environ, "GODEBUG": "httpmuxgo121=0"}
        with log.open("w") as output, subprocess.Popen(command, stderr=output, env=environment) as server:
            try:
                assert eventually(lambda: "msg=listening" in log.read_text())
                vkey = re.findall(r"vkey=(\S+)", log.read_text())[0]
                yield LiteWitness(folder, f"http://127.0.0.1:{port}", vkey)
            finally:
                server.terminate()
                agent.terminate()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port
