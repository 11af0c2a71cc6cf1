"""Install quantlab from the lock into the environment that runs this script.

    python tools/install.py            what the course needs (make lab)
    python tools/install.py --test     and what its tests need; one lock, so nothing changes between the two

Three steps, because two packages are special:
1. torch comes first, in the build that suits the machine: without an NVIDIA driver on Linux the CPU build (200 MB
   instead of 3 GB of CUDA).
2. everything else in requirements.lock, by hash and without resolving again.
3. llama-cpp-python is compiled here (about 7 minutes on two cores, once). If that fails, all the rest still works and
   `quantlab doctor` says what is missing.

The tests also run a GPU kernel in Triton's interpreter: Triton goes into a folder of its own (see quantlab.kernels).

Every step is skipped when its result is there already. Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
NO_AMX = "-U__AMX_INT8__"  # or it crashes on processors that have AMX: quantlab/backends/llama_cpp_build.py


def say(text: str) -> None:
    print(f"quantlab: {text}", flush=True)


def pip(*args: str, **variables: str) -> bool:
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "-q", *args]
    return subprocess.run(command, env=os.environ | variables, check=False).returncode == 0


def locked() -> dict[str, str]:
    """Name -> its whole entry in the lock (pin, marker and hashes)."""
    entries = re.split(r"\n(?=[a-z0-9])", LOCK.read_text(encoding="utf-8"))
    pins = [entry for entry in entries if re.match(r"[\w.\-]+(\[\w+\])?==", entry)]
    return {re.split(r"==|\[", entry, maxsplit=1)[0]: entry for entry in pins}


def version_of(entry: str) -> str:
    found = re.search(r"==([^\s;\\]+)", entry)
    assert found, entry
    return found.group(1)


def test_only() -> set[str]:
    """Names that only --test installs (what these need in turn is small, and installed always)."""
    return {re.split(r"[^\w.\-]", line, maxsplit=1)[0] for line in extras()["test"] + extras()["dev"]}


def installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def install_torch(version: str) -> None:
    if installed("torch") == version:
        return
    wants_cpu = sys.platform == "linux" and shutil.which("nvidia-smi") is None
    say(f"installing torch {version}" + (" (CPU build: no NVIDIA driver here)" if wants_cpu else ""))
    ways = [[f"torch=={version}"]]
    if wants_cpu:  # a configured index may carry the CPU build already; else PyTorch's own; else the large one
        cpu = f"torch=={version}+cpu"
        ways = [[cpu], [cpu, "--extra-index-url", CPU_WHEELS], *ways]
    if not any(pip(*way) for way in ways):
        sys.exit("quantlab: torch could not be installed; see pip's message above")


def install_rest(entries: dict[str, str], with_tests: bool) -> None:
    left_out = {"torch", "llama-cpp-python"} | (set() if with_tests else test_only())
    wanted = {name: entry for name, entry in entries.items() if name not in left_out}
    if all(installed(name) == version_of(entry) for name, entry in wanted.items() if applies(entry)):
        return
    say(f"installing {len(wanted)} packages of requirements.lock (one to three minutes)")
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write("\n".join(wanted.values()))
        file.flush()
        if not pip("--no-deps", "--require-hashes", "-r", file.name):
            sys.exit("quantlab: the packages could not be installed; see pip's message above")


def applies(entry: str) -> bool:
    """False for an entry whose marker names another platform or Python."""
    from pip._vendor.packaging.requirements import Requirement  # the one parser that is always there

    line = entry.split("\\", maxsplit=1)[0].split("#", maxsplit=1)[0].strip()
    marker = Requirement(line).marker
    return marker is None or marker.evaluate()


def install_llama_cpp(version: str) -> None:
    if installed("llama-cpp-python") == version:
        return
    if not shutil.which(os.environ.get("CXX", "c++")):
        say("no C++ compiler: llama.cpp is left out; `quantlab doctor` says how to get it")
        return
    say(f"compiling llama.cpp (llama-cpp-python {version}): about 7 minutes on two cores, once")
    flags = {name: f"{os.environ.get(name, '')} {NO_AMX}".strip() for name in ("CFLAGS", "CXXFLAGS")}
    if not pip("--no-deps", f"llama-cpp-python=={version}", **flags):
        say("llama.cpp could not be compiled; everything else works, and `quantlab doctor` says what is missing")


def install_triton(version: str) -> None:
    """Beside the other packages, not among them; where torch has brought it there is nothing to do."""
    place = Path(sys.prefix) / "kernels"
    if not sys.platform.startswith("linux") or installed("triton") or (place / "triton").is_dir():
        return
    say(f"installing triton {version} for the kernel's tests")
    if not pip("--no-deps", "--target", str(place), f"triton=={version}"):
        sys.exit("quantlab: triton could not be installed; see pip's message above")


def extras() -> dict[str, list[str]]:
    """Extra -> what it asks for, from pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: dict[str, list[str]] = project["optional-dependencies"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Install quantlab from its lock.")
    parser.add_argument("--test", action="store_true", help="also what the tests need")
    args = parser.parse_args()
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        this = sys.version.split()[0]
        sys.exit(f"quantlab: Python 3.11 to 3.13 is needed, this is {this}; try make PYTHON=python3.12")
    started = time.monotonic()
    entries = locked()
    install_torch(version_of(entries["torch"]))
    install_rest(entries, args.test)
    install_llama_cpp(version_of(entries["llama-cpp-python"]))
    if args.test:
        install_triton(version_of(extras()["kernels"][0]))
    if installed("quantlab") is None and not pip("--no-deps", "-e", str(ROOT)):
        sys.exit("quantlab: the package itself could not be installed; see pip's message above")
    say(f"the environment is ready ({time.monotonic() - started:.0f} s)")


if __name__ == "__main__":
    main()
