"""JupyterLab in a process of its own: `python -m` this, its arguments as one line of JSON on stdin.

So the token stands in no argument list, which every user of the machine could read. The rest of stdin is the lifeline:
when it ends, whoever started this is gone, and JupyterLab ends too, with its kernels.
"""

from __future__ import annotations

import json

from quantlab.serve.lifeline import end_with_stdin, first_line


def main() -> None:
    """Run JupyterLab until it is told to stop."""
    argv = json.loads(first_line())
    end_with_stdin()
    from jupyterlab.labapp import LabApp  # type: ignore[import-untyped]

    LabApp.launch_instance(argv=argv)


if __name__ == "__main__":
    main()
