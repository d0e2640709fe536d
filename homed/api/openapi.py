"""The OpenAPI 3.1 and AsyncAPI 3.0 documents, generated from the routes: what is served is what is documented."""

import http
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from homed.api.routes import Family, Route
from homed.events import Event

Families = Sequence[tuple[Family, Sequence[Route]]]
# RFC 9110's names: Python before 3.13 has older ones.
_PHRASES = {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}
_REF = "#/components/schemas/{name}"
_LIMIT_HEADERS = {
    "X-RateLimit-Limit": "Requests that this class allows a client: a minute, or an hour where fewer of that are left.",
    "X-RateLimit-Remaining": "How many are left.",
    "X-RateLimit-Reset": "Unix time at which all are to be had again.",
}


def document(families: Families, version: str) -> dict[str, Any]:
    """The OpenAPI document of every HTTP route; sockets are in `sockets`."""
    served = [(family, r) for family, routes in families for r in routes if r.documented and not r.socket]
    schemas, components = _schemas(served)
    paths: dict[str, dict[str, Any]] = {}
    for family, route in served:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(family, route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "homed",
            "version": version,
            "summary": "The daemon on each board of an edge appliance.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(route.tag for _, route in served)],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
            "headers": {
                name: {"description": text, "schema": {"type": "integer"}} for name, text in _LIMIT_HEADERS.items()
            },
        },
    }


def sockets(families: Families, version: str) -> dict[str, Any]:
    """The AsyncAPI document of the WebSockets."""
    found = [route for _, routes in families for route in routes if route.socket]
    (schema,), components = msgspec.json.schema_components([Event], ref_template=_REF)
    messages = {
        "event": {"contentType": "application/json", "payload": schema},
        "line": {
            "contentType": "text/plain",
            "payload": {"type": "string", "description": "One line of the log."},
        },
    }
    channels, operations = {}, {}
    for route in found:
        log = "serviceLogs" if route.path.startswith("/ws/services/") else "containerLogs"
        name = "events" if route.path.endswith("events") else log
        message = "event" if name == "events" else "line"
        channels[name] = _channel(route, message)
        operations[f"receive_{name}"] = {
            "action": "receive",
            "summary": route.summary,
            "channel": {"$ref": f"#/channels/{name}"},
            "messages": [{"$ref": f"#/channels/{name}/messages/{message}"}],
        }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "homed sockets", "version": version, "description": _SOCKETS},
        "servers": {"board": {"host": "localhost:8080", "protocol": "ws"}},
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": components},
    }


_SOCKETS = (
    "Only the board speaks. It pings every 30 seconds. A client that does not read as fast as events come is closed "
    "with code 1013 and has lost events: it reads the state anew and connects again. Where a key is needed, it goes "
    "into X-API-Key or Authorization, or (browsers) a token into the query as access_token."
)


def _channel(route: Route, message: str) -> dict[str, Any]:
    channel: dict[str, Any] = {
        "address": route.path,
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
    }
    if route.params:
        channel["parameters"] = {name: {"description": text} for name, text in route.params.items()}
    if route.query is not None:
        channel["bindings"] = {"ws": {"query": _inline(route.query)}}
    return channel


def _schemas(served: Sequence[tuple[Family, Route]]) -> tuple[dict[Any, Any], dict[str, Any]]:
    wanted = [family.error_type for family, _ in served]
    wanted += [kind for _, route in served for kind in (route.body, route.response) if kind is not None]
    kinds = list(dict.fromkeys(wanted))
    found, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    for component in components.values():
        if "description" in component:
            # Python 3.13 removes the indentation of docstrings itself; the document must be the same on every version.
            component["description"] = inspect.cleandoc(component["description"])
    return dict(zip(kinds, found, strict=True)), dict(sorted(components.items()))


def _inline(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """A flat struct's schema without references."""
    _, components = msgspec.json.schema_components([kind], ref_template=_REF)
    return dict(components[kind.__name__])


def _operation(family: Family, route: Route, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "tags": [route.tag],
        "responses": _responses(family, route, schemas),
    }
    notes = [f"Limit class: `{route.limit}`{_more_limits(route)}."]
    if route.scope is not None:
        notes.insert(0, f"Needs the scope `{route.scope}`, unless it comes by a listener that is loopback only.")
        operation["security"] = [{}, {"key": []}, {"bearer": []}]
    operation["description"] = " ".join(notes)
    parameters = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": text,
            "schema": {"type": "string", "minLength": 1},
        }
        for name, text in route.params.items()
    ]
    if route.query is not None:
        parameters += [
            {"name": name, "in": "query", "schema": schema}
            for name, schema in _inline(route.query)["properties"].items()
        ]
    parameters += [
        {"name": name, "in": "header", "description": text, "schema": {"type": "string"}}
        for name, text in route.headers.items()
    ]
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        operation["requestBody"] = {
            "required": not route.optional,
            "content": {"application/json": {"schema": schemas[route.body]}},
        }
    if route.uploads:
        # A schema that says nothing: in OpenAPI 3.1 a body of another type is bytes by that alone.
        form = {} if route.form is None else {"schema": _inline(route.form)}
        operation["requestBody"] = {"required": True, "content": dict.fromkeys(route.uploads, form)}
    return operation


def _more_limits(route: Route) -> str:
    hourly = f", by the hour `{route.hourly}`" if route.hourly else ""
    return hourly + (f", at once `{route.burst}`" if route.burst else "")


def _responses(family: Family, route: Route, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in _LIMIT_HEADERS}
    content: dict[str, Any] = {}
    if route.response is not None:
        content["application/json"] = {"schema": schemas[route.response]}
    for kind in route.streams:
        # Whether a schema is of a stream or of each of its events is not said in OpenAPI 3.1.
        content[kind] = {} if kind == "text/event-stream" else {"schema": {"type": "string"}}
    responses: dict[str, Any] = {}
    for status in (route.status, *route.statuses):
        responses[str(status)] = {
            "description": _phrase(status),
            "headers": headers,
            "content": content,
        }
    # Past auth, limits and the Host header, these can happen to every request.
    common = [421, 429, 500]
    common += [401, 403] if route.scope is not None else [401]
    common += [400, 413, 415] if route.body is not None else []
    error = {"application/json": {"schema": schemas[family.error_type]}}
    for status in sorted({*common, *route.errors} - {int(code) for code in responses}):
        responses[str(status)] = {
            "description": _phrase(status),
            "headers": headers,
            "content": error,
        }
    return responses


def _operation_id(route: Route) -> str:
    words = re.findall(r"[a-z0-9]+", route.path.lower().replace("/api/v1/", "/"))
    return "_".join([route.method.lower(), *words])


def _phrase(status: int) -> str:
    return _PHRASES.get(status) or http.HTTPStatus(status).phrase
