"""Training: one loop, the tasks it learns, and the data they learn from."""
