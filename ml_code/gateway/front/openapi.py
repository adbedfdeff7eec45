"""The parts of /docs that FastAPI does not know: bodies, refusals, and the inference paths."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

_ERROR = {
    "type": "object",
    # Triton's own refusals have no request_id.
    "required": ["error"],
    "properties": {
        "error": {"type": "string"},
        "request_id": {"type": "string"},
        "fields": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "problem"],
                "properties": {"field": {"type": "string"}, "problem": {"type": "string"}},
            },
        },
    },
}


def _refusal(text: str) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": _ERROR}}}


ERRORS: dict[int | str, dict[str, Any]] = {
    400: _refusal("Not JSON, or nested too deep."),
    401: _refusal("The API key is missing or wrong."),
    404: _refusal("There is no such model, version or path."),
    405: _refusal("The path is served with another method."),
    408: _refusal("The body did not arrive in time."),
    413: _refusal("The body is too large."),
    415: _refusal("The body is compressed."),
    422: _refusal("The values do not fit the model; `fields` names them."),
    429: _refusal("The queue is full; see Retry-After."),
    502: _refusal("The model failed on the request."),
    503: _refusal("No Triton can answer now; see Retry-After."),
    504: _refusal("The model did not answer in time."),
}

_ROWS = {"type": "array", "minItems": 1, "items": {}}
_PREDICT_BODY: dict[str, Any] = {
    "schema": {
        "oneOf": [
            {
                "type": "object",
                "properties": {"records": {**_ROWS, "items": {"type": "object"}}},
                "required": ["records"],
                "additionalProperties": False,
            },
            {
                "type": "object",
                "properties": {"rows": _ROWS},
                "required": ["rows"],
                "additionalProperties": False,
            },
            {
                "type": "object",
                "properties": {"columns": {"type": "object", "additionalProperties": {}}},
                "required": ["columns"],
                "additionalProperties": False,
            },
            _ROWS,
        ]
    },
    "example": {"rows": [[5.1, 3.5, 1.4, 0.2]]},
}

_V2_REQUEST = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "inputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "shape", "datatype", "data"],
                "properties": {
                    "name": {"type": "string"},
                    "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                    "datatype": {"type": "string"},
                    "data": {"type": "array", "items": {}},
                },
            },
        },
    },
}


def describe(app: FastAPI) -> None:
    """Add inference to the application's OpenAPI document."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes
            )
            schema["paths"].update(_INFERENCE_PATHS)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _operation(
    summary: str, parameters: list[str], body: dict[str, Any] | None = None, tag: str = "KServe v2"
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "tags": [tag],
        "summary": summary,
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in parameters
        ],
        "responses": {
            "200": {"description": "As Triton answers."},
            "500": _refusal("As Triton answers."),
            **{str(status): response for status, response in ERRORS.items()},
        },
    }
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": body}}
    return operation


_V2_BODY = {"schema": _V2_REQUEST}
_INFERENCE_PATHS: dict[str, Any] = {
    "/predict": {"post": _operation("Ask the default model with rows.", [], _PREDICT_BODY, "predict")},
    "/predict/{model}": {"post": _operation("Ask a model with rows.", ["model"], _PREDICT_BODY, "predict")},
    "/v2/models/{model}/infer": {"post": _operation("Ask the live version.", ["model"], _V2_BODY)},
    "/v2/models/{model}/versions/{version}/infer": {
        "post": _operation("Ask the live version, and no other.", ["model", "version"], _V2_BODY)
    },
    "/v2/models/{model}/ready": {"get": _operation("Whether it can be asked.", ["model"])},
    "/v2/models/{model}": {"get": _operation("Inputs and outputs of the live version.", ["model"])},
    "/v2/health/live": {"get": _operation("Whether the gateway runs.", [])},
    "/v2/health/ready": {"get": _operation("Whether a Triton is ready.", [])},
    "/v2": {"get": _operation("Name and version of the server.", [])},
}
