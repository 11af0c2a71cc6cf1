"""Model servers as supervised processes, and the client that talks to them.

owner (a notebook or `quantlab serve`)
  |  a pipe: end of file means that the owner is gone
  v
supervisor           quantlab.serve.supervisor   its own session; removes what is left
  |  a pipe: end of file means that the supervisor is gone
  v
engine               llama.cpp's server behind quantlab.serve.llama_cpp_server

places   where caches and state files are           engines   what each engine needs, as data
state    which servers run, and their keys          logs      the line of a log that says why
client   chat, completions, models over HTTP        server    Server(...): start, ask, stop
"""
