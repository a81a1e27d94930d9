"""Every call of the OpenAPI description, fuzzed by schemathesis: what comes back is described, and never a 500.

BGEM3_FUZZ_EXAMPLES sets how many requests a call gets (default 8).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from bgem3 import M3Encoder
from bgem3_server.app import create_app
from bgem3_server.settings import Limits, ServerSettings
from tests.server.conftest import MINI

EXAMPLES = int(os.environ.get("BGEM3_FUZZ_EXAMPLES", "8"))
CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]


CALLS = [
    (path, method.upper())
    for path, calls in create_app(ServerSettings()).openapi()["paths"].items()
    for method in calls
]


@pytest.fixture(scope="module")
def described(encoder: M3Encoder) -> Iterator[BaseSchema]:
    app = create_app(ServerSettings(model=str(MINI), limits=Limits(max_collections=20)), encoder=encoder)
    with TestClient(app):
        yield schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.mark.integration
@pytest.mark.parametrize(("path", "method"), CALLS)
def test_every_call_answers_as_described(described, path, method):
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=described[path][method].as_strategy())
    @seed(7)
    def fuzz(case):
        case.call_and_validate(checks=CHECKS)

    fuzz()


def test_the_key_is_described(client):
    schemes = client.get("/openapi.json").json()["components"]["securitySchemes"]
    (scheme,) = schemes.values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    assert "where the server has any" in scheme["description"]


def test_every_call_has_a_description_and_an_example(client):
    document = client.get("/openapi.json").json()
    for path, calls in document["paths"].items():
        for method, call in calls.items():
            assert call.get("description"), (method, path)
    bodies = {
        name: part
        for name, part in document["components"]["schemas"].items()
        if name.endswith("Body") and name != "WeightsBody"
    }
    assert [name for name, part in bodies.items() if not part.get("examples")] == ["DocumentBody"]
