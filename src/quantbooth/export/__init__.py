"""A tuned base for other tools: folded into float weights, merged over zones, with a model card."""
