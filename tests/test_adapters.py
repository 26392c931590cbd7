"""Adapters: found by name, described, refused on another base, and heard in the prompt."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.assembly import build_generator, describe_adapters, resolve_adapter, resolve_prompt
from app.cli import cli
from app.settings import Settings, load_settings
from ingest.errors import SettingsError, WeightsError
from model import adapters
from model.adapters import (
    find_adapter,
    label_adapter,
    list_adapters,
    read_adapter,
    require_base,
    shipped_adapter,
)
from model.weights import base_hash
from tests.tiny_lora import build_lora
from tests.tiny_models import build_gguf_model

BASE = {"name": "tiny", "sha256": "a" * 64}


def make(folder: Path, role: str = "answer", **more: object) -> Path:
    """Write an adapter's folder that is whole as far as this file reads."""
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    (folder / "adapter_config.json").write_text('{"r": 4}')
    (folder / "record.json").write_text(json.dumps({"role": role, "base": BASE} | more))
    return folder


def settings(home: Path, **changes: str) -> Settings:
    return load_settings(
        {"home": str(home)} | {k.replace("__", "."): v for k, v in changes.items()}, {}
    )


def test_shipped_ones_come_first_and_are_named_after_their_role(tmp_path: Path) -> None:
    home, shipped = tmp_path / "home", tmp_path / "shipped"
    make(home / "adapters" / "b")
    make(home / "adapters" / "a", "verify")
    make(shipped / "answer")
    (home / "adapters" / "unfinished").mkdir()
    make(home / "adapters" / ".a.old")  # of a training that was killed
    found = list_adapters(home, shipped)
    assert [(a.name, a.role, a.is_shipped) for a in found] == [
        ("answer", "answer", True), ("a", "verify", False), ("b", "answer", False),
    ]  # fmt: skip
    assert shipped_adapter("answer", shipped) == found[0]
    assert shipped_adapter("verify", shipped) is None


def test_a_users_own_name_wins_and_a_path_is_a_path(tmp_path: Path) -> None:
    home, shipped = tmp_path / "home", tmp_path / "shipped"
    make(shipped / "answer")
    assert find_adapter("answer", home, "answer", shipped).is_shipped
    own = make(home / "adapters" / "answer")
    assert find_adapter("answer", home, "answer", shipped).folder == own
    elsewhere = make(tmp_path / "elsewhere" / "适配器")
    assert find_adapter(str(elsewhere), home, "answer", shipped).name == "适配器"


def test_none_of_that_name_and_none_for_that_role(tmp_path: Path) -> None:
    make(tmp_path / "adapters" / "judge", "verify")
    for name, message in (("judge", 'for "verify"'), ("nobody", "there is no adapter")):
        with pytest.raises(WeightsError, match=message) as error:
            find_adapter(name, tmp_path, "answer")
        # With that very setting `tether models` fails as well.
        assert "generator.adapter = none, with which tether models" in str(error.value)


def test_the_hash_follows_weights_and_configuration_only(tmp_path: Path) -> None:
    folder = make(tmp_path / "one")
    first = read_adapter(folder).sha256
    (folder / "README.md").write_text("a card")
    assert read_adapter(folder).sha256 == first
    (folder / "adapter_config.json").write_text('{"r": 8}')
    second = read_adapter(folder).sha256
    (folder / "adapter_model.safetensors").write_bytes(b"Weights")
    assert len({first, second, read_adapter(folder).sha256}) == 3


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("record.json", None),
        ("record.json", "{"),
        ("record.json", "[]"),
        ("record.json", "[" * 100_000),
        ("record.json", '{"role": "answer"}'),
        ("record.json", '{"role": "cook", "base": {"name": "x", "sha256": "y"}}'),
        (
            "record.json",
            '{"role": "answer", "base": {"name": "x", "sha256": "y"}, "prompt": {"z": 1}}',
        ),
        ("adapter_model.safetensors", None),
    ],
)
def test_what_is_no_adapter_is_refused_in_one_line(
    tmp_path: Path, name: str, content: str | None
) -> None:
    folder = make(tmp_path / "broken")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(WeightsError, match=r"generator\.adapter = none") as error:
        read_adapter(folder)
    assert "\n" not in str(error.value)


def test_another_base_is_refused_by_its_hash(tmp_path: Path) -> None:
    adapter = read_adapter(make(tmp_path / "one"))
    require_base(adapter, "renamed", "a" * 64)
    require_base(adapter, "tiny", None)  # on a hub: its name is all there is
    for name, sha256 in (("tiny", "b" * 64), ("other", None)):
        with pytest.raises(WeightsError, match=r"set generator\.model = tiny"):
            require_base(adapter, name, sha256)


