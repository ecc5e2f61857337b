"""The OpenAPI document tells the truth: requests made from it get what it says, and nothing breaks.

``REWINDLM_API_EXAMPLES`` says how many requests are made for each operation.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import schemathesis
from chat_server_process import ServerProcess
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

EXAMPLES = int(os.environ.get("REWINDLM_API_EXAMPLES", "4"))

# A turn, or a text, may fit the document and still not the session: that is a 400, too.
DEPENDS_ON_THE_SESSION = ("PUT /revert/{id}", "POST /fork/{id}", "PUT /generate/{id}")


@pytest.mark.soak
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_every_operation_keeps_its_promise(server: ServerProcess, mode: GenerationMode) -> None:
    """Requests that fit the document, and such that do not."""
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    with server.client() as client:
        client.post("/createSession", json={"id": "user0"})
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == 11
    for operation in operations:
        try:
            keeps_its_promise(operation, mode)
        except Unsatisfiable:
            # A route without parameters cannot be asked wrongly.
            assert mode is GenerationMode.NEGATIVE


def keeps_its_promise(operation: Any, mode: GenerationMode) -> None:
    """Make requests, and run all of the library's checks on the answers."""
    excluded = []
    if operation.label in DEPENDS_ON_THE_SESSION:
        excluded = [check for check in CHECKS.get_all() if check.__name__ == "positive_data_acceptance"]

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case) -> None:
        if isinstance(case.body, dict) and isinstance(case.body.get("max_tokens"), int):
            # Long answers are right, and take long.
            case.body["max_tokens"] = min(case.body["max_tokens"], 2)
        case.call_and_validate(timeout=60, excluded_checks=excluded)

    ask()


def test_every_status_has_a_body(server: ServerProcess) -> None:
    with server.client() as client:
        document = client.get("/openapi.json").json()
    assert len(document["paths"]) == 11
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"] and operation["description"], (method, path)
            for status, answer in operation["responses"].items():
                assert answer["description"] and answer["content"], (method, path, status)
            statuses = {int(status) for status in operation["responses"]}
            assert statuses >= {400, 401, 408, 413, 421, 500, 503}
            if "{id}" in path:
                assert 404 in statuses
            assert (429 in statuses) == ("requestBody" in operation), (method, path)
            assert all(
                "Retry-After" in operation["responses"][str(status)]["headers"]
                for status in statuses & {429, 503}
            )
    generate = document["paths"]["/generate/{id}"]["put"]["responses"]
    assert {"200", "404", "409", "422", "429"} <= generate.keys()
    assert generate["200"]["content"].keys() == {"application/json", "text/event-stream"}
    health = document["paths"]["/health"]["get"]["responses"]["503"]["content"]["application/json"]["schema"]
    assert [one["$ref"].rpartition("/")[2] for one in health["anyOf"]] == ["HealthObject", "ErrorObject"]
    schemas = document["components"]["schemas"]
    bounds = [schemas["Generate"]["properties"][name]["anyOf"][0] for name in ("max_tokens", "top_k", "seed")]
    assert [(one["minimum"], one["maximum"]) for one in bounds] == [
        (1, 2**31 - 1),
        (0, 2**31 - 1),
        (0, 2**63 - 1),
    ]
    tokens = schemas["TokenIds"]
    assert tokens["items"]["maximum"] == 2047 and tokens["maxItems"] == 511
