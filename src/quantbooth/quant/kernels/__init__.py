"""Kernels of quantized layers: which are used (`choice`), and those written in Triton (`fused`)."""
