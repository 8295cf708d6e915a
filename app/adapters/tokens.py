"""Bearer tokens: JWTs signed with one shared secret, or with keys that a JWKS names.

The algorithms are fixed by the configuration, never by the token: a token can choose neither
`none` nor a public key as an HMAC secret, and no header of it is ever fetched.
"""

import asyncio
import json
import math
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

import httpx2
import jwt

from app.domain.errors import AuthUnavailableError, UnauthenticatedError
from app.domain.models import Principal
from app.domain.text import is_name, is_storable

ASYMMETRIC: Final = ("RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA")
REFRESH_S: Final = 600.0
REFRESH_UNKNOWN_S: Final = 10.0
"""An unknown key id refetches the keys, but not more often than this."""
RETRY_S: Final = 1.0
"""While the keys can't be had, they are asked for no more often than this."""
CACHED: Final = 10_000
MAX_TOKEN_CHARS: Final = 8_192
UNREADABLE: Final = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What reading keys of any other shape raises."""
CLOCK_SKEW_S: Final = 300.0
"""How far behind the issuer's our clock may be: the `nbf` of a fresh token is no reason yet."""
LAST_INSTANT: Final = 253_402_214_400
"""9999-12-31: a later `exp` is no instant that can be stored."""


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a token must say besides `sub` and `exp`."""

    issuer: str | None = None
    audience: str | None = None


class _Verifier:
    """Shared: claims to principals, and a memory of tokens that were verified."""

    def __init__(self, rules: TokenRules) -> None:
        self._rules = rules
        self._verified: OrderedDict[str, Principal] = OrderedDict()

    def _remembered(self, token: str) -> Principal | None:
        found = self._verified.get(token)
        if found is None or found.expires_at <= time.time():
            return None
        return found

    def _remember(self, token: str, principal: Principal) -> Principal:
        self._verified[token] = principal
        if len(self._verified) > CACHED:
            self._verified.popitem(last=False)
        return principal

    def _principal(self, token: str, key: Any, algorithms: tuple[str, ...]) -> Principal:
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=list(algorithms),
                audience=self._rules.audience,
                issuer=self._rules.issuer,
                options={
                    "require": ["exp", "sub"],
                    "verify_aud": self._rules.audience is not None,
                    # No allowance is made for `exp`; the other two are looked at below.
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        except jwt.ExpiredSignatureError:
            raise UnauthenticatedError("The token has expired.") from None
        except jwt.PyJWTError:
            raise UnauthenticatedError("The token is not valid.") from None
        if not (_is_instant(claims.get("iat", 0)) and _has_begun(claims.get("nbf", 0))):
            raise UnauthenticatedError("The token is not valid.")
        scope = claims.get("scope", "")
        tenant = claims.get("tenant")
        if not _is_name(claims["sub"]) or not (tenant is None or _is_name(tenant)):
            raise UnauthenticatedError("The token's `sub` or `tenant` can't be used.")
        words = scope.split() if isinstance(scope, str) else ()
        # What can't be written grants nothing either.
        scopes = frozenset(word for word in words if is_storable(word))
        expires_at = float(min(int(claims["exp"]), LAST_INSTANT))
        return Principal(claims["sub"], tenant, scopes, expires_at)


def _is_instant(value: object) -> bool:
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


def _has_begun(not_before: Any) -> bool:
    return _is_instant(not_before) and not_before <= time.time() + CLOCK_SKEW_S


def _is_name(value: object) -> bool:
    return isinstance(value, str) and is_name(value)


class SecretTokenVerifier(_Verifier):
    """HS256 with a secret that the operator shares with whoever signs."""

    def __init__(self, secret: str, rules: TokenRules) -> None:
        super().__init__(rules)
        self._secret = secret

    async def verify(self, token: str) -> Principal:
        """Return whom the token speaks for."""
        if len(token) > MAX_TOKEN_CHARS:
            raise UnauthenticatedError("The token is too long.")
        found = self._remembered(token)
        return found or self._remember(token, self._principal(token, self._secret, ("HS256",)))


class JwksTokenVerifier(_Verifier):
    """Public keys, fetched from the one URL that the operator gave."""

    def __init__(self, url: str, rules: TokenRules) -> None:
        super().__init__(rules)
        self._url = url
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched = float("-inf")
        self._tried = float("-inf")
        self._lock = asyncio.Lock()

    async def verify(self, token: str) -> Principal:
        """Return whom the token speaks for."""
        if len(token) > MAX_TOKEN_CHARS:
            raise UnauthenticatedError("The token is too long.")
        found = self._remembered(token)
        if found is not None:
            return found
        try:
            kid = jwt.get_unverified_header(token).get("kid")
        except jwt.PyJWTError:
            raise UnauthenticatedError("The token is not valid.") from None
        key = await self._key(kid)
        return self._remember(token, self._principal(token, key, ASYMMETRIC))

    async def _key(self, kid: str | None) -> jwt.PyJWK:
        async with self._lock:
            age = time.monotonic() - self._fetched
            if age > REFRESH_S or (kid not in self._keys and age > REFRESH_UNKNOWN_S):
                await self._fetch()
        if kid in self._keys:
            return self._keys[kid]
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        raise UnauthenticatedError("The token's key is unknown.")

    async def _fetch(self) -> None:
        # Every token waits for this: an issuer that is away must not be asked for each.
        if time.monotonic() - self._tried < RETRY_S:
            self._make_do()
            return
        self._tried = time.monotonic()
        try:
            async with httpx2.AsyncClient(timeout=5, follow_redirects=False) as client:
                response = await client.get(self._url)
                response.raise_for_status()
                found = jwt.PyJWKSet.from_dict(json.loads(response.content))
        except (httpx2.HTTPError, jwt.PyJWTError, *UNREADABLE):
            self._make_do()
            return
        self._keys = {key.key_id: key for key in found.keys if key.key_type != "oct"}
        self._fetched = time.monotonic()

    def _make_do(self) -> None:
        """Go on with keys that were good a moment ago: they are better than none."""
        if not self._keys:
            raise AuthUnavailableError


def sign(secret: str, *, subject: str, scope: str, ttl_s: int, rules: TokenRules) -> str:
    """Return a token for the development key or a configured secret."""
    now = int(time.time())
    claims: dict[str, Any] = {"sub": subject, "iat": now, "exp": now + ttl_s}
    if scope:
        claims["scope"] = scope
    if rules.issuer:
        claims["iss"] = rules.issuer
    if rules.audience:
        claims["aud"] = rules.audience
    return jwt.encode(claims, secret, algorithm="HS256")
