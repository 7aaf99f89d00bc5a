"""The OpenAPI document: the framework's routes and the hot ones in one, each with its refusals."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from steelyard.runtime.hot_routes import HotRoute
from steelyard.runtime.problems import MEANINGS

REF = "#/components/schemas/{name}"
_PROBLEM = {"$ref": "#/components/schemas/Problem"}
_JSON = "application/json"
_PROBLEM_JSON = "application/problem+json"
_ALWAYS = ("unauthenticated", "forbidden", "invalid_input", "overloaded", "database_unavailable")
_WITH_BODY = ("malformed_body", "body_too_large", "unsupported_media_type")

Document = dict[str, Any]


def compose(
    framework: Document, routes: Iterable[HotRoute], permissions: Mapping[str, str]
) -> Document:
    """Return the whole document.

    Args:
        framework: What the framework says of its own routes.
        routes: The hot routes.
        permissions: For each `METHOD path` of the framework's routes, the permission it asks for.
    """
    hot = list(routes)
    schemas = _schemas_of(hot)
    paths: Document = {path: dict(methods) for path, methods in framework.get("paths", {}).items()}
    for path, methods in paths.items():
        for method, operation in methods.items():
            permission = permissions.get(f"{method.upper()} {path}")
            methods[method] = _framework_operation(operation, permission)
    for route in hot:
        paths.setdefault(route.path, {})[route.method.lower()] = _hot_operation(route)
    own = {
        name: schema
        for name, schema in framework.get("components", {}).get("schemas", {}).items()
        if name not in ("HTTPValidationError", "ValidationError")
    }
    return {
        **{name: framework[name] for name in ("openapi", "info")},
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted({**own, **schemas, "Problem": _problem_schema()}.items())),
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A signed token, or an API key (`sk_…`).",
                }
            },
        },
    }


def _types_of(route: HotRoute) -> list[Any]:
    operation = route.operation
    shapes = [*operation.answers.values(), operation.body, operation.query]
    return [shape for shape in shapes if shape not in (None, str, dict)]


def _schemas_of(routes: Iterable[HotRoute]) -> Document:
    types = {shape.__name__: shape for route in routes for shape in _types_of(route)}
    _, components = msgspec.json.schema_components(list(types.values()), ref_template=REF)
    queries = {
        route.operation.query.__name__ for route in routes if route.operation.query is not None
    }
    return {name: _plain(s) for name, s in components.items() if name not in queries}


def _plain(schema: Any) -> Any:
    """Return a schema in which a decimal is the JSON number it is on the wire, not text."""
    if isinstance(schema, list):
        return [_plain(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("format") == "decimal":
        return {"type": "number"}
    return {name: _plain(value) for name, value in schema.items()}


def _hot_operation(route: HotRoute) -> Document:
    operation = route.operation
    is_public = route.permission == "public"
    parameters = [
        {"name": segment[1:-1], "in": "path", "required": True, "schema": {"type": "string"}}
        for segment in route.path.split("/")
        if segment.startswith("{")
    ]
    parameters += _query_parameters(operation.query)
    if operation.needs_key:
        parameters.append(_KEY_PARAMETER)
    described: Document = {
        "summary": operation.summary,
        "description": (route.handler.__doc__ or operation.summary).strip(),
        "operationId": f"{route.method.lower()}_{route.path.strip('/').translate(_PLAIN_NAME)}",
        "tags": [operation.tag],
        "parameters": parameters,
        "x-permission": route.permission,
        "responses": _responses(route, is_public=is_public),
    }
    if not is_public:
        described["security"] = [{"bearer": []}]
    if operation.body is not None:
        ref = {"$ref": REF.format(name=operation.body.__name__)}
        described["requestBody"] = {
            "required": not operation.body_is_optional,
            "content": {_JSON: {"schema": ref}},
        }
    return described


def _query_parameters(query: type | None) -> list[Document]:
    if query is None:
        return []
    _, components = msgspec.json.schema_components([query], ref_template=REF)
    schema = components[query.__name__]
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "schema": _plain(of),
        }
        for name, of in schema["properties"].items()
    ]


def _responses(route: HotRoute, *, is_public: bool) -> Document:
    operation = route.operation
    found: Document = {}
    for status, shape in operation.answers.items():
        if shape is str:
            content: Document = {operation.media_type: {"schema": {"type": "string"}}}
        elif shape is dict:
            content = {_JSON: {"schema": {"type": "object"}}}
        else:
            content = {_JSON: {"schema": {"$ref": REF.format(name=shape.__name__)}}}
        described = (
            "The same document as the first time."
            if status == 200 and 201 in operation.answers
            else "Done."
        )
        found[str(status)] = {"description": described, "content": content}
    codes = set(operation.problems)
    if not is_public:
        codes.update(_ALWAYS)
    if operation.body is not None:
        codes.update(_WITH_BODY)
    if operation.needs_key:
        codes.add("idempotency_key_required")
    by_status: dict[int, list[str]] = {}
    for code in sorted(codes):
        by_status.setdefault(MEANINGS[code].status, []).append(code)
    for status, named in sorted(by_status.items()):
        found.setdefault(str(status), _refusal(named))
    return found


def _refusal(codes: Iterable[str]) -> Document:
    return {
        "description": ", ".join(f"`{code}`" for code in codes),
        "content": {_PROBLEM_JSON: {"schema": _PROBLEM}},
    }


def _framework_operation(operation: Document, permission: str | None) -> Document:
    responses = {}
    for status, response in operation.get("responses", {}).items():
        if int(status) >= 400:
            described = response.get("description", "")
            content = {_PROBLEM_JSON: {"schema": _PROBLEM}}
            responses[status] = {"description": described, "content": content}
        else:
            responses[status] = response
    return {
        **operation,
        "responses": responses,
        "x-permission": permission,
        "security": [] if permission == "public" else [{"bearer": []}],
    }


def _problem_schema() -> Document:
    texts = ("type", "title", "detail", "request_id")
    return {
        "type": "object",
        "description": "Why a request was refused (RFC 9457). Further fields depend on `code`.",
        "properties": {
            **{name: {"type": "string"} for name in texts},
            "status": {"type": "integer"},
            "code": {"type": "string", "enum": sorted(MEANINGS)},
            "retryable": {
                "type": "boolean",
                "description": "Whether the same request, with the same key, can succeed later.",
            },
            "param": {"type": "string", "description": "The field that is wrong."},
        },
        "required": [*texts, "status", "code", "retryable"],
        "additionalProperties": True,
    }


_PLAIN_NAME = str.maketrans({"/": "_", "{": None, "}": None, "-": "_"})
_KEY_PARAMETER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": True,
    "description": "1 to 255 printable ASCII characters. The same key with the same body answers what the first "
    "request did; with another body it is refused. Kept for ever.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}
