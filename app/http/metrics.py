"""What a serving process counts, in the text form that Prometheus scrapes.

    metrics = Metrics()
    metrics.count("tether_requests_total", route="/v1/models", status="200")
    metrics.observe("tether_answer_seconds", 0.8)
    print(metrics.render({"tether_questions_waiting": 3}))

Counters and histograms live as long as the process; gauges are given when the text is rendered.
Format: https://prometheus.io/docs/instrumenting/exposition_formats (version 0.0.4). Knows nothing
of what is counted.
"""

import threading
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)  # seconds, upper bounds

HELP: Mapping[str, str] = {
    "tether_requests_total": "HTTP requests by route and status.",
    "tether_answers_total": "Answered questions by status of the answer.",
    "tether_answer_seconds": "Seconds from a question to its answer, waiting included.",
    "tether_first_piece_seconds": "Seconds from a question to the first piece of its draft.",
    "tether_questions_running": "Questions that are being answered.",
    "tether_questions_waiting": "Questions that wait in the line.",
    "tether_memory_bytes": "Resident memory of the process.",
}

_Labels = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class _Histogram:
    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0


class Metrics:
    """Counters and histograms; all methods are thread-safe."""

    def __init__(self) -> None:
        """Start at zero."""
        self._lock = threading.Lock()
        self._counters: dict[tuple[str, _Labels], int] = {}
        self._histograms: dict[str, _Histogram] = {}

    def count(self, name: str, **labels: str) -> None:
        """Add one to a counter; label values must be few, so never text of a user."""
        key = (name, tuple(sorted(labels.items())))
        with self._lock:
            self._counters[key] = self._counters.get(key, 0) + 1

    def observe(self, name: str, seconds: float) -> None:
        """Add a value to a histogram over `BUCKETS`."""
        with self._lock:
            histogram = self._histograms.setdefault(name, _Histogram())
            histogram.counts[bisect_left(BUCKETS, seconds)] += 1
            histogram.total += seconds

    def render(self, gauges: Mapping[str, float]) -> str:
        """Return all of them, and these gauges, as text."""
        with self._lock:
            families: dict[str, list[str]] = {}
            for (name, labels), value in sorted(self._counters.items()):
                families.setdefault(f"{name} counter", []).append(_line(name, labels, value))
            for name, histogram in sorted(self._histograms.items()):
                families[f"{name} histogram"] = _histogram_lines(name, histogram)
        for name, gauge in gauges.items():
            families[f"{name} gauge"] = [_line(name, (), gauge)]
        lines = []
        for family, rows in families.items():
            lines += [f"# HELP {family.split()[0]} {HELP[family.split()[0]]}", f"# TYPE {family}"]
            lines += rows
        return "\n".join(lines) + "\n"


def _histogram_lines(name: str, histogram: _Histogram) -> list[str]:
    below = list(accumulate(histogram.counts))
    bounds = [*map(repr, BUCKETS), "+Inf"]
    lines = [
        _line(f"{name}_bucket", (("le", bound),), count)
        for bound, count in zip(bounds, below, strict=True)
    ]
    return [
        *lines,
        _line(f"{name}_sum", (), histogram.total),
        _line(f"{name}_count", (), below[-1]),
    ]


def _line(name: str, labels: _Labels, value: float) -> str:
    inner = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
    return f"{name}{{{inner}}} {value}" if inner else f"{name} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
