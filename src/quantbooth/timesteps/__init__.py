"""Timesteps: zones to train in, and the scale set of each timestep in sampling."""
