"""The text-to-image model around the denoiser: base, families, schedule, loss, router, sampler, LoRA files."""
