"""Which timesteps learn, and which scale set serves a timestep."""
