"""The study as stages: search, rescore, anchor, pilot, confirm. Knows neither Ray nor Parquet."""
