"""What quantization cost: perplexity with its passport, KL divergence, a small task, and the table of them."""
