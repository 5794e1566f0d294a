"""Calibrate a quantized base: calibration sets, AdaRound for weights, LSQ for activations, block by block."""
