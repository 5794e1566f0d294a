"""Quantized layers whose only trainable part is a gain per output channel."""
