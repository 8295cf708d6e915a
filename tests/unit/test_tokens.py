"""Who may speak: the algorithm is ours to choose, and nothing in a token is ever fetched."""

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from app.adapters import tokens
from app.adapters.tokens import JwksTokenVerifier, SecretTokenVerifier, TokenRules, sign
from app.domain.errors import AuthUnavailableError, UnauthenticatedError

SECRET = "a-secret-of-at-least-thirty-two-bytes"
RULES = TokenRules("https://issuer.test", "tutor")
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def claims(**changes: Any) -> dict[str, Any]:
    """Return good claims, changed; None removes one."""
    good = {"sub": "alice", "exp": time.time() + 60, "iss": RULES.issuer, "aud": RULES.audience}
    return {name: value for name, value in (good | changes).items() if value is not None}


def encode(
    key: Any = SECRET, algorithm: str = "HS256", headers: Any = None, **changes: Any
) -> str:
    payload = json.dumps(claims(**changes)).encode()
    return jwt.PyJWS().encode(payload, key, algorithm, headers)


def raw_token(header: Any, payload: Any, signature: bytes = b"") -> str:
    parts = [json.dumps(header).encode(), json.dumps(payload).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def shared() -> SecretTokenVerifier:
    return SecretTokenVerifier(SECRET, RULES)


# ---------------------------------------------------------------- one shared secret


async def test_a_good_token_names_subject_tenant_scopes_and_end() -> None:
    end = time.time() + 60
    token = encode(tenant="school", scope="assistants:write  other", exp=end)
    found = await shared().verify(token)
    assert (found.subject, found.tenant) == ("alice", "school")
    assert found.scopes == {"assistants:write", "other"}
    assert found.expires_at == pytest.approx(end)


async def test_what_the_command_line_signs_is_good() -> None:
    token = sign(SECRET, subject="bob", scope="a b", ttl_s=60, rules=RULES)
    found = await shared().verify(token)
    assert (found.subject, found.scopes) == ("bob", {"a", "b"})


NOW = time.time() // 1000 * 1000
"""Coarse: cases are named by it, and named alike by processes that share the tests."""
BAD_CLAIMS: list[dict[str, Any]] = [
    {"iss": "https://elsewhere.test"},
    {"iss": None},
    {"iss": ["https://issuer.test"]},
    {"aud": "others"},
    {"aud": None},
    {"aud": 5},
    {"exp": None},
    {"exp": NOW - 1},
    {"exp": "soon"},
    {"exp": "Infinity"},
    {"exp": float("inf")},
    {"exp": float("nan")},
    {"exp": []},
    {"exp": {}},
    {"exp": True},
    {"nbf": NOW + 3600},
    {"nbf": []},
    {"nbf": "0"},
    {"nbf": 10**400},
    {"nbf": float("nan")},
    {"iat": "x"},
    {"iat": []},
    {"iat": float("inf")},
    {"sub": None},
    {"sub": ""},
    {"sub": "x" * 257},
    {"sub": "a\x00b"},
    {"sub": "\ud800"},
    {"sub": 5},
    {"sub": ["alice"]},
    {"sub": {"a": 1}},
    {"sub": True},
    {"tenant": ""},
    {"tenant": "x" * 257},
    {"tenant": "\x00"},
    {"tenant": 5},
    {"tenant": ["school"]},
]


@pytest.mark.parametrize("changes", BAD_CLAIMS, ids=lambda changes: str(changes)[:40])
async def test_a_token_with_wrong_claims_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UnauthenticatedError):
        await shared().verify(encode(**changes))


@pytest.mark.parametrize("claim", ["iat", "nbf"])
async def test_a_fresh_token_is_good_although_our_clock_is_behind_its_issuer_s(claim: str) -> None:
    found = await shared().verify(encode(**{claim: time.time() + 240}))
    assert found.subject == "alice"


