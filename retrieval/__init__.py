"""A question becomes ranked Passages; the store that keeps them. Knows nothing of prompts."""
