"""The production libraries and quantlab itself behind one interface, each quantization in a process of its own.

    making.quantize("tiny", Wish("autoawq", ...), out)
      |   offers      which (library, method, format, bits, group) exists, as data; the nearest that does
      |   checks      everything that can be known before work begins
      |   text        calibration texts -> windows of tokens, the same ones for every library
      v
    process.run       one line of JSON in, JSON lines out, everything else to a log
      v
    runners.host      in the library's own environment: runners.with_LIBRARY.quantize
      v
    making            bytes, card, manifest; the folder appears whole or not at all

libraries   where each library lives, what it can load, what to say when it is missing
"""
