"""Which parts the settings stand for: the backend, and the trained heads of the verifier."""

import json
import logging
from pathlib import Path

import pytest

from app.assembly import (
    build_encoder,
    build_verifier,
    describe_adapters,
    open_searcher,
    resolve_backend,
)
from app.settings import Settings, load_settings
from ingest.errors import SettingsError, WeightsError
from model.cross_encoder import Role
from model.head_verifier import HeadVerifier
from model.verifier import OverlapVerifier, default_calibration
from retrieval.encoders import Encoder, HashingEncoder
from retrieval.search import RerankingSearcher, given_passages
from retrieval.store import open_collection
from retrieval.weights import hash_folder
from tests.test_onnx import build

QUESTION, TEXTS = "Who built it?", ["Ola Fenn built the Zarnith bridge. It opened in 1931."]


@pytest.mark.parametrize(
    ("flags", "backend"),
    [
        ({}, "llama.cpp"),
        ({"generator.device": "cuda"}, "transformers"),
        ({"generator.model": "some/Model.GGUF", "generator.device": "cuda"}, "llama.cpp"),
        ({"generator.model": "org/model"}, "transformers"),
        ({"generator.model": "org/model", "generator.url": "http://127.0.0.1:1/v1"}, "openai"),
        ({"generator.backend": "none", "generator.url": "http://127.0.0.1:1/v1"}, "none"),
    ],
)
def test_the_backend_that_auto_stands_for(flags: dict[str, str], backend: str) -> None:
    assert resolve_backend(load_settings(flags, {})) == backend


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder."""
    return build(tmp_path_factory.mktemp("bert"))


def head(folder: Path, target: Path, role: Role, base: str) -> Path:
    """Write an untrained head with its record; return its folder."""
    from model.training.heads import HeadModel, HeadOptions, save_head

    model = HeadModel(folder, role, HeadOptions(rank=4, alpha=8, window=48))
    save_head(model, target, base="tiny", base_sha256=base)
    record = {"role": role, "base": {"name": "tiny", "sha256": base}}
    (target / "record.json").write_text(json.dumps(record))
    return target


def with_heads(folder: Path, home: Path, **changes: str) -> tuple[Settings, Encoder]:
    flags = {"home": str(home), "encoder.model": str(folder), "encoder.device": "cpu"}
    settings = load_settings(flags | {k.replace("__", "."): v for k, v in changes.items()}, {})
    return settings, build_encoder(settings)


def test_two_heads_make_the_trained_verifier(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = hash_folder(folder, tmp_path)
    read = head(folder, tmp_path / "elsewhere" / "read", "read", base)
    head(folder, tmp_path / "adapters" / "judge", "verify", base)
    names = {"reader__adapter": str(read), "verifier__adapter": "judge"}
    settings, encoder = with_heads(folder, tmp_path, **names)
    with caplog.at_level(logging.WARNING):
        verifier = build_verifier(settings, encoder)
    assert isinstance(verifier, HeadVerifier)
    assert "fitted with another read head" in caplog.text  # they are not the shipped ones
    evidence = verifier.weigh(QUESTION, given_passages(TEXTS, QUESTION, encoder))
    assert verifier.read_answer(evidence) is not None
    used = {row["name"]: row["in_force"] for row in describe_adapters(settings)}
    assert used["judge"] and used["read"]

    judging = with_heads(folder, tmp_path, reader__adapter="none", verifier__adapter="judge")[0]
    judge = build_verifier(judging, encoder)
    assert isinstance(judge, HeadVerifier)
    assert judge.calibration == default_calibration()  # the other needs what a reader says
    neither = with_heads(folder, tmp_path, reader__adapter="none", verifier__adapter="none")[0]
    assert type(build_verifier(neither, encoder)) is OverlapVerifier


def test_heads_are_refused_where_they_do_not_fit(folder: Path, tmp_path: Path) -> None:
    base = hash_folder(folder, tmp_path)
    head(folder, tmp_path / "adapters" / "mine", "read", "f" * 64)
    head(folder, tmp_path / "adapters" / "judge", "verify", base)
    settings, encoder = with_heads(
        folder, tmp_path, reader__adapter="mine", verifier__adapter="judge"
    )
    with pytest.raises(WeightsError, match="trained on another encoder"):
        build_verifier(settings, encoder)
    settings, _ = with_heads(folder, tmp_path, reader__adapter="judge", verifier__adapter="judge")
    with pytest.raises(WeightsError, match=r"for \"verify\", not for \"read\".*reader.adapter"):
        build_verifier(settings, encoder)
    flags = {
        "home": str(tmp_path), "encoder.model": "hashing", "reader.adapter": "mine",
        "verifier.adapter": "judge",
    }  # fmt: skip
    with pytest.raises(SettingsError, match=r"carry no head.*reader.adapter = none"):
        build_verifier(load_settings(flags, {}), HashingEncoder())


def test_another_encoder_takes_no_shipped_head(folder: Path, tmp_path: Path) -> None:
    settings, encoder = with_heads(folder, tmp_path)
    assert type(build_verifier(settings, encoder)) is OverlapVerifier


def test_a_trained_reranker_orders_what_is_found(folder: Path, tmp_path: Path) -> None:
    head(folder, tmp_path / "adapters" / "order", "rerank", hash_folder(folder, tmp_path))
    settings, encoder = with_heads(folder, tmp_path, search__reranker="order")
    with open_collection(tmp_path, "default", encoder, create=True):
        pass
    searcher = open_searcher(settings)[2]
    assert isinstance(searcher, RerankingSearcher)
    in_force = {row["name"]: row["role"] for row in describe_adapters(settings) if row["in_force"]}
    assert in_force == {"order": "rerank", "answer": "answer"}
    with pytest.raises(WeightsError, match=r"no adapter \"nobody\".*search.reranker = none"):
        open_searcher(with_heads(folder, tmp_path, search__reranker="nobody")[0])
