"""The controls with which a tab lets people choose how the next token is chosen.

    controls = build("tether-lens", ("greedy", "beam", "sample"))
    decoding = chosen_decoding(values, Decoding(max_new_tokens=16))  # of `controls.inputs`

Knows nothing of what is decoded.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import gradio as gr

from app.page.evidence import Language
from app.page.parts import QUIET
from ingest.errors import UsageError
from model.generators import Decoding

STRATEGIES: tuple[str, ...] = get_args(Decoding.__dataclass_fields__["strategy"].type)

WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "strategy": "How the next token is chosen",
        "greedy": "The likeliest",
        "beam": "Beam search",
        "sample": "Sampling",
        "temperature": "Temperature",
        "top_p": "Top-p",
        "seed": "Seed",
        "beams": "Beams",
    },
    "zh": {
        "strategy": "如何选择下一个词元",
        "greedy": "贪心",
        "beam": "束搜索",
        "sample": "采样",
        "temperature": "温度",
        "top_p": "Top-p",
        "seed": "随机种子",
        "beams": "束宽",
    },
}

# Lowest and highest values.
_RANGES = {"temperature": (0.1, 2.0), "top_p": (0.05, 1.0), "seed": (0, 2**31 - 1), "beams": (2, 8)}
_OF_SAMPLING = ("temperature", "top_p", "seed")


@dataclass(frozen=True, slots=True)
class DecodingControls:
    """The components, in the order in which `chosen_decoding` reads their values."""

    strategies: tuple[str, ...]
    strategy: gr.Radio
    temperature: gr.Slider
    top_p: gr.Slider
    seed: gr.Number
    beams: gr.Slider

    @property
    def inputs(self) -> tuple[Any, ...]:
        """The components."""
        return (self.strategy, self.temperature, self.top_p, self.seed, self.beams)

    def speak(self, language: Language) -> list[Any]:
        """Return an update of each component for another language."""
        words = WORDS[language]
        choices = _choices(self.strategies, language)
        rest = [gr.update(label=words[name]) for name in (*_OF_SAMPLING, "beams")]
        return [gr.update(label=words["strategy"], choices=choices), *rest]


def build(prefix: str, strategies: tuple[str, ...]) -> DecodingControls:
    """Make the controls inside the open page; those that a strategy does not need are hidden.

    Args:
        prefix: Of the elements' ids.
        strategies: What can be chosen, the first one to begin with.
    """
    words, start = WORDS["en"], Decoding()
    strategy = gr.Radio(
        _choices(strategies, "en"), value=strategies[0], label=words["strategy"],
        elem_id=f"{prefix}-strategy",
    )  # fmt: skip
    with gr.Row():
        temperature = _slider("temperature", start.temperature, 0.05, prefix)
        top_p = _slider("top_p", start.top_p, 0.05, prefix)
        seed = gr.Number(
            start.seed, label=words["seed"], precision=0, visible=False, min_width=120,
            elem_id=f"{prefix}-seed",
        )  # fmt: skip
        beams = _slider("beams", start.beams, 1, prefix)
    controls = DecodingControls(strategies, strategy, temperature, top_p, seed, beams)
    strategy.change(_needed, strategy, list(controls.inputs[1:]), queue=False, **QUIET)
    return controls


def _slider(name: str, value: float, step: float, prefix: str) -> gr.Slider:
    lowest, highest = _RANGES[name]
    return gr.Slider(
        lowest, highest, value, step=step, label=WORDS["en"][name], visible=False, min_width=120,
        elem_id=f"{prefix}-{name}",
    )  # fmt: skip


def _choices(strategies: Sequence[str], language: Language) -> list[tuple[str, str]]:
    return [(WORDS[language][name], name) for name in strategies]


def _needed(strategy: str) -> list[Any]:
    """Show what a strategy needs, and hide the rest."""
    is_sampled = [gr.update(visible=strategy == "sample")] * len(_OF_SAMPLING)
    return [*is_sampled, gr.update(visible=strategy == "beam")]


def chosen_decoding(values: Sequence[Any], start: Decoding) -> Decoding:
    """Return the decoding that was chosen.

    Args:
        values: Of `DecodingControls.inputs`; they come from a browser and may be anything.
        start: The rest of it.

    Raises:
        UsageError: A value makes no sense.
    """
    strategy, *numbers = values
    if strategy not in STRATEGIES:
        raise UsageError(f"there is no way of decoding called {strategy!r:.40}; choose another")
    names = (*_OF_SAMPLING, "beams")
    temperature, top_p, seed, beams = map(_checked, names, numbers)
    return replace(
        start, strategy=strategy, temperature=temperature, top_p=top_p, seed=int(seed),
        beams=int(beams),
    )  # fmt: skip


def _checked(name: str, value: object) -> float:
    lowest, highest = _RANGES[name]
    is_number = isinstance(value, int | float) and math.isfinite(value)
    if not is_number or not lowest <= float(value) <= highest:  # type: ignore[arg-type]
        raise UsageError(f"{name} must be a number from {lowest:g} to {highest:,g}; correct it")
    return float(value)  # type: ignore[arg-type]
