"""The dashboard: one file per page, over the query API."""
