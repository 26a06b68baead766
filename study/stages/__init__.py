"""The study as stages: search, rescore, pilot, confirm. Knows neither Ray nor Parquet."""
