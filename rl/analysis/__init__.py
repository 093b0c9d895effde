"""Numbers about episodes: rows, rates, metrics, statistics. Nothing here imports torch, so that reports start fast."""
