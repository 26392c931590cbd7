"""What the injection experiment shows: its outcomes, the frontier, a verdict, and the report."""
