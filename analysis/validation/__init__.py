"""Whole studies of known truth, judged by the project's own code."""
