"""Thin LightningModules around calibration, tuning, sampling, evaluation and pre-training; no mathematics here."""
