"""Everything that judges: metrics, statistics, verdicts, the report; from Parquet files alone."""
