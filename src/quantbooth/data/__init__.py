"""Subjects, prompts and what a tuning run reads at each step."""
