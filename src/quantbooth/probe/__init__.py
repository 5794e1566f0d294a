"""At which timesteps a base decides what: measured, kept, and told in a document."""
