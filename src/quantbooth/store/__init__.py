"""Artifacts on disk: manifests, fingerprints, the store that finds finished work again."""
