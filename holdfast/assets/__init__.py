"""Datasets and models: versions of a folder, by name, in the store for all to use."""
