"""The adapters in the box: whole, small, with their cards, and fitted together."""

from pathlib import Path

import pytest

from app.assembly import build_verifier, calibration_with
from app.settings import load_settings
from model.adapters import SHIPPED, Adapter, list_adapters
from model.head_verifier import HeadVerifier
from model.verifier import default_calibration, trained_calibration
from retrieval.encoders import Encoder, OnnxEncoder
from retrieval.search import given_passages

MOST_BYTES = 16_000_000  # of all of them together


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Adapter]:
    return [one for one in list_adapters(tmp_path_factory.mktemp("home")) if one.is_shipped]


def test_all_three_are_there(adapters: list[Adapter]) -> None:
    assert {one.role for one in adapters} == {"read", "answer", "verify"}
    assert all(one.name == one.role for one in adapters)
    assert sum(one.bytes for one in adapters) <= MOST_BYTES


def test_verification_was_fitted_with_exactly_these(adapters: list[Adapter]) -> None:
    fitted = trained_calibration().provenance["adapters"]
    assert fitted == {one.role: one.sha256 for one in adapters}


def test_a_head_that_is_off_leaves_the_other_its_functions(adapters: list[Adapter]) -> None:
    heads = {one.role: one for one in adapters if one.role != "answer"}
    trained, plain = trained_calibration(), default_calibration()
    assert calibration_with(heads) == trained
    read = calibration_with({"read": heads["read"]})
    assert (read.answer, read.statement) == (trained.answer, plain.statement)
    judge = calibration_with({"verify": heads["verify"]})
    assert (judge.answer, judge.statement) == (plain.answer, trained.statement)


def test_each_has_a_record_and_a_card(adapters: list[Adapter]) -> None:
    for one in adapters:
        task = one.record["task"]
        data = task["data"]["sha256"] if one.role == "answer" else task["data_sha256"]
        assert isinstance(one.record["seed"], int) and one.record["commit"]
        card = (one.folder / "README.md").read_text("utf-8")
        for told in ("## Data", "## Command", "## Figures", "licence", one.sha256[:12], data[:12]):
            assert told in card, (one.role, told)


def test_nothing_else_lies_there() -> None:
    kinds = {path.suffix for path in SHIPPED.rglob("*") if path.is_file()}
    assert kinds <= {".safetensors", ".json", ".md"}  # no pickle, no data


@pytest.mark.weights
def test_the_shipped_reader_finds_answers(e5_encoder: Encoder, weights_home: Path) -> None:
    assert isinstance(e5_encoder, OnnxEncoder)
    verifier = build_verifier(load_settings({"home": str(weights_home)}, {}), e5_encoder)
    assert isinstance(verifier, HeadVerifier)
    texts = [
        "The Zarnith bridge was designed by Ola Fenn and opened to traffic in 1931.",
        "The ferry to Brenn leaves at noon and takes 40 minutes.",
        "扎尼斯大桥由林望舒设计，1931年建成通车。",
    ]
    for question, answer in (
        ("Who designed the Zarnith bridge?", "Ola Fenn"),
        ("扎尼斯大桥是由谁设计的？", "林望舒"),
    ):
        evidence = verifier.weigh(question, given_passages(texts, question, e5_encoder))
        best = max(evidence.readings, key=lambda one: one.margin)
        assert answer in best.text
