"""What quantization alone does to a base: measured, kept, and told in a document."""
