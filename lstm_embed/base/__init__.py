"""Errors, progress, storage: what every room stands on."""
