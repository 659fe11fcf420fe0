"""Checks of the answers: their settings, their specs, and their evaluation from the tables alone."""

from llm_assets.dagster.checks.settings import (
    Accuracy,
    Check,
    Checks,
    Confidence,
    Coverage,
    Drift,
    Failures,
    Grounded,
    Summaries,
    Valid,
)

__all__ = [
    "Accuracy",
    "Check",
    "Checks",
    "Confidence",
    "Coverage",
    "Drift",
    "Failures",
    "Grounded",
    "Summaries",
    "Valid",
]
