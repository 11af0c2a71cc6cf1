"""A simulator of batching: what waits for whom, step by step, in plain Python.

request.py    what is asked for and what became of it
cost.py       seconds of one step, fitted to measured steps or to load tests of a real server
policy.py     static, continuous and chunked batches; slots, room in the KV cache, the prefix cache
simulate.py   the loop: who computes how many tokens in each step

from quantlab.serve.batching import Policy, Request, StepCost, simulate
asked = [Request(arrives=0.0, prompt=100, output=50), Request(arrives=0.2, prompt=20, output=10)]
simulate(asked, StepCost(fixed=0.02, prefill=1e-4, sequence=1e-3), Policy("chunked", slots=8)).seconds
"""

from quantlab.serve.batching.cost import Measured, StepCost
from quantlab.serve.batching.policy import Policy
from quantlab.serve.batching.request import Request, Served
from quantlab.serve.batching.simulate import Result, Step, simulate

__all__ = ["Measured", "Policy", "Request", "Result", "Served", "Step", "StepCost", "simulate"]
