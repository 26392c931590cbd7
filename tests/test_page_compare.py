"""The tab Compare in a real browser: one question, several ways to answer, side by side."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.page.compare_view import Column, columns_html
from app.page.tab_compare import (
    BASE,
    Switched,
    adapters_for,
    columns_of,
    compared,
    known_adapters,
    with_adapter,
)
from app.service import Instead, Service
from app.users import LOCAL, Person
from ingest.errors import UsageError
from model.assistant import Finished
from model.generators import Decoding, ScriptedGenerator, TransformersGenerator
from model.weights import base_hash
from tests.pages import HOSTILE, Opener
from tests.serving_parts import BRIDGE, DRAFT, QUESTION, make_service
from tests.tiny_lora import build_lora
from tests.tiny_models import build_transformers_model

if TYPE_CHECKING:
    from playwright.sync_api import Browser

MEMORY = f"Brunel built it {HOSTILE}"


@pytest.fixture
def opener(browser: "Browser") -> Iterator[Opener]:
    with Opener(browser) as made:
        yield made


@pytest.fixture
def scripted() -> ScriptedGenerator:
    return ScriptedGenerator({"Ola Fenn": DRAFT}, default=MEMORY)


@pytest.fixture
def service(home: Path, tmp_path: Path, scripted: ScriptedGenerator) -> Iterator[Service]:
    """A service whose base is scripted, beside a tiny model that was fine-tuned."""
    model = build_transformers_model(tmp_path, positions=4096)
    adapter = build_lora(home / "adapters" / "mine")
    record = {"role": "answer", "base": {"name": model.name, "sha256": base_hash(model, home)}}
    (adapter / "record.json").write_text(json.dumps(record), "utf-8")
    with make_service(
        home,
        scripted,
        generator__model=str(model),
        generator__backend="transformers",
        generator__device="cpu",
    ) as made:
        made.upload([("bridge.md", io.BytesIO(BRIDGE))])
        yield made


def test_adapters_are_known_by_name_alone(service: Service) -> None:
    assert list(known_adapters(service.settings)) == ["mine"]
    assert with_adapter(service.settings, BASE).generator.adapter == "none"
    for wrong in ("../mine", str(service.settings.home / "adapters" / "mine")):
        with pytest.raises(UsageError, match="no adapter"):
            with_adapter(service.settings, wrong)
    assert list(adapters_for(service, LOCAL)) == ["mine"]
    assert adapters_for(service, Person("1", "ada")) == {}  # what it learnt may be another's


def test_columns_are_told_apart() -> None:
    kinds = [column.kind for column in columns_of("mine")]
    assert kinds == ["closed", "closed_tuned", "open", "open_tuned"]
    assert [column.kind for column in columns_of(BASE)] == ["closed", "open"]
    html = columns_html([Column(True, HOSTILE, error=HOSTILE)], "zh", "default")
    assert "<img" not in html and "<script" not in html and "检索 + 适配器" in html


def recited(service: Service, *, adapted: bool) -> str:
    """Return what the generator says from memory, with its adapter or without it."""
    chosen = compared(service.settings, BASE, Decoding(max_new_tokens=8))
    instead = Instead(chosen, lambda own: Switched(own, adapted=adapted))
    *_, last = service.ask(QUESTION, retrieval=False, instead=instead)
    assert isinstance(last, Finished)
    return last.answer.text


def test_a_fine_tuned_model_answers_from_memory_too(home: Path, tmp_path: Path) -> None:
    model, said = str(build_transformers_model(tmp_path, positions=4096)), []
    for adapter in (None, build_lora(home / "lora")):
        generator = TransformersGenerator(model, name="tiny", device="cpu", adapter=adapter)
        with make_service(home, generator) as service:
            said += [recited(service, adapted=False), recited(service, adapted=True)]
    base, also_base, left_out, tuned = said
    assert base == also_base == left_out != tuned


@pytest.mark.browser
def test_one_question_is_answered_in_every_way(
    opener: Opener, service: Service, scripted: ScriptedGenerator
) -> None:
    shown = opener.open(opener.serve(service))
    page = shown.page
    shown.choose("Compare")
    page.get_by_text("Ask one question in several ways").wait_for()
    box = page.locator("#tether-compare-question textarea")
    box.fill(QUESTION)
    box.press("Enter")
    columns = page.locator(".compare-column")
    page.locator(".compare-column.is-open .tether-answer").wait_for()
    assert columns.locator("h3").all_inner_texts()[::2] == ["Closed book", "Retrieval"]
    closed = page.locator(".compare-column.is-closed")
    assert closed.locator(".tether-claim").first.inner_text().startswith("Brunel built it <img")
    assert closed.locator(".tether-badge").inner_text() == "Unverified, from the model's memory"
    found = page.locator(".compare-column.is-open")
    assert "Ola Fenn" in found.locator(".tether-body").inner_text()
    assert "s · citations: 1" in found.locator(".compare-facts").inner_text()
    page.locator("#tether-compare-go").wait_for()
    assert columns.count() == 4
    assert page.locator(".compare-column .tether-error").count() == 0
    assert page.locator(".compare-column .tether-answer").count() == 4
    assert [prompt.is_for_base for prompt in scripted.prompts] == [True, True]
    assert service.load() == (0, 0)
    assert shown.is_clean()
