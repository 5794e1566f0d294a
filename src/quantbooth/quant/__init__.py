"""Quantization: layers with frozen, packed weights and trainable scale sets, LoRA adapters, observers, rounding."""
