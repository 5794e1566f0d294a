"""The text-to-image model around the denoiser: bundle, schedule, loss, routing of timesteps to scale sets, sampling."""
