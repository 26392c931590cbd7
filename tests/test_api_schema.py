"""Schemathesis against /openapi.json: no request makes an error of ours, each reply is as promised.

In process, through the guard, with generated requests that fit the schema and ones that do not.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from app.http.server import build_app
from app.service import Service
from tests.serving_parts import BRIDGE, QUESTION, TEA, make_service
from tests.test_service import upload

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
from schemathesis import GenerationMode  # noqa: E402
from schemathesis.config import SchemathesisConfig  # noqa: E402

Operation = Any  # schemathesis' own class, of which only the public face is used
SEED = 20
HOST = {"host": "127.0.0.1:7860"}
# A schema cannot tell all that is refused with 400 (a blank question, a name like ".."), but 422.
REFUSALS = ["400", "403", "404", "409", "413", "503"]
CONFIG = {
    "checks": {
        "positive_data_acceptance": {"expected-statuses": ["2xx", *REFUSALS]},
        "negative_data_rejection": {"expected-statuses": [*REFUSALS, "405", "422"]},
    }
}
TURNS = [{"role": "user", "content": QUESTION}]
ANSWERED: dict[str, list[dict[str, Any]]] = {  # bodies that lead to answers from documents
    "POST /api/ask": [{"question": QUESTION}, {"question": QUESTION, "stream": True}],
    "POST /api/search": [{"question": QUESTION}],
    "POST /v1/chat/completions": [{"messages": TURNS}, {"messages": TURNS, "stream": True}],
    "POST /v1/embeddings": [{"input": QUESTION}],
}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with tempfile.TemporaryDirectory() as home, make_service(Path(home)) as made:
        upload(made, "tea.md", TEA)
        upload(made, "bridge.md", BRIDGE)
        yield made


@pytest.fixture(scope="module")
def operations(service: Service) -> dict[str, Operation]:
    config, app = SchemathesisConfig.from_dict(CONFIG), build_app(service)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=config, headers=HOST)
    found = [one.ok() for one in schema.get_all_operations()]
    return {operation.label: operation for operation in found}


def test_answers_are_as_the_schema_says(operations: dict[str, Operation]) -> None:
    for label, bodies in ANSWERED.items():
        for body in bodies:
            case = operations[label].Case(body=body, media_type="application/json")
            assert case.call_and_validate(headers=HOST).status_code == 200


def test_every_reply_is_as_the_schema_says(
    operations: dict[str, Operation], service: Service
) -> None:
    assert set(ANSWERED) < set(operations)
    for operation in operations.values():
        prove(operation, service, examples=20)


@pytest.mark.slow
def test_hundreds_of_replies_of_each_operation_are_as_the_schema_says(
    operations: dict[str, Operation], service: Service
) -> None:
    for operation in operations.values():
        prove(operation, service, examples=500)


def prove(operation: Operation, service: Service, *, examples: int) -> None:
    """Send generated requests of an operation and check each reply against the schema."""

    @seed(SEED)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases(operation, service))
    def conforms(case: Any) -> None:  # noqa: ANN401 - the class is the schema's own
        case.call_and_validate(headers=HOST)

    conforms()


def cases(operation: Operation, service: Service) -> st.SearchStrategy[Any]:
    """Return requests that fit and ones that do not, of what is there and of what is not."""
    (document, *_) = service.documents()
    there = {"name": "default", "document": document.id}
    named = {one.name: there[one.name] for one in operation.path_parameters if one.name in there}
    strategies = [
        operation.as_strategy(generation_mode=mode)
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    ]
    if named and operation.method.upper() != "DELETE":
        strategies.append(operation.as_strategy(path_parameters=named))
    return st.one_of(strategies)
