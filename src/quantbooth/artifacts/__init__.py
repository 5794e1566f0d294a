"""Artifacts: finished work as folders on disk, named by what they are and written once."""
