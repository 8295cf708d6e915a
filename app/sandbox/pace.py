"""How fast text comes, and who is served at another pace."""

import math
from dataclasses import dataclass
from typing import Any

from app.sandbox.errors import ApiError, invalid

MAX_PACE = 100_000.0


@dataclass(frozen=True, slots=True)
class PaceOverride:
    """Requests whose text contains `text` get their own pace."""

    text: str
    tokens_per_second: float


class PaceBook:
    """The pace of everyone, and overrides by text; the newest that matches wins."""

    def __init__(self, tokens_per_second: float) -> None:
        self._initial = tokens_per_second
        self.tokens_per_second = tokens_per_second
        self.overrides: list[PaceOverride] = []

    def update(self, body: dict[str, Any]) -> None:
        """Apply `{"tokens_per_second": 5, "text": "slow"}`; `text` is optional.

        Raises:
            ApiError: The pace is no number from 0 to 100,000, or `text` no string.
        """
        unknown = set(body) - {"tokens_per_second", "text"}
        if unknown:
            raise ApiError(400, f"Unknown fields: {', '.join(sorted(unknown))}.")
        pace = body.get("tokens_per_second")
        if isinstance(pace, bool) or not isinstance(pace, int | float) or not math.isfinite(pace):
            raise invalid("tokens_per_second", "a number")
        if not 0 <= pace <= MAX_PACE:
            raise invalid("tokens_per_second", f"a number from 0 to {MAX_PACE:.0f}")
        text = body.get("text")
        if text is None:
            self.tokens_per_second = float(pace)
        elif isinstance(text, str) and text:
            self.overrides.append(PaceOverride(text, float(pace)))
        else:
            raise invalid("text", "a string that is not empty")

    def reset(self) -> None:
        """Return to the configured pace."""
        self.tokens_per_second = self._initial
        self.overrides.clear()

    def of(self, text: str) -> float:
        """Return the pace for a request with this text; 0 does not wait."""
        for override in reversed(self.overrides):
            if override.text in text:
                return override.tokens_per_second
        return self.tokens_per_second

    def body(self) -> dict[str, Any]:
        """Return the pace as admins see it."""
        return {
            "tokens_per_second": self.tokens_per_second,
            "overrides": [
                {"text": each.text, "tokens_per_second": each.tokens_per_second}
                for each in self.overrides
            ],
        }
