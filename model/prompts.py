"""Prompts: a question and numbered passages become what a generator reads."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a generator reads, as plain text for base models and as turns for chat models."""

    instruction: str
    examples: tuple[tuple[str, str], ...]  # (user turn, assistant turn)
    user: str
    stop: tuple[str, ...] = ()
