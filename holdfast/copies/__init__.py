"""Copies of bundles in a store: made, brought back, verified, let go."""
