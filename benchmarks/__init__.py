"""Comparisons against a baseline, each printing one JSON line last."""
