"""quantlab doctor: each problem of a machine is found, told apart, and has one remedy."""

from __future__ import annotations

import functools
import json
import shlex
import socket
import sys
import threading
from types import SimpleNamespace

import pytest

from quantlab.backends import llama_cpp_build, llama_cpp_library
from quantlab.doctor import Check, Status, gpu, libraries, machine
from quantlab.doctor.checks import probe, run
from quantlab.doctor.report import Report, essentials, examine, judge

NAMES = [
    "Python", "platform", "memory", "disk", "processor", "GPU", "compute capability", "driver", "CUDA", "torch",
    "bitsandbytes", "llama-cpp-python", "transformers", "jupyterlab", "ipywidgets", "gguf", "autoawq", "llmcompressor",
    "compressed-tensors", "peft", "vllm", "bundled files", "network",
]  # fmt: skip


def test_the_whole_report_as_json_and_as_text(run_cli, monkeypatch):
    monkeypatch.setattr("quantlab.commands.doctor.examine", functools.cache(examine))  # looked at once, shown twice
    ended = run_cli("doctor", "--json")
    report = json.loads(ended.out)
    assert [check["name"] for check in report["checks"]] == NAMES
    for check in report["checks"]:
        assert set(check) == {"name", "status", "value", "fix"}
        assert check["value"]
        assert "\n" not in check["value"] + check["fix"]
        if check["status"] in ("warning", "failure"):
            assert check["fix"], check
    lessons, _, on_gpu = report["verdict"]
    assert set(lessons) == {"name", "able", "why"}
    assert (lessons["able"], ended.code) == (True, 0), report  # the suite runs where the lessons can
    assert not on_gpu["able"] or report["checks"][5]["status"] == "ok"

    text = run_cli("doctor")
    lines = text.out.splitlines()
    assert text.code == 0
    assert [line[9:].split("  ")[0] for line in lines[: len(NAMES)]] == NAMES
    assert all(line.split()[0] in ("ok", "note", "warning", "failure") for line in lines[: len(NAMES)])
    assert lines[-3:] == [line for line in lines if ": " in line][-3:]
    assert "\x1b" not in text.out  # no colour where nobody sees it


def test_the_exit_code_is_1_when_the_lessons_cannot_run(run_cli, monkeypatch):
    broken = (*HEALTHY, Check("bundled files", Status.FAILURE, "model.safetensors is cut short", "download it again"))
    monkeypatch.setattr("quantlab.commands.doctor.examine", lambda: Report(broken, judge(broken)))
    ended = run_cli("doctor")
    assert ended.code == 1
    assert "failure  bundled files" in ended.out
    assert "->  download it again" in ended.out
    assert "no: mend first: bundled files" in ended.out


def test_the_essentials_are_quick_and_enough_for_start():
    names = [check.name for check in essentials()]
    assert names == [
        "Python", "platform", "memory", "disk", "torch", "transformers", "jupyterlab", "ipywidgets", "bundled files"
    ]  # fmt: skip


HEALTHY = tuple(
    Check(name, Status.OK, "fine") for name in ("GPU", "compute capability", "driver", "CUDA", "llama-cpp-python")
)


def changed(*changes: Check) -> tuple[Check, ...]:
    by_name = {check.name: check for check in changes}
    return tuple(by_name.get(check.name, check) for check in HEALTHY)


@pytest.mark.parametrize(
    ("checks", "able", "why"),
    [
        (HEALTHY, (True, True, True), "on fine"),
        (changed(Check("GPU", Status.NOTE, "none")), (True, True, False), "no NVIDIA GPU"),
        (changed(Check("CUDA", Status.WARNING, "driver too old", "update")), (True, True, False), "see CUDA"),
        (
            changed(Check("compute capability", Status.WARNING, "7.0", "x")),
            (True, True, False),
            "see compute capability",
        ),
        (changed(Check("llama-cpp-python", Status.WARNING, "no", "x")), (True, False, True), "on fine"),
        ((*HEALTHY, Check("torch", Status.FAILURE, "no", "x")), (False, False, False), "mend first: torch"),
    ],
)
def test_the_verdict(checks, able, why):
    verdict = judge(checks)
    assert tuple(one.able for one in verdict) == able
    assert verdict[2].why == why


def test_python_versions(monkeypatch):
    assert machine.python().status is Status.OK
    for version in ((3, 10, 9), (3, 14, 0)):
        monkeypatch.setattr(sys, "version_info", version)
        assert machine.python().status is Status.FAILURE
        assert "PYTHON=python3.12" in machine.python().fix


