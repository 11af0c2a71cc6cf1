"""How a parent speaks to the process it started: one line on stdin, and an end of file when the parent is gone.

The line travels through a pipe, so what it holds (a key) is in no argument, no file and no environment.
"""

from __future__ import annotations

import os
import signal
import threading
import time


def first_line() -> bytes:
    """One line of stdin, and not a byte more: what follows is for whoever watches the rest. Empty if there is none."""
    line = bytearray()
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return bytes(line)


def end_with_stdin() -> None:
    """Stop this process when its stdin ends; give it five seconds to do so in good order."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
