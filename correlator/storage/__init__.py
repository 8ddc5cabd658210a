"""What keeps rows: one DuckDB file a day, Parquet segments, exactly once; the only part that runs SQL."""
