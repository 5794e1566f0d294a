"""Measure what quantization alone does to a base: measurement, files, tables, plots and document."""
