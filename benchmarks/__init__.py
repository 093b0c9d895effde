"""Side-by-side speed and cost. Each prints a table and writes JSON; none runs in CI."""
