"""Tuning on a subject: tuners, training data, the training module, and saved snapshots."""
