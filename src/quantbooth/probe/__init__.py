"""Probe at which timesteps a base decides what: measurement, files and document."""
