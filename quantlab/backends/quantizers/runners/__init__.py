"""What runs in the process of a library: `host`, and one file a library with a single function, `quantize`.

None of them imports quantlab, except where quantlab is the library: in an isolated environment there is none.
"""