@pytest.mark.parametrize("scope", [None, 5, ["assistants:write"], {"assistants:write": 1}, ""])
async def test_a_scope_that_is_no_text_grants_nothing(scope: Any) -> None:
    assert (await shared().verify(encode(scope=scope))).scopes == frozenset()


async def test_a_scope_that_can_not_be_written_grants_nothing() -> None:
    token = encode(scope="\ud800 a\x00 assistants:write")
    assert (await shared().verify(token)).scopes == {"assistants:write"}


@pytest.mark.parametrize("seconds", [10**12, 10**15, 10**20, 10**300, 10**400])
async def test_an_end_in_the_far_future_is_an_instant_that_can_be_stored(seconds: int) -> None:
    found = await shared().verify(encode(exp=seconds))
    assert 10**10 < found.expires_at < 253_402_300_800


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", "RS256", "HS999"])
@pytest.mark.parametrize("signature", [b"", b"x"])
async def test_the_token_does_not_choose_its_algorithm(algorithm: str, signature: bytes) -> None:
    token = raw_token({"alg": algorithm, "typ": "JWT"}, claims(), signature)
    with pytest.raises(UnauthenticatedError):
        await shared().verify(token)


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
async def test_the_right_secret_with_another_algorithm_is_refused(algorithm: str) -> None:
    with pytest.raises(UnauthenticatedError):
        await shared().verify(encode(SECRET * 2, algorithm))


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "a.b.c",
        "\x00.\x00.\x00",
        "\N{GRINNING FACE}",
        raw_token([], claims()),
        raw_token({"alg": ["HS256"]}, claims()),
        raw_token({"alg": "HS256"}, []),
        raw_token({}, claims()),
        "." * 8000,
        "x" * 8193,
    ],
    ids=lambda token: token[:20],
)
async def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(UnauthenticatedError):
        await shared().verify(token)


async def test_a_good_token_that_is_too_long_is_refused() -> None:
    long = encode(padding="x" * 8192)
    assert len(long) > tokens.MAX_TOKEN_CHARS
    with pytest.raises(UnauthenticatedError):
        await shared().verify(long)


async def test_another_secret_is_refused() -> None:
    with pytest.raises(UnauthenticatedError):
        await shared().verify(encode(f"{SECRET}!"))


async def test_a_changed_payload_is_refused() -> None:
    head, _, signature = encode().split(".")
    body = encode(sub="mallory").split(".")[1]
    with pytest.raises(UnauthenticatedError):
        await shared().verify(f"{head}.{body}.{signature}")


async def test_a_token_that_was_verified_before_expires_all_the_same() -> None:
    verifier = shared()
    token = encode(exp=int(time.time()) + 2)
    await verifier.verify(token)
    assert await verifier.verify(token)
    while time.time() < jwt.decode(token, options={"verify_signature": False})["exp"]:
        time.sleep(0.05)  # noqa: ASYNC251 - nothing else runs
    with pytest.raises(UnauthenticatedError):
        await verifier.verify(token)


async def test_refusals_do_not_repeat_the_token() -> None:
    token = encode(f"{SECRET}!", sub="canary")
    with pytest.raises(UnauthenticatedError) as caught:
        await shared().verify(token)
    assert token not in str(caught.value)
    assert caught.value.__suppress_context__


# ---------------------------------------------------------------- published keys


def public(key: Any, kid: str | None, algorithm: str) -> dict[str, Any]:
    found = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return dict(found) | {"alg": algorithm, "use": "sig"} | ({"kid": kid} if kid else {})


