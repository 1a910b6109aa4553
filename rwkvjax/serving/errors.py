# SPDX-License-Identifier: Apache-2.0
"""Errors as the OpenAI interface words them."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

_MANY = 1000


class ApiError(Exception):
    """An answer with a status of 400 or above."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {
                "message": self.message,
                "type": kinds.get(self.status, kind),
                "param": self.param,
                "code": self.code,
            }
        }


def from_validation(error: ValidationError) -> ApiError:
    """The first thing wrong with a body, without repeating what the client sent."""
    if error.error_count() > _MANY:  # to list them all may take seconds
        message = f"{error.error_count()} values of the body are not valid"
        return ApiError(400, message, "invalid_value")
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    param = ".".join(str(part) for part in first["loc"])[:100]
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON: {first['msg']}"[:300], "invalid_json")
    more = error.error_count() - 1
    also = f" (and {more} more)" if more else ""
    return ApiError(400, f"{param}: {first['msg']}{also}"[:400], "invalid_value", param or None)
