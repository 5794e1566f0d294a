"""A small procedural world with ground truth: scenes, their captions, personal subjects and judges."""