@pytest.mark.parametrize(
    ("available", "status"),
    [(8 * 2**30, Status.OK), (1.5 * 2**30, Status.WARNING), (0.5 * 2**30, Status.FAILURE)],
)
def test_memory(available, status, monkeypatch):
    import psutil

    real = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: real._replace(available=int(available)))
    monkeypatch.setattr(machine, "container_memory", lambda: (0, 0))
    assert machine.memory().status is status
    monkeypatch.setattr(psutil, "virtual_memory", lambda: real._replace(total=2**36, available=2**35))
    monkeypatch.setattr(machine, "container_memory", lambda: (2**32, 2**32 - int(available)))
    assert machine.memory().status is status or available > 2**32
    assert machine.memory().value.startswith("4.0 GiB")


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"memory.max": "2147483648", "memory.current": "1500000000", "memory.stat": "anon 1\ninactive_file 500000000"},
         (2147483648, 1000000000)),
        ({"memory.max": "max", "memory.current": "1", "memory.stat": ""}, (0, 0)),
        ({"memory/memory.limit_in_bytes": "1000", "memory/memory.usage_in_bytes": "10", "memory/memory.stat": ""},
         (1000, 10)),
        ({"memory/memory.limit_in_bytes": str(2**63 - 4096), "memory/memory.usage_in_bytes": "10",
          "memory/memory.stat": ""}, (0, 0)),
        ({}, (0, 0)),
    ],
)  # fmt: skip
def test_a_container_s_limit(limits, expected, tmp_path):
    for name, text in limits.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert machine.container_memory(tmp_path) == expected


@pytest.mark.parametrize(("free", "status"), [(2**40, Status.OK), (2**30, Status.WARNING), (2**20, Status.FAILURE)])
def test_disk(free, status, monkeypatch, tmp_path):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": free}))
    assert machine.disk(tmp_path).status is status


def test_processor_features(tmp_path):
    (tmp_path / "x86").write_text("processor : 0\nflags\t\t: fpu sse2 avx2 avx512f avx512_bf16\n")
    (tmp_path / "arm").write_text("processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n")
    assert machine.cpu_features(tmp_path / "x86") == ["AVX2", "AVX512", "BF16"]
    assert machine.cpu_features(tmp_path / "arm") == ["NEON", "dot product", "I8MM"]
    assert machine.cpu_features(tmp_path / "none") == []


def test_damaged_bundled_files_are_a_failure_with_their_remedy(monkeypatch):
    monkeypatch.setattr("quantlab.models.bundled.problems", lambda: ["x is cut short; download or copy it again"])
    assert machine.bundled_files() == Check(
        "bundled files", Status.FAILURE, "x is cut short", "download or copy it again"
    )


