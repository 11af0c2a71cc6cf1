"""All checks together, and the verdict: lessons, rehearsal labs, GPU labs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantlab.doctor import gpu, libraries, machine
from quantlab.doctor.checks import Check, Status, probe

LESSONS, REHEARSAL, GPU_LABS = "lessons", "labs, rehearsed on the CPU", "labs, on the GPU"


@dataclass(frozen=True)
class Verdict:
    """Whether this machine can do one of the three things, and why."""

    name: str
    able: bool
    why: str


@dataclass(frozen=True)
class Report:
    """What `quantlab doctor` found."""

    checks: tuple[Check, ...]
    verdict: tuple[Verdict, ...]

    @property
    def lessons(self) -> Verdict:
        """The verdict that decides the exit code."""
        return self.verdict[0]

    def to_json(self) -> dict[str, Any]:
        """{checks: [{name, status, value, fix}], verdict: [{name, able, why}]}."""
        return {"checks": [check.to_json() for check in self.checks], "verdict": [asdict(v) for v in self.verdict]}


def essentials(folder: Path | None = None) -> list[Check]:
    """What the lessons need, in well under a second: no child process, no network. folder: where work will be kept."""
    needed = [libraries.installed(library) for library in libraries.LIBRARIES if library.needed]
    present = libraries.Library("torch", "all arithmetic", needed=True)
    return [
        machine.python(), machine.system(), machine.memory(), machine.disk(folder),
        libraries.installed(present), *needed, machine.bundled_files(),
    ]  # fmt: skip


def examine() -> Report:
    """Run every check; what takes time (child processes, driver, network) runs at the same time."""
    with ThreadPoolExecutor() as pool:
        torch_answer = pool.submit(probe, libraries.TORCH)
        bitsandbytes_answer = pool.submit(probe, libraries.BITSANDBYTES)
        llama_cpp_answer = pool.submit(probe, libraries.LLAMA_CPP)
        driver = pool.submit(gpu.ask_driver)
        network = pool.submit(machine.network)
        found = torch_answer.result()
        checks = (
            machine.python(), machine.system(), machine.memory(), machine.disk(), machine.cpu(),
            *gpu.checks(driver.result(), found if isinstance(found, dict) else {}),
            libraries.torch(found),
            libraries.bitsandbytes(bitsandbytes_answer.result()),
            libraries.llama_cpp(llama_cpp_answer.result()),
            *(libraries.installed(library) for library in libraries.LIBRARIES),
            libraries.vllm(), machine.bundled_files(), network.result(),
        )  # fmt: skip
    return Report(checks, judge(checks))


def judge(checks: tuple[Check, ...]) -> tuple[Verdict, ...]:
    """What can be done here, from the checks alone."""
    by_name = {check.name: check for check in checks}
    failures = [check.name for check in checks if check.status is Status.FAILURE]
    lessons = not failures
    because = "all that they need is here" if lessons else f"mend first: {', '.join(failures)}"

    llama_cpp = by_name["llama-cpp-python"].status is Status.OK
    rehearsal = "on the bundled model, through llama.cpp" if llama_cpp else "they need llama-cpp-python, see its line"

    card, lacking = by_name["GPU"], [
        name for name in ("GPU", "compute capability", "driver", "CUDA") if by_name[name].status is not Status.OK
    ]  # fmt: skip
    on_gpu = (
        f"on {card.value}" if not lacking else "no NVIDIA GPU" if card.status is Status.NOTE else f"see {lacking[0]}"
    )
    return (
        Verdict(LESSONS, lessons, because),
        Verdict(REHEARSAL, lessons and llama_cpp, rehearsal if lessons else because),
        Verdict(GPU_LABS, lessons and not lacking, on_gpu if lessons else because),
    )
