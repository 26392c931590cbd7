"""The tab Lens in a real browser: what is shown is what the model sees, and goes step by step."""

import io
import threading
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from app.page.decoding_controls import chosen_decoding
from app.page.lending import Lender
from app.page.lens_view import Sight, sight_html
from app.page.tab_lens import LONGEST_PASSAGE, load_lens, sights, wanted_of
from app.service import Service
from ingest.errors import SettingsError, UsageError
from model.generators import Decoding, ScriptedGenerator
from model.lens import Candidate, Lens, Step, View, path_of
from tests.pages import HOSTILE, Opener, ShownPage
from tests.serving_parts import BRIDGE, make_service
from tests.test_lens import byte_level

QUESTION = "Who built the bridge?"
PASSAGE = f"Ola Fenn built it. {HOSTILE}"
GREEDY = ("greedy", 0.7, 0.95, 0, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of bytes: it can read, and say, whatever there is."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder, tokenizer = tmp_path_factory.mktemp("model"), byte_level()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=8192, initializer_range=0.5,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=None, pad_token_id=None,
    )).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture
def service(home: Path, folder: Path) -> Iterator[Service]:
    with make_service(
        home,
        generator__model=str(folder),
        generator__backend="transformers",
        generator__device="cpu",
    ) as made:
        yield made


@pytest.fixture
def lens(service: Service) -> Lens:
    return load_lens(service.settings)


def seen(lens: Lens, service: Service, *values: Any) -> Sight:  # noqa: ANN401
    """Return what the lens shows in the end of the tab's inputs."""
    return list(sights(lens, wanted_of(values), service.settings))[-1]


class TestInputs:
    def test_nothing_that_a_browser_sends_is_taken_on_trust(self) -> None:
        wanted = wanted_of((f" {QUESTION} ", None, "told", 5, *GREEDY))
        assert (wanted.question, wanted.passage, wanted.lead) == (QUESTION, "", "untold")
        assert wanted.decoding == Decoding(max_new_tokens=5)
        for wrong in (
            ("", "", "told", 5, *GREEDY),
            (7, "", "told", 5, *GREEDY),
            (QUESTION, ["x"], "told", 5, *GREEDY),
            (QUESTION, "x" * (LONGEST_PASSAGE + 1), "told", 5, *GREEDY),
            (QUESTION, "", "told", 65, *GREEDY),
            (QUESTION, "", "told", "5", *GREEDY),
            (QUESTION, "", "told", 5, "magic", *GREEDY[1:]),
            (QUESTION, "", "told", 5, "sample", 0.0, 0.9, 0, 4),
            (QUESTION, "", "told", 5, "sample", 0.7, 0.9, None, 4),
            (QUESTION, "", "told", 5, "beam", 0.7, 0.9, 0, 9_000),
        ):
            with pytest.raises(UsageError):
                wanted_of(wrong)
        sampled = chosen_decoding(("sample", 1, 0.9, 7.0, 4), Decoding(max_new_tokens=3))
        assert sampled == Decoding("sample", 1.0, 0.9, 7, 4, 3)

    def test_a_model_that_transformers_cannot_load_is_named(self, service: Service) -> None:
        chosen = service.settings.generator
        for other in (
            replace(chosen, model="somewhere.gguf", backend="auto"),
            replace(chosen, model="theirs", backend="openai", url="http://127.0.0.1:9"),
        ):
            with pytest.raises(SettingsError, match="the lens cannot look into"):
                load_lens(replace(service.settings, generator=other))


class TestSights:
    def test_who_leads_chooses_and_the_other_one_follows(
        self, lens: Lens, service: Service
    ) -> None:
        told = seen(lens, service, QUESTION, PASSAGE, "told", 6, *GREEDY)
        untold = seen(lens, service, QUESTION, PASSAGE, "untold", 6, *GREEDY)
        assert told.lanes == ("told", "untold") == untold.lanes[::-1]
        assert PASSAGE in told.prompts[0] and PASSAGE not in told.prompts[1]
        assert told.prompts == untold.prompts[::-1]
        for sight in (told, untold):
            for step in sight.steps:
                assert step.views[0].chosen == step.views[0].candidates[0]
                assert step.views[1].chosen.token == step.views[0].chosen.token
        assert untold.steps[0].views[0].candidates == told.steps[0].views[1].candidates
        alone = seen(lens, service, QUESTION, "", "told", 6, *GREEDY)
        assert alone.lanes == ("untold",)
        assert [step.text for step in alone.steps] == [step.text for step in untold.steps]

    def test_beams_of_both_are_searched(self, lens: Lens, service: Service) -> None:
        sight = seen(lens, service, QUESTION, PASSAGE, "told", 6, "beam", 1, 1, 0, 3)
        assert [steps[-1].is_last for steps in sight.beams] == [True, True]
        html = sight_html(sight, "en")
        assert html.count('type="radio"') == max(map(len, sight.beams))
        assert html.count("★") == sum(len(path_of(steps)) for steps in sight.beams)


