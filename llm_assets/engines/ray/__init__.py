"""Replicas of an engine in Ray."""
