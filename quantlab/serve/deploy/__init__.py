"""From a plan to the files that run it on more than this machine; pure functions, nothing is started here.

deployment.py         the plan, its checkpoint, how many replicas: what all files are made from
vllm.py               vLLM's command line
ray_serve.py          Ray Serve LLM: one YAML file for `serve deploy`
production_stack.py   vLLM production-stack on Kubernetes: values for Helm
skypilot.py           SkyPilot: a task for `sky launch`, a service for `sky serve up`
files.py              all of these for one deployment, by name; nginx.conf for replicas on one machine
yaml.py               data and comments as YAML

No file holds a key: each names where it comes from. What each exposes stands at its head.
"""
