"""Subjects, prompts and the protocol of evaluation."""
