"""Settings: what wins over what, and that nothing wrong passes in silence."""

import dataclasses
import json
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from click.testing import CliRunner

from app.cli import cli
from app.settings import (
    RANGES,
    Settings,
    environment_name,
    flatten,
    load_settings,
    range_text,
    setting_names,
)
from ingest.errors import SettingsError, UsageError


def write(folder: Path, text: str, name: str = "settings.toml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def load(home: Path, flags: dict[str, str] | None = None, /, **environment: str) -> Settings:
    return load_settings(flags, {"TETHER_HOME": str(home), **environment})


def test_without_anything_the_defaults_are_in_force() -> None:
    settings = load_settings({}, {})
    assert settings == dataclasses.replace(Settings(), home=Path("~/.tether").expanduser())
    assert settings.chat.host == "127.0.0.1"


def test_the_file_yields_to_the_environment_and_that_to_flags(tmp_path: Path) -> None:
    write(tmp_path, "[search]\ntop_k = 2\ncandidates = 20\n[generator]\nmodel = 'file'\n")
    environment = {"TETHER_SEARCH_TOP_K": "3", "TETHER_SEARCH_CANDIDATES": "30"}
    settings = load(tmp_path, {"search.top_k": "4"}, **environment)
    assert settings.search.top_k == 4
    assert settings.search.candidates == 30
    assert settings.generator.model == "file"
    assert settings.decoding == Settings().decoding


def test_values_get_the_type_of_their_field(tmp_path: Path) -> None:
    text = "home = '~/elsewhere'\ncollection = 7\n[decoding]\ntemperature = 1\nseed = '12'\n"
    environment = {"TETHER_DECODING_TOP_P": "0.5"}
    settings = load_settings({}, environment, file=write(tmp_path, text))
    assert settings.home == Path.home() / "elsewhere"
    assert settings.collection == "7"
    assert settings.decoding.seed == 12
    assert settings.decoding.top_p == 0.5
    assert isinstance(settings.decoding.temperature, float)


@pytest.mark.parametrize("name", [name for name in setting_names() if name != "home"])
def test_every_setting_can_be_given_as_a_flag_and_a_variable(name: str, tmp_path: Path) -> None:
    hint = hint_of(name)
    default = setting_names()[name]
    if hint in (int, float):
        low, _ = RANGES.get(name, (1, None))
        value: Any = low + 1 if hint is int else 0.25
    elif hint is bool:
        value = not default
    else:
        value = "text" if hint is str else hint.__args__[-1]
    assert value != default
    for settings in (
        load(tmp_path, {name: str(value)}),
        load(tmp_path, **{environment_name(name): str(value)}),
    ):
        assert flatten(settings) == flatten(load(tmp_path)) | {name: value}


def hint_of(name: str) -> Any:  # noqa: ANN401 - whatever type the field has
    section, _, field = name.rpartition(".")
    owner = type(getattr(Settings(), section)) if section else Settings
    return get_type_hints(owner)[field]


def test_no_two_settings_share_a_variable() -> None:
    variables = [environment_name(name) for name in setting_names()]
    assert len(set(variables)) == len(variables)
    assert "TETHER_SETTINGS" not in variables


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("search.top_k", "many"),
        ("search.top_k", "2.5"),
        ("search.top_k", "0"),
        ("search.top_k", "-3"),
        ("decoding.top_p", "nan"),
        ("decoding.temperature", "inf"),
        ("decoding.max_new_tokens", "0"),
        ("chat.port", "70000"),
        ("generator.backend", "magic"),
        ("ingest.max_tokens", "0"),
        ("ingest.overlap_tokens", "200"),
        ("home", ""),
        ("home", "~nobody-has-this-name/x"),
    ],
)
def test_a_wrong_value_is_refused_with_a_remedy(name: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, {name: value})
    message = str(caught.value)
    assert name.rpartition(".")[2] in message
    assert any(word in message for word in ("write ", "choose "))
    assert "\n" not in message


@pytest.mark.parametrize(
    "text",
    [
        "[search]\ntop_k = true",
        "[search]\ntop_k = 2.0",
        "[search]\ntop_k = [5]",
        "[generator]\nmodel = ['a', 'b']",
        "[generator]\nbackend = 3",
    ],
)
def test_a_wrong_type_in_the_file_is_refused(text: str, tmp_path: Path) -> None:
    write(tmp_path, text)
    with pytest.raises(SettingsError, match=r"cannot be .*(write|choose)"):
        load(tmp_path)