def test_a_record_of_training_is_labelled(tmp_path: Path) -> None:
    folder = make(tmp_path / "trained")
    (folder / "record.json").write_text('{"seed": 3}')
    label_adapter(folder, "answer", "tiny", "a" * 64, {"examples": 0})
    adapter = read_adapter(folder)
    assert (adapter.role, adapter.base_name, adapter.base_sha256) == ("answer", "tiny", "a" * 64)
    assert (dict(adapter.prompt), adapter.record["seed"]) == ({"examples": 0}, 3)


def test_the_prompt_is_the_adapters_unless_the_user_set_it(tmp_path: Path) -> None:
    make(tmp_path / "adapters" / "mine", prompt={"examples": 0, "passage_tokens": 220})
    base, learnt = settings(tmp_path), settings(tmp_path, generator__adapter="mine")
    assert resolve_prompt(learnt).examples == 0
    assert resolve_prompt(learnt).passage_tokens == 220
    assert resolve_prompt(settings(tmp_path, generator__adapter="none")) == base.prompt
    default = str(base.prompt.examples)
    own = settings(tmp_path, generator__adapter="mine", prompt__examples=default)
    assert resolve_prompt(own).examples == base.prompt.examples
    assert resolve_prompt(own).passage_tokens == 220


def test_auto_is_the_shipped_one_of_the_default_generator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = make(tmp_path / "shipped" / "answer")
    monkeypatch.setattr(shipped_adapter, "__defaults__", (tmp_path / "shipped",))
    found = resolve_adapter(settings(tmp_path))
    assert found is not None and found.folder == shipped
    for changes in (
        {"generator__adapter": "none"},
        {"generator__model": "org/other"},
        {"generator__backend": "none"},
    ):
        assert resolve_adapter(settings(tmp_path, **changes)) is None
    with pytest.raises(SettingsError, match=r"generator\.adapter = none"):
        resolve_adapter(settings(tmp_path, generator__backend="none", generator__adapter="x"))


def test_models_lists_adapters_and_which_is_in_force(tmp_path: Path) -> None:
    make(tmp_path / "adapters" / "mine")
    make(tmp_path / "adapters" / "judge", "verify")
    elsewhere = make(tmp_path / "elsewhere")
    rows = describe_adapters(settings(tmp_path, generator__adapter=str(elsewhere)))
    own = [row for row in rows if row["source"] == "trained here"]
    assert [(row["name"], row["in_force"]) for row in own] == [
        ("judge", False), ("mine", False), ("elsewhere", True),
    ]  # fmt: skip
    arguments = ["--home", str(tmp_path), "--set", "encoder.model=hashing"]
    arguments += ["--set", "generator.adapter=mine", "models"]
    printed = CliRunner().invoke(cli, [*arguments, "--json"], catch_exceptions=False).output
    (mine,) = [row for row in json.loads(printed) if row.get("name") == "mine"]
    assert (mine["role"], mine["base"], mine["in_force"]) == ("adapter: answer", "tiny", True)
    text = CliRunner().invoke(cli, arguments, catch_exceptions=False).output
    assert "adapter: answer (in force)" in text and "adapter: verify\n" in text


def test_the_generator_runs_the_adapter_or_refuses_it(tmp_path: Path) -> None:
    base = build_gguf_model(tmp_path / "base.gguf")
    folder = tmp_path / "adapters" / "mine"
    build_lora(folder)
    changes = {"generator__model": str(base), "generator__adapter": "mine"}
    changes |= {"generator__threads": "1", "generator__context_tokens": "512"}
    label_adapter(folder, "answer", "tiny", "b" * 64)
    with pytest.raises(WeightsError, match="was trained on tiny"):
        build_generator(settings(tmp_path, **changes))
    label_adapter(folder, "answer", "tiny", base_hash(base, tmp_path))
    build_generator(settings(tmp_path, **changes))
    assert len(list((tmp_path / "weights" / "adapters").glob("*.gguf"))) == 1


@pytest.mark.parametrize("path", sorted(adapters.SHIPPED.glob("*/record.json")), ids=str)
def test_what_is_shipped_can_be_read(path: Path) -> None:
    adapter = read_adapter(path.parent, is_shipped=True)
    assert adapter.role == adapter.name
    assert (path.parent / "README.md").is_file()
    if adapter.role == "answer":
        from model.weights import GEMMA_GGUF

        assert adapter.base_sha256 == GEMMA_GGUF.source_sha256
