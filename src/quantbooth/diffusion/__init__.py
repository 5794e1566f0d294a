"""The text-to-image model around the unet: bundle, schedule, loss, routing of timesteps to scale sets, sampling."""
