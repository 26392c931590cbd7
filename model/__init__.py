"""Weights, prompts, generation, claims and verification; the Assistant. Knows no screen, no shell."""
