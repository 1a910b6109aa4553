# SPDX-License-Identifier: Apache-2.0
"""Keeps API keys out of everything that is written: logs, caches, reports, error messages."""

from __future__ import annotations

import base64
import logging
import os
import re
import traceback
import urllib.parse
from collections.abc import Callable, Iterable
from typing import Any

MASK = "[redacted]"
MIN_KEY = 8  # characters
_LOOKS_SECRET = re.compile(
    r"\b(?:sk|pk|rk|hf|gsk|xai|AIza)[-_][A-Za-z0-9_\-]{12,}|\bAIza[A-Za-z0-9_\-]{20,}"
    r"|(?i:\bbearer\s+)[A-Za-z0-9._~+/=\-]{8,}"
    r"|(?i:(?:api[-_ ]?key|authorization)[\"']?\s*[:=]\s*[\"']?)[A-Za-z0-9._~+/=\-]{8,}"
)


class Redactor:
    """Replaces known secrets, in the spellings they travel in, and things that look like keys."""

    def __init__(self, secrets: Iterable[str] = ()):
        spellings = {s for secret in secrets if len(secret) >= 4 for s in _spellings(secret)}
        self._known = sorted(spellings, key=lambda s: (-len(s), s))

    def exact(self, text: str) -> str:
        """Replaces known secrets only; for texts that must otherwise stay as they are."""
        for secret in self._known:
            text = text.replace(secret, MASK)
        return text

    def __call__(self, text: str) -> str:
        """Replaces known secrets and whatever looks like a key; for messages."""
        return _LOOKS_SECRET.sub(MASK, self.exact(text))


def _spellings(secret: str) -> set[str]:
    raw = secret.encode()
    return {
        secret,
        urllib.parse.quote(secret, safe=""),
        repr(secret)[1:-1],
        base64.b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode(),
    }


def read_key(variable: str) -> str:
    """The API key in an environment variable; "" if `variable` is "".

    Raises:
      ValueError: `variable` is not the name of a variable (someone may have put the key itself into
        the configuration; it is not repeated in the message), or the variable is not set, or holds
        a placeholder such as "none".
    """
    if not variable:
        return ""
    if not re.fullmatch(r"[A-Z][A-Z0-9_]{0,63}", variable):
        raise ValueError(
            "api_key_env must be the NAME of an environment variable (upper case), never a key;"
            f" got {len(variable)} other characters"
        )
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(f"the environment variable {variable} with the API key is not set")
    if len(key) < MIN_KEY:  # a word such as "none" would be blotted out of the answers
        raise ValueError(
            f"the value of {variable} is too short for an API key (under {MIN_KEY} characters);"
            ' for an endpoint without keys leave api_key_env empty ("")'
        )
    return key


def check_url(url: str) -> str:
    """Returns `url` if it holds no credentials.

    Raises:
      ValueError: no http(s) address, or one with a user name, password, query or fragment.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            "base_url must be an http(s) address, for instance http://127.0.0.1:8000/v1"
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            "base_url must hold no user name, password or query: keys go into api_key_env"
        )
    return url


def guard_logging(redact: Redactor) -> Callable[[], None]:
    """Redacts every log record of the process from now on; returns a function that stops it."""
    before = logging.getLogRecordFactory()

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = before(*args, **kwargs)
        try:
            message = record.getMessage()
        except Exception:  # a malformed log call must not end a run
            message = f"{record.msg} {record.args}"
        record.msg, record.args = redact(message), None
        if record.exc_info and record.exc_info[1] is not None:
            record.exc_text = redact("".join(traceback.format_exception(record.exc_info[1])))
        return record

    logging.setLogRecordFactory(factory)
    return lambda: logging.setLogRecordFactory(before)
