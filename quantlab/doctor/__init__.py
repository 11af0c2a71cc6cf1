"""What can this machine do? Each check is one line: what was found, and one remedy when it is not enough.

A check never imports a heavy library to read its version, and never trusts one that crashes: what must be proven to
load (torch, bitsandbytes, llama.cpp) is loaded in a child process with a time limit.

    machine     Python, platform, memory, disk, processor
    gpu         what the NVIDIA driver says
    libraries   what is installed, and what really loads
    report      the checks together, and the verdict
"""

from quantlab.doctor.checks import Check, Status
from quantlab.doctor.report import Report, Verdict, essentials, examine

__all__ = ["Check", "Report", "Status", "Verdict", "essentials", "examine"]
