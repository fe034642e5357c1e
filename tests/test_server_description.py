"""The OpenAPI description, and requests made up from it: none fails the server."""

import pytest

from serving import application

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

from hypothesis import HealthCheck, Phase, settings  # noqa: E402

from maskprobe.server.openapi import DESCRIPTION  # noqa: E402

EXAMPLES = 12  # for each route


@pytest.fixture(scope="module")
def client():
    with application(engine_options={"n_ctx": 64, "n_threads": 1}) as client:
        yield client


def test_every_route_is_described(client):
    paths = client.get("/openapi.json").json()["paths"]
    routes = {route.path.replace(":path}", "}") for route in client.app.routes}
    inner = {route for route in routes if route.startswith("/internal/")} | {"/", "/openapi.json"}
    page = {route for route in routes if "." in route and route != "/openapi.json"}
    assert set(paths) == routes - inner - page


schema = schemathesis.openapi.from_dict(DESCRIPTION)


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_no_request_fails_the_server(case, client):
    kwargs = case.as_transport_kwargs(base_url="http://testserver")
    kwargs.pop("cookies", None)
    answer = client.request(**kwargs)
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.json()["error"]
    body = case.body if isinstance(case.body, dict) else {}
    if answer.status_code == 200 and body.get("stream"):
        assert '{"error"' not in answer.text
