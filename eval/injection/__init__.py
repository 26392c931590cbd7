"""The injection experiment: new facts, lessons, arms that learn them, and what they are asked."""
