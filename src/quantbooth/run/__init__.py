"""A run: the artifacts and models of one configuration."""
