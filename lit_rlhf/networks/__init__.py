"""Networks: loading, heads, the sampling engine, export."""
