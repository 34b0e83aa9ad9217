"""Builds the native codec into the wheel, where this machine can; the package works without it.

The codec is C, a file for each format, against CPython's stable interface and `libcrypto.so.3`. Without a compiler,
Python's headers or that library nothing is built, and `keyrotation --version` says which codec is in use. It is
installed beside the package, not in it, so that an editable installation writes nothing into the source tree.
"""

import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path(__file__).parent / "keyrotation_pipeline" / "fieldcrypto" / "codec.c"
LIBRARY = "_keyrotation_codec.abi3.so"
# Set to anything: a wheel for every platform, without the codec.
PURE = "KEYROTATION_PURE_WHEEL"
_TIMEOUT_SECONDS = 120


def compile_codec(directory: Path, *extra: str) -> Path:
    """Compile the codec into a directory.

    Raises:
        OSError, subprocess.SubprocessError: this machine cannot.
    """
    library = directory / LIBRARY
    include = sysconfig.get_path("include")
    command = [*shlex.split(os.environ.get("CC", "cc")), "-std=c11", "-D_DEFAULT_SOURCE", "-O2", "-fPIC", "-shared"]
    command += ["-fstack-protector-strong", f"-I{include}", *extra, str(SOURCE)]
    # By the name of the library that is there at run time: the one without a number comes with OpenSSL's headers only.
    command += ["-l:libcrypto.so.3", "-Wl,-z,relro,-z,now", "-o", str(library)]
    subprocess.run(command, check=True, capture_output=True, timeout=_TIMEOUT_SECONDS)
    return library


def _can_be_built() -> bool:
    # The stable interface does not exist for interpreters without the global lock.
    has_stable_interface = sys.platform == "linux" and not sysconfig.get_config_var("Py_GIL_DISABLED")
    return has_stable_interface and not os.environ.get(PURE)


class CodecBuildHook(BuildHookInterface[Any]):
    """Adds the compiled codec to wheels, editable ones too."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and leave the wheel as it is if that fails."""
        if self.target_name != "wheel" or not _can_be_built():
            return
        self._built = tempfile.TemporaryDirectory()
        try:
            library = compile_codec(Path(self._built.name))
        except (OSError, subprocess.SubprocessError):
            self.app.display_warning("the native codec was not built; the Python codec is used")
            return
        key = "force_include_editable" if version == "editable" else "force_include"
        build_data.setdefault(key, {})[str(library)] = LIBRARY
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data |= {"pure_python": False, "tag": f"cp311-abi3-{platform}"}

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Remove what was compiled."""
        if hasattr(self, "_built"):
            self._built.cleanup()
