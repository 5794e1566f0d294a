"""A run: one setting's artifacts and models, from its configuration."""