@pytest.fixture
def online(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield server


@pytest.mark.parametrize("answer", ["200 OK", "401 Unauthorized", "503 Service Unavailable"])
def test_a_network_that_answers(online, answer):
    def serve():
        client, _ = online.accept()
        client.recv(4096)
        client.sendall(f"HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        client.close()

    online.listen()
    threading.Thread(target=serve, daemon=True).start()
    assert machine.network(10).status is Status.OK


def test_no_network_is_no_failure(online):
    found = machine.network()
    assert found.status is Status.NOTE
    assert "cannot be reached" in found.value
    online.listen()  # accepts, and never answers
    assert "cannot be reached" in machine.network(0.2).value


def test_offline_mode_is_respected(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("urllib.request.urlopen", lambda *args, **kwargs: pytest.fail("the network was asked"))
    assert "HF_HUB_OFFLINE is set" in machine.network().value


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("print('noise'); print('{\"a\": 1}')", {"a": 1}),
        ("import os; os.kill(os.getpid(), 4)", "crashes (SIGILL)"),
        ("import ctypes; ctypes.string_at(0)", "crashes (SIGSEGV)"),
        ("raise ImportError('libfoo.so is missing')", "ImportError: libfoo.so is missing"),
        ("import os; os._exit(3)", "ended with exit code 3"),
        ("print('no answer')", "gave no answer"),
        ("pass", "gave no answer"),
        ("import time; time.sleep(60)", "did not answer within 1 s"),
    ],
)
def test_a_library_that_crashes_does_not_take_the_doctor_with_it(code, answer):
    assert probe(code, timeout_s=1 if "sleep" in code else 30) == answer


def test_a_program_that_is_not_there():
    assert run(["/no/such/program"], 5) == (None, "", "No such file or directory")


def test_llama_cpp_that_was_compiled_elsewhere(monkeypatch):
    monkeypatch.setattr(libraries, "version", lambda package: "0.3.36")
    check = libraries.llama_cpp("crashes (SIGILL)")
    assert check.status is Status.WARNING
    assert "compiled for another processor" in check.value
    words = shlex.split(check.fix)
    assert words[:4] == [sys.executable, "-m", "pip", "install"]
    assert {"--force-reinstall", "--no-binary", "llama-cpp-python[server]==0.3.36"} < set(words)


def test_llama_cpp_that_was_compiled_with_amx(monkeypatch):
    built = SimpleNamespace(llama_print_system_info=lambda: b"CPU : AVX512 = 1 | AMX_INT8 = 1 | LLAMAFILE = 1 | ")
    built.__spec__ = "found"
    problem = llama_cpp_build.fault(built)
    monkeypatch.setattr(libraries, "version", lambda package: "0.3.36")
    check = libraries.llama_cpp({"gpu": False, "fault": problem})
    assert check.status is Status.WARNING
    assert check.value == "0.3.36 was compiled with AMX, and such a build crashes; compile it again"
    assert check.fix.startswith("CFLAGS=-U__AMX_INT8__ CXXFLAGS=-U__AMX_INT8__ pip install --force-reinstall")
    monkeypatch.setitem(sys.modules, "llama_cpp", built)
    assert llama_cpp_library.available() == problem
    built.llama_print_system_info = lambda: b"CPU : AVX512 = 1 | LLAMAFILE = 1 | "
    assert llama_cpp_library.available() is None


@pytest.mark.parametrize("compiler", [True, False])
def test_llama_cpp_that_is_missing(compiler, monkeypatch):
    monkeypatch.setattr(libraries, "version", lambda package: None)
    monkeypatch.setattr(libraries.shutil, "which", lambda name: f"/usr/bin/{name}" if compiler else None)
    check = libraries.llama_cpp("ModuleNotFoundError: No module named 'llama_cpp'")
    assert check.status is Status.WARNING
    assert check.value.startswith("not installed")
    assert ("build-essential" in check.fix) is not compiler
    assert check.fix.endswith("'llama-cpp-python[server]==0.3.36'")


def test_libraries_that_are_missing_or_broken(monkeypatch):
    monkeypatch.setattr(libraries, "version", lambda package: None)
    by_package = {library.package: libraries.installed(library) for library in libraries.LIBRARIES}
    assert by_package["transformers"].status is Status.FAILURE
    assert by_package["gguf"].status is Status.WARNING
    assert "--no-deps" in by_package["autoawq"].fix
    assert by_package["autoawq"].fix.endswith("autoawq==0.2.9")
    assert libraries.torch("ModuleNotFoundError").status is Status.FAILURE
    assert libraries.bitsandbytes("ModuleNotFoundError").status is Status.WARNING
    monkeypatch.setattr(libraries, "version", lambda package: "2.13.0")
    assert libraries.torch("crashes (SIGSEGV)").status is Status.FAILURE
    assert libraries.torch({"works": False}).value == "2.13.0 computes wrong values"
    assert libraries.bitsandbytes("crashes (SIGSEGV)").status is Status.WARNING


SMI = "NVIDIA H200, 143771, 9.0, 580.65.06\n"
FINE = {"cuda": "13.0", "gpu_works": True}


def gpu_statuses(driver, torch):
    return {check.name: check for check in gpu.checks(driver, torch)}


def test_a_gpu_that_works():
    checks = gpu_statuses(gpu.Driver(gpu.parse_gpus(SMI + SMI), "13.0"), FINE)
    assert all(check.status is Status.OK for check in checks.values())
    assert checks["GPU"].value == "NVIDIA H200, 140.4 GiB and 1 more"
    assert checks["compute capability"].value == "9.0"


@pytest.mark.parametrize(
    ("smi", "cuda", "torch", "name", "fix"),
    [
        ("Tesla V100-SXM2-16GB, 16384, 7.0, 580.65\n", "13.0", FINE, "compute capability", "7.5 or newer"),
        (SMI, "12.4", {"cuda": "13.0", "gpu_works": False}, "CUDA", "update the NVIDIA driver"),
        (SMI, "13.0", {"cuda": None, "gpu_works": False}, "CUDA", "install torch in its CUDA build"),
        (SMI, "13.0", {"cuda": "13.0", "gpu_works": False}, "CUDA", "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_gpu_that_does_not(smi, cuda, torch, name, fix):
    check = gpu_statuses(gpu.Driver(gpu.parse_gpus(smi), cuda), torch)[name]
    assert check.status is Status.WARNING
    assert fix in check.fix


def test_a_driver_that_does_not(tmp_path, monkeypatch):
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'\nexit 18\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    checks = gpu_statuses(gpu.ask_driver(), {})
    assert checks["GPU"].status is Status.WARNING
    assert "version mismatch" in checks["GPU"].value
    assert "restart the machine" in checks["GPU"].fix


def test_a_driver_that_answers(tmp_path, monkeypatch):
    smi = tmp_path / "nvidia-smi"
    smi.write_text(
        "#!/bin/sh\ncase \"$*\" in *query-gpu*) echo 'NVIDIA L4, 23034, 8.9, 580.65.06';;\n"
        "*) echo '| NVIDIA-SMI 580.65.06   Driver Version: 580.65.06   CUDA Version: 13.0 |';; esac\n"
    )
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert gpu.ask_driver() == gpu.Driver((gpu.Gpu("NVIDIA L4", 23034 * 2**20, (8, 9), "580.65.06"),), "13.0")


def test_no_gpu_is_nothing_to_mend(monkeypatch):
    monkeypatch.setattr(gpu.shutil, "which", lambda name: None)
    checks = gpu_statuses(gpu.ask_driver(), {})
    assert all(check.status is Status.NOTE and not check.fix for check in checks.values())
