"""Plans: what memory a run needs at the most, counted on tensors without data, before any weight is read."""
