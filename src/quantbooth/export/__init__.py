"""Export a tuned base for other tools: merged into float weights, optionally over zones, with a model card."""
