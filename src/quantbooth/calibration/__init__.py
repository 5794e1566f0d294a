"""Make a quantized base: calibration sets, rounding and activation scales learned unit by unit."""