@dataclass
class Issuer:
    """A real server that publishes keys, and counts who asks for what."""

    keys: list[dict[str, Any]] = field(default_factory=list)
    status: int = 200
    body: bytes | None = None
    asked: list[str] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    made = Issuer([public(RSA, "rsa", "RS256"), public(EC, "ec", "ES256")])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append(self.path)
            body = made.body if made.body is not None else json.dumps({"keys": made.keys}).encode()
            self.send_response(made.status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made.url = f"http://127.0.0.1:{server.server_port}/keys"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield made
        server.shutdown()
        thread.join()


@pytest.fixture
def verifier(issuer: Issuer) -> JwksTokenVerifier:
    return JwksTokenVerifier(issuer.url, RULES)


def signed(key: Any, algorithm: str, kid: Any, **changes: Any) -> str:
    return encode(key, algorithm, {"kid": kid} if kid is not None else None, **changes)


async def test_keys_of_every_kind_verify_and_are_fetched_once(
    issuer: Issuer, verifier: JwksTokenVerifier
) -> None:
    issuer.keys.append(public(ED, "ed", "EdDSA"))
    for key, algorithm, kid in ((RSA, "RS256", "rsa"), (EC, "ES256", "ec"), (ED, "EdDSA", "ed")):
        assert (await verifier.verify(signed(key, algorithm, kid, sub=kid))).subject == kid
    assert issuer.asked == ["/keys"]


async def test_a_public_key_is_no_shared_secret(verifier: JwksTokenVerifier) -> None:
    pem = RSA.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    signer = jwt.get_algorithm_by_name("HS256")
    modulus = public(RSA, "rsa", "RS256")["n"].encode()
    for secret in (pem, pem.strip(), modulus):
        for algorithm in ("HS256", "RS256"):
            unsigned = raw_token({"alg": algorithm, "kid": "rsa", "typ": "JWT"}, claims())
            head, body, _ = unsigned.split(".")
            # By hand: the library refuses to use a public key so.
            signature = base64.urlsafe_b64encode(signer.sign(f"{head}.{body}".encode(), secret))
            with pytest.raises(UnauthenticatedError):
                await verifier.verify(f"{head}.{body}.{signature.rstrip(b'=').decode()}")


@pytest.mark.parametrize("algorithm", ["none", "None", "HS256", "HS512"])
async def test_no_algorithm_but_those_of_public_keys(
    verifier: JwksTokenVerifier, algorithm: str
) -> None:
    token = raw_token({"alg": algorithm, "kid": "rsa"}, claims())
    with pytest.raises(UnauthenticatedError):
        await verifier.verify(token)


async def test_a_published_secret_is_never_used(
    issuer: Issuer, verifier: JwksTokenVerifier
) -> None:
    value = base64.urlsafe_b64encode(SECRET.encode()).rstrip(b"=").decode()
    issuer.keys = [{"kty": "oct", "k": value, "kid": "oct", "alg": "HS256"}, *issuer.keys]
    with pytest.raises(UnauthenticatedError):
        await verifier.verify(signed(SECRET, "HS256", "oct"))


async def test_a_key_signs_only_with_its_own_algorithm(verifier: JwksTokenVerifier) -> None:
    for token in (signed(RSA, "RS256", "ec"), signed(EC, "ES256", "rsa")):
        with pytest.raises(UnauthenticatedError):
            await verifier.verify(token)


@pytest.mark.parametrize(
    "kid",
    [
        "unknown",
        "",
        "../../etc/passwd",
        "' OR '1'='1",
        "http://169.254.169.254/keys",
        "\x00",
        "x" * 4000,
        5,
        ["rsa"],
        {"rsa": 1},
        None,
    ],
    ids=str,
)
async def test_a_key_id_only_chooses_among_published_keys(
    issuer: Issuer, verifier: JwksTokenVerifier, kid: Any
) -> None:
    head = {"alg": "RS256", "typ": "JWT"} | ({} if kid is None else {"kid": kid})
    signer = jwt.get_algorithm_by_name("RS256")
    parts = raw_token(head, claims()).rpartition(".")[0]
    signature = base64.urlsafe_b64encode(signer.sign(parts.encode(), RSA)).rstrip(b"=").decode()
    with pytest.raises(UnauthenticatedError):
        await verifier.verify(f"{parts}.{signature}")
    assert set(issuer.asked) <= {"/keys"}


async def test_a_token_without_a_key_id_is_good_where_there_is_one_key(issuer: Issuer) -> None:
    issuer.keys = [public(RSA, None, "RS256")]
    verifier = JwksTokenVerifier(issuer.url, RULES)
    assert (await verifier.verify(signed(RSA, "RS256", None))).subject == "alice"
    with pytest.raises(UnauthenticatedError):
        await verifier.verify(signed(OTHER_RSA, "RS256", None))


async def test_keys_that_a_token_brings_or_names_are_ignored(
    issuer: Issuer, verifier: JwksTokenVerifier
) -> None:
    root = issuer.url.removesuffix("/keys")
    for header in (
        {"jku": f"{root}/evil"},
        {"x5u": f"{root}/evil"},
        {"jwk": public(OTHER_RSA, "rsa", "RS256")},
    ):
        token = encode(OTHER_RSA, "RS256", {"kid": "rsa", **header})
        with pytest.raises(UnauthenticatedError):
            await verifier.verify(token)
    assert set(issuer.asked) == {"/keys"}


async def test_claims_are_held_to_the_same_rules(verifier: JwksTokenVerifier) -> None:
    for changes in BAD_CLAIMS:
        with pytest.raises(UnauthenticatedError):
            await verifier.verify(signed(RSA, "RS256", "rsa", **changes))


BREAK: list[Callable[[Issuer], None]] = [
    lambda issuer: setattr(issuer, "status", 500),
    lambda issuer: setattr(issuer, "status", 302),
    lambda issuer: setattr(issuer, "body", b"<html>"),
    lambda issuer: setattr(issuer, "body", b"[" * 100_000),
    lambda issuer: setattr(issuer, "body", b"\xff"),
    lambda issuer: setattr(issuer, "body", b"[]"),
    lambda issuer: setattr(issuer, "body", b"{}"),
    lambda issuer: setattr(issuer, "body", b'{"keys":5}'),
    lambda issuer: setattr(issuer, "body", b'{"keys":[5]}'),
    lambda issuer: setattr(issuer, "keys", []),
]


@pytest.mark.parametrize("damage", BREAK)
async def test_without_keys_nobody_is_known_and_it_is_said_so(
    issuer: Issuer, verifier: JwksTokenVerifier, damage: Callable[[Issuer], None]
) -> None:
    damage(issuer)
    with pytest.raises(AuthUnavailableError):
        await verifier.verify(signed(RSA, "RS256", "rsa"))
    assert set(issuer.asked) == {"/keys"}


async def test_an_issuer_that_is_away_is_not_asked_by_every_request(
    issuer: Issuer, verifier: JwksTokenVerifier
) -> None:
    issuer.status = 500
    for _ in range(20):
        with pytest.raises(AuthUnavailableError):
            await verifier.verify(signed(RSA, "RS256", "rsa"))
    assert len(issuer.asked) <= 2


async def test_unknown_key_ids_do_not_make_us_ask_again_and_again(
    issuer: Issuer, verifier: JwksTokenVerifier
) -> None:
    await verifier.verify(signed(RSA, "RS256", "rsa"))
    for number in range(20):
        with pytest.raises(UnauthenticatedError):
            await verifier.verify(signed(OTHER_RSA, "RS256", f"unknown-{number}"))
    assert len(issuer.asked) == 1


async def test_a_new_key_is_fetched_and_good_ones_survive_an_outage(
    issuer: Issuer, verifier: JwksTokenVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "REFRESH_UNKNOWN_S", 0.0)
    monkeypatch.setattr(tokens, "RETRY_S", 0.0)
    await verifier.verify(signed(RSA, "RS256", "rsa"))
    issuer.keys.append(public(OTHER_RSA, "new", "RS256"))
    assert await verifier.verify(signed(OTHER_RSA, "RS256", "new"))
    issuer.status = 500
    monkeypatch.setattr(tokens, "REFRESH_S", 0.0)
    assert await verifier.verify(signed(OTHER_RSA, "RS256", "new", sub="bob"))
