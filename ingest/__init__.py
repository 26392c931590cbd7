"""A path becomes Documents and Chunks. Knows nothing of embeddings or models."""
