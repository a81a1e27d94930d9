"""Every call of the OpenAPI description, fuzzed by schemathesis: what comes back is described, and never a 500.

BGEM3_FUZZ_EXAMPLES sets how many requests a call gets (default 20).
"""

from __future__ import annotations

import os

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from bgem3 import M3Encoder
from bgem3_server.app import create_app
from bgem3_server.settings import Limits, ServerSettings
from tests.server.conftest import MINI

EXAMPLES = int(os.environ.get("BGEM3_FUZZ_EXAMPLES", "20"))
CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]


@pytest.fixture(scope="module")
def described(encoder: M3Encoder):
    app = create_app(ServerSettings(model=str(MINI), limits=Limits(max_collections=20)), encoder=encoder)
    return schemathesis.openapi.from_asgi("/openapi.json", app)


schema = schemathesis.pytest.from_fixture("described")


@pytest.mark.integration
@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_every_call_answers_as_described(case):
    case.call_and_validate(checks=CHECKS)


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
