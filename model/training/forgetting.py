"""What holds a model near its base while it learns something new. Each measure is an option.

| option | what it does | source |
|---|---|---|
| `replay` | mixes general text in as plain next-token prediction | Robins 1995 |
| `kl` | keeps the predictions near the frozen base's | Li & Hoiem 2016 (LwF) |
| `l2_sp` | keeps the weights near where they started | Li et al. 2018 |
| `ewc` | the same, each weight as much as general text needs it | Kirkpatrick et al. 2017 |
| `frozen_layers` | leaves the embedding and the lowest layers as they are | |
| `interpolation` | goes back part of the way after training | Wortsman et al. 2022 (WiSE-FT) |

Rank and scale of an adapter are the other two; they stand in `lora.py`. Knows nothing of text:
it is given modules and gradients.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ingest.errors import SettingsError

Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class ForgettingOptions:
    """How a model is held near its base; the defaults do nothing."""

    replay: float = 0.0  # share of the training rows that are general text, below 1
    replay_tokens: int = 256  # longest piece of a general text
    replay_positions: int = 64  # of a piece that are predicted, drawn anew each time; 0 is all
    kl: float = 0.0  # weight of KL(base || model), in nats a position
    kl_at: Literal["answers", "replay", "both"] = "both"
    l2_sp: float = 0.0  # weight of half the squared distance from the start
    ewc: float = 0.0  # weight of the same, each parameter times its Fisher information
    ewc_rows: int = 64  # pieces of general text that the Fisher information is estimated on
    frozen_layers: int = 0  # lowest layers that are not trained
    interpolation: float = 1.0  # 1 keeps the trained weights, 0 returns to the base

    def __post_init__(self) -> None:
        """Refuse shares that are none."""
        if not 0 <= self.replay < 1 or not 0 <= self.interpolation <= 1:
            raise SettingsError(
                f"replay {self.replay} or interpolation {self.interpolation} is no share:"
                " give replay from 0 to below 1 and interpolation from 0 to 1"
            )


def freeze_lower_layers(module: torch.nn.Module, count: int) -> None:
    """Leave the lowest layers and every embedding out of training; an adapter's layers too.

    Raises:
        SettingsError: The model has fewer layers.
    """
    if count <= 0:
        return
    stacks = [part for part in module.modules() if isinstance(part, torch.nn.ModuleList)]
    layers = max(stacks, key=len, default=torch.nn.ModuleList())
    if count > len(layers):
        raise SettingsError(
            f"{count} layers cannot be frozen, the model has {len(layers)}: lower frozen_layers"
        )
    embeddings = [part for part in module.modules() if isinstance(part, torch.nn.Embedding)]
    for part in [*layers[:count], *embeddings]:
        part.requires_grad_(False)


def starting_weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of the trained parameters: where they started, if called before training."""
    return {
        name: parameter.detach().clone()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def distance(
    module: torch.nn.Module, start: Weights, importance: Weights | None = None
) -> torch.Tensor:
    """Return half the squared distance of the trained parameters from their start.

    Args:
        module: What is trained.
        start: From `starting_weights`.
        importance: A weight for each element, from `fisher_information`.
    """
    terms = []
    for name, parameter in module.named_parameters():
        if name in start:
            squares = (parameter - start[name].to(parameter.device)) ** 2
            if importance is not None:
                squares = squares * importance[name].to(parameter.device)
            terms.append(squares.sum())
    return 0.5 * torch.stack(terms).sum()


def fisher_information(
    module: torch.nn.Module,
    rows: Iterable[int],
    loss: Callable[[int], tuple[torch.Tensor, float]],
) -> dict[str, torch.Tensor]:
    """Return the diagonal of the empirical Fisher information, a token.

    The mean over rows of the squared gradient of a row's log-likelihood, divided by its tokens
    (Kirkpatrick et al. 2017, eq. 3). An adapter's first half has none at the start, because its
    other half is zero: EWC is for full training.

    Args:
        module: What will be trained.
        rows: Which pieces of text to use.
        loss: Returns a row's summed negative log-likelihood and its number of tokens.
    """
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    sums = {name: torch.zeros_like(parameter) for name, parameter in trained.items()}
    count = 0
    module.eval()
    for row in rows:
        value, tokens = loss(row)
        gradients = torch.autograd.grad(value, list(trained.values()), allow_unused=True)
        for name, gradient in zip(trained, gradients, strict=True):
            if gradient is not None:
                sums[name] += gradient.detach() ** 2 / tokens
        count += 1
    return {name: total / max(1, count) for name, total in sums.items()}


def interpolate(module: torch.nn.Module, start: Weights, share: float) -> None:
    """Move the trained parameters back, so that `share` of the change stays (WiSE-FT).

    Of an adapter only the half that started at zero is moved, which scales the change of the
    merged weights by exactly `share`.
    """
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name in start and "lora_A" not in name:
                parameter.copy_(start[name].to(parameter.device).lerp(parameter, share))


class FrozenBase:
    """The model as it was before training: the same one without its adapter, or a copy."""

    def __init__(self, module: Any) -> None:  # noqa: ANN401 - any model, maybe peft's
        """Keep a copy if there is no adapter to switch off."""
        self._module = module
        self._copy = None
        if not hasattr(module, "disable_adapter"):
            self._copy = copy.deepcopy(module).requires_grad_(False).eval()

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """Yield the base for predictions without gradients or dropout."""
        with torch.no_grad():
            if self._copy is not None:
                yield self._copy.to(next(self._module.parameters()).device)
                return
            # peft marks all its parameters as trained when it comes back, frozen layers too.
            trained = [(p, p.requires_grad) for p in self._module.parameters()]
            training = self._module.training
            self._module.eval()
            try:
                with self._module.disable_adapter():
                    yield self._module
            finally:
                self._module.train(training)
                for parameter, is_trained in trained:
                    parameter.requires_grad_(is_trained)
