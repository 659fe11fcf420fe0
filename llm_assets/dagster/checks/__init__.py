"""Checks of the answers: their settings, their specs, and their evaluation from the tables alone."""

from llm_assets.dagster.checks.settings import Checks

__all__ = ["Checks"]
