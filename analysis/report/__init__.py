"""The report: ``python -m analysis.report``."""