class _Tags(HTMLParser):
    """Notes every tag with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_tokens_and_prompts_stay_text_and_small_chances_are_told() -> None:
    hostile = Candidate(1, HOSTILE, 0.0004)
    view = View((Candidate(2, "x", 0.97, is_cut=True),), hostile, 0.02, -0.0)
    other = View((hostile,), hostile, 0.5, 1.0)
    step = Step(1, HOSTILE, "length", (view, other))
    html = sight_html(Sight(("untold", "told"), (HOSTILE, HOSTILE), (step,)), "en")
    parser = _Tags()
    parser.feed(html)
    assert {"img", "script", "a"}.isdisjoint(tag for tag, _ in parser.tags)
    assert not any(name.startswith("on") for _, given in parser.tags for name in given)
    assert "{{" not in html and "${" not in html
    assert "&lt;0.1%" in html and "97%" in html and "2.0%" in html
    assert html.index("With the passage") < html.index("Without the passage")


class TestLending:
    def test_one_model_is_loaded_when_needed_and_closed_when_another_comes(self) -> None:
        loaded: list[Closing] = []

        def load(name: str) -> Closing:
            loaded.append(Closing(name))
            return loaded[-1]

        lender = Lender(load)
        with lender.turn("ada") as turn:
            assert turn.wait() == 0 and not loaded
            assert turn.take("a") is turn.take("a")
            assert lender.holds("a")
            turn.take("b")
        assert [(one.name, one.closed.is_set()) for one in loaded] == [("a", True), ("b", False)]
        with lender.turn("ada") as turn:
            assert turn.wait() == 0
            assert turn.take("b") is loaded[1]

    def test_they_stand_in_line(self) -> None:
        lender = Lender(Closing)
        with lender.turn("ada") as first, lender.turn("ben") as second:
            assert (first.wait(), second.wait()) == (0, 1)

    def test_nobody_keeps_it_for_ever(self) -> None:
        lender = Lender(Closing, idle_seconds=0.01)
        with lender.turn("ada") as turn:
            turn.wait()
            model = turn.take("a")
            assert not model.closed.is_set()
        assert model.closed.wait(60)
        assert not lender.holds("a")


class Closing(ScriptedGenerator):
    """Knows whether it was closed."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


def fill(shown: ShownPage, **boxes: str) -> None:
    """Write into boxes of the tab."""
    for name, text in boxes.items():
        box = shown.page.locator(f"#tether-lens-{name} :is(textarea, input[type=number])").first
        box.fill(text)
        box.blur()


def look(shown: ShownPage, until: str) -> None:
    """Look, and wait until this is on the screen and the last step is done."""
    shown.page.locator("#tether-lens-look").click()
    shown.page.locator(until).first.wait_for()
    shown.page.locator("#tether-lens-look").wait_for()


@pytest.mark.browser
class TestPage:
    def test_steps_are_gone_through_by_mouse_and_by_keyboard(
        self, opener: Opener, service: Service, lens: Lens
    ) -> None:
        expected = seen(lens, service, QUESTION, PASSAGE, "told", 5, *GREEDY)
        shown = opener.open(opener.serve(service))
        page = shown.page
        shown.choose("Lens")
        page.get_by_text("See how the model finds each word").wait_for()
        fill(shown, question=QUESTION, passage=PASSAGE, steps="5")
        look(shown, ".lens-text em")
        assert page.locator("#tether-lens-note .tether-error").count() == 0
        tokens = page.locator(".lens-token")
        chosen = [step.views[0].chosen.text for step in expected.steps]
        assert tokens.locator("bdi").all_inner_texts() == chosen
        assert len(chosen) > 1
        sections = page.locator(".lens-step:visible")
        assert sections.count() == 1
        tokens.first.click()
        first = expected.steps[0]
        lanes = sections.locator(".lens-lane")
        assert lanes.locator("h3").all_inner_texts() == ["With the passage", "Without the passage"]
        assert lanes.nth(1).locator("li bdi").first.inner_text() == (
            first.views[1].candidates[0].text
        )
        assert sections.locator(".lens-moved bdi").inner_text() == chosen[0]
        page.keyboard.press("ArrowRight")
        assert tokens.nth(1).locator("input").is_checked()
        assert sections.locator(".lens-moved bdi").inner_text() == chosen[1]

        page.locator(".lens-prompts summary").click()
        prompts = page.locator(".lens-prompts pre").all_inner_texts()
        assert HOSTILE in prompts[0] and HOSTILE not in prompts[1]
        page.locator("#tether-language").click()
        page.get_by_role("heading", name="有资料").last.wait_for()
        assert tokens.locator("bdi").all_inner_texts() == chosen
        assert shown.is_clean()

    def test_draws_beams_errors_and_a_narrow_page(
        self, opener: Opener, service: Service, lens: Lens
    ) -> None:
        service.upload([("bridge.md", io.BytesIO(BRIDGE))])
        drawn = seen(lens, service, QUESTION, "", "told", 4, "sample", 0.7, 0.95, 3, 4)
        shown = opener.open(opener.serve(service), viewport={"width": 390, "height": 800})
        page = shown.page
        shown.choose("Lens")
        fill(shown, question=QUESTION, passage="", steps="4")
        page.get_by_label("Sampling").check()
        fill(shown, seed="3")
        look(shown, ".lens-text em")
        chosen = [step.views[0].chosen.text for step in drawn.steps]
        assert page.locator(".lens-token bdi").all_inner_texts() == chosen
        assert page.locator(".lens-step:visible .lens-lane").count() == 1

        page.locator("#tether-lens-take").click()
        page.get_by_text("The nearest passage of your documents: Bridges").wait_for()
        page.get_by_label("Beam search").check()
        look(shown, ".lens-step:visible .is-told")
        assert page.locator(".lens-step:visible .lens-lane").count() == 2
        assert page.locator("table [title^='on the way']").count() > 1
        assert page.evaluate("document.documentElement.scrollWidth") <= 390

        fill(shown, question=" ")
        look(shown, "#tether-lens-note .tether-error")
        assert "the question is empty" in page.locator("#tether-lens-note").inner_text()
        assert shown.is_clean()
