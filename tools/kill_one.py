"""Two real llama.cpp servers behind each router, one killed under load: what became of every request.

python tools/kill_one.py                      the course's router, and nginx where it is installed
python tools/kill_one.py --rate 12 --tokens 150
"""

from __future__ import annotations

import argparse

from quantlab.models.samples import openings
from quantlab.serve import nginx
from quantlab.serve.failover import kill_one
from quantlab.serve.load import Load
from quantlab.serve.replicas import Replicas


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rate", type=float, default=8.0, help="requests a second")
    options.add_argument("--requests", type=int, default=60)
    options.add_argument("--tokens", type=int, default=120, help="of each answer, at most")
    asked = options.parse_args()
    for router in ("quantlab", "nginx"):
        if router == "nginx" and (absent := nginx.missing()):
            print(absent)
            continue
        with Replicas("tiny", 2, fmt="q4_k_m", router=router) as fleet:
            print(kill_one(fleet, openings(), Load(asked.requests, rate=asked.rate), max_tokens=asked.tokens).words())


if __name__ == "__main__":
    main()
