"""Which codes: pure functions from weights (and calibration statistics) to a QuantizedTensor."""
