"""quantbooth: personalize a quantized text-to-image model by training nothing but its quantization scales."""
