"""The bundled model, loading any Hugging Face folder safely, and quantizing what was loaded.

load, folder, hub, smollm2      a name -> a model whose files were checked
walk, families                  its linear layers; which of them share an input, and what makes it
samples, calibration            texts -> windows -> LayerStats, block by block
fold                            a scale into the weights, its inverse into what makes the input
quantize                        all of it together; request, quantized, resume, activations and peak serve it
"""
