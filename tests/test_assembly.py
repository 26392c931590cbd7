"""Which backend a setting stands for."""

import pytest

from app.assembly import resolve_backend
from app.settings import load_settings


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
