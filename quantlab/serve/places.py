"""Where converted models and the records of running servers are kept.

QUANTLAB_CACHE (default ~/.cache/quantlab)
    gguf/        models converted to GGUF, made once
    models/      models unpacked from elsewhere, made once     (quantlab.models.smollm2)
    servers/     one record and one log for each running server; readable by you alone, for they hold keys
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from quantlab.assets import cache_folder
from quantlab.atomic import explained
from quantlab.errors import QuantlabError


def gguf_folder() -> Path:
    """The folder of converted models."""
    return cache_folder() / "gguf"


def servers_folder() -> Path:
    """The folder of server records, made with mode 0700; raises if others could read or write it."""
    folder = cache_folder() / "servers"
    with explained(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise QuantlabError(f"{folder} is not a folder of yours; remove it, or set QUANTLAB_CACHE to another folder")
    if status.st_mode & 0o077:
        folder.chmod(0o700)
    return folder