@pytest.mark.parametrize(
    "text", ["[generator]\nmodle = 'x'", "generator = 'x'", "[generator.model]"]
)
def test_an_unknown_name_in_the_file_is_refused(text: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        load(tmp_path)
    assert str(path) in str(caught.value) or "cannot be" in str(caught.value)


def test_an_unknown_flag_names_its_nearest_neighbour(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r'did you mean "generator\.model"\?'):
        load(tmp_path, {"generator.modle": "x"})


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "[search\n")
    with pytest.raises(SettingsError, match="mend or remove") as caught:
        load(tmp_path)
    assert str(path) in str(caught.value)


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    write(tmp_path, "\ufeffcollection = 'notes'\n")
    assert load(tmp_path).collection == "notes"


def test_gradios_variables_are_honoured_but_ours_win(tmp_path: Path) -> None:
    gradio = {"GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SERVER_PORT": "8000"}
    chat = load(tmp_path, **gradio).chat
    assert (chat.host, chat.port) == ("0.0.0.0", 8000)
    chat = load(tmp_path, **gradio, TETHER_CHAT_HOST="127.0.0.2", TETHER_CHAT_PORT="9000").chat
    assert (chat.host, chat.port) == ("127.0.0.2", 9000)


def test_an_empty_variable_counts_as_unset(tmp_path: Path) -> None:
    assert load(tmp_path, TETHER_COLLECTION="", TETHER_SETTINGS="").collection == "default"


def test_the_home_of_a_flag_wins_and_holds_the_settings_file(tmp_path: Path) -> None:
    write(tmp_path / "one", "collection = 'one'")
    write(tmp_path / "two", "collection = 'two'")
    settings = load(tmp_path / "one", {"home": str(tmp_path / "two")})
    assert (settings.home, settings.collection) == (tmp_path / "two", "two")


def test_a_home_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(Path("here")).home == tmp_path / "here"


def test_a_home_may_have_chinese_letters_and_spaces(tmp_path: Path) -> None:
    home = tmp_path / "我的 资料"
    write(home, "collection = '笔记'")
    settings = load(home)
    assert (settings.home, settings.collection) == (home, "笔记")


def test_a_settings_file_may_stand_elsewhere(tmp_path: Path) -> None:
    home = write(tmp_path / "home", "collection = 'home'").parent
    named = write(tmp_path, "collection = 'named'", "mine.toml")
    flagged = write(tmp_path, "collection = 'flagged'", "flag.toml")
    assert load(home, TETHER_SETTINGS=str(named)).collection == "named"
    environment = {"TETHER_HOME": str(home), "TETHER_SETTINGS": str(named)}
    assert load_settings({}, environment, file=flagged).collection == "flagged"


def test_a_named_settings_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="create it"):
        load(tmp_path, TETHER_SETTINGS=str(tmp_path / "none.toml"))


def test_errors_of_settings_are_usage_errors() -> None:
    assert issubclass(SettingsError, UsageError)
    assert SettingsError.exit_code == 2


def test_ranges_name_real_settings_and_hold_their_defaults() -> None:
    defaults = setting_names()
    for name, (low, high) in RANGES.items():
        assert low <= defaults[name] <= high
    assert range_text("chat.port") == "1 to 65535"
    assert range_text("generator.threads") == "0 or more"
    assert range_text("home") == ""


def test_the_api_key_is_shown_nowhere(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TETHER_GENERATOR_API_KEY", "sesame")
    assert "sesame" not in repr(load_settings())
    for arguments in (["settings"], ["settings", "--json"]):
        shown = CliRunner().invoke(cli, arguments)
        assert shown.exit_code == 0
        assert "sesame" not in shown.output
        assert "(set)" in shown.output


def test_the_command_shows_every_setting_in_force(home: Path) -> None:
    arguments = ["--set", "search.mode=lexical", "settings", "--json"]
    shown = json.loads(CliRunner().invoke(cli, arguments).stdout)
    assert list(shown) == list(setting_names())
    assert shown["search.mode"] == "lexical"
    assert shown["home"] == str(home)


def test_an_assignment_needs_a_name_and_a_value() -> None:
    shown = CliRunner().invoke(cli, ["--set", "search.mode", "settings"])
    assert shown.exit_code == 2
    assert "NAME=VALUE" in shown.output
