"""Everything that judges: metrics, statistics, verdicts and the report, from Parquet files alone."""
