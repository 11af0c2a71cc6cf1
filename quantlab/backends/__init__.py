"""The production libraries behind one interface.

quantizers                     one order, any library: a process of its own makes a checkpoint
environments, _making          isolated environments for libraries that cannot live beside the others
bitsandbytes, llama_cpp        what measuring needs of the two, called directly
loading, workers               loading a model as it is served; threads for many sequences
children, chatter              child processes that never outlive the work; what they print
"""
