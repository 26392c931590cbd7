"""Weights, prompts, generation, claims and verification. Knows no screen, no shell."""
