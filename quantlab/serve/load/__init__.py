"""Load tests: many requests at a server, on a schedule, and what each of them had to wait.

arrivals.py   when requests are sent: an open loop (Poisson, constant, bursts), or a closed one (so many at once)
prompts.py    what is asked: texts of a file, or made ones of an exact number of tokens
request.py    one streamed request, timed token by token
run.py        the whole test: sends on time, counts every error, drops nothing
report.py     percentiles, throughput, goodput under a limit, as JSON with the machine's passport
sweep.py      one load after the other: the front of throughput and waiting, the highest rate that keeps a limit
size.py       from a load test to servers, requests a day, and dollars for a million tokens

from quantlab.serve.load import Load, loadtest
report = loadtest(server.url, server.key, prompts, Load(rate=2.0, requests=40), max_tokens=64)
report.ttft.p99, report.tokens_per_s
"""

from quantlab.serve.load.arrivals import Load
from quantlab.serve.load.report import Limits, Report
from quantlab.serve.load.run import loadtest
from quantlab.serve.load.size import Sized
from quantlab.serve.load.sweep import Search, front, highest_rate, sweep

__all__ = ["Limits", "Load", "Report", "Search", "Sized", "front", "highest_rate", "loadtest", "sweep"]
