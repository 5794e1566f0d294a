"""What one real card measures: kernels, steps and memory of the methods, side by side."""
