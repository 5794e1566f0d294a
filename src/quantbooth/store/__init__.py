"""Artifacts on disk: manifests, fingerprints, and the store that finds finished artifacts."""
