"""What a SciCat token says about itself. Its signature is the server's business; nothing else belongs here.

Source: RFC 7519, JSON Web Token; SciCat's tokens are signed ones (RFC 7515, compact serialization).
"""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

_LONGEST_TOKEN = 16_384
"""In characters; no HTTP server takes a longer header."""


def expiry_of(token: str) -> datetime | None:
    """When a token expires, by the clock of the server that made it; None where it does not say so."""
    parts = token.split(".")
    if len(parts) != 3 or len(token) > _LONGEST_TOKEN:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return datetime.fromtimestamp(claims["exp"], UTC)
    except (ValueError, LookupError, TypeError, OverflowError, OSError, RecursionError):
        return None
