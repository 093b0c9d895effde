"""Numbers about episodes: rows, rates, metrics, statistics. Files and numbers, never a tensor: it imports fast."""
