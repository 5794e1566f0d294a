"""Learn a subject: what learns, from what, in which loop, and what is kept of it."""
