"""Keys and verified tokens: what is remembered, for how long, and what an attacker can't make happen."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import Mock

import jwt
import pytest

from tests.support.grpc import AUDIENCE, ISSUER, TokenIssuer, bearer, rpc_settings
from tokenomics_chassis.process import ExitCode, FatalError
from tokenomics_chassis.rpc import identity
from tokenomics_chassis.rpc.errors import PermissionDeniedError, UnauthenticatedError, UnavailableError
from tokenomics_chassis.rpc.identity import Authenticator, Caller, KeySet, load_callers, to_mapping
from tokenomics_chassis.settings import SettingsError

METHOD = "/test.v1.Toy/Get"


class SettableClock:
    def __init__(self) -> None:
        self.time = self.unset = datetime.now(UTC)

    def now(self) -> datetime:
        return self.time

    def steady(self) -> datetime:
        return self.unset

    def advance(self, **by: float) -> None:
        self.time += timedelta(**by)
        self.unset += timedelta(**by)

    def set_back(self, **by: float) -> None:
        self.time -= timedelta(**by)


class Published:
    """What the issuer publishes, and how often it was read."""

    def __init__(self, jwks: str) -> None:
        self.jwks: str | None = jwks
        self.read = 0

    async def __call__(self) -> bytes:
        self.read += 1
        if self.jwks is None:
            raise OSError("issuer is down")
        return self.jwks.encode()


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
def issuer() -> TokenIssuer:
    return TokenIssuer()


@pytest.fixture
def published(issuer: TokenIssuer) -> Published:
    return Published(issuer.jwks())


@pytest.fixture
def keys(published: Published, clock: SettableClock) -> KeySet:
    return KeySet(published, clock)


@pytest.fixture
def authenticator(keys: KeySet, clock: SettableClock) -> Authenticator:
    callers = {"gateway": Caller(subject="gateway", methods=frozenset({METHOD}))}
    return Authenticator(issuer=ISSUER, audience=AUDIENCE, callers=callers, keys=keys, clock=clock)


async def test_a_key_published_later_is_found_without_a_restart(
    authenticator: Authenticator, published: Published, clock: SettableClock, issuer: TokenIssuer
) -> None:
    await authenticator.identify(METHOD, to_mapping(bearer(issuer.token("gateway"))))
    rotated = TokenIssuer(kid="key-2")
    published.jwks = rotated.jwks()
    clock.advance(seconds=6)
    assert (
        await authenticator.identify(METHOD, to_mapping(bearer(rotated.token("gateway"))))
    ).caller == "gateway"


async def test_made_up_key_ids_do_not_flood_the_issuer(
    authenticator: Authenticator, published: Published, clock: SettableClock, issuer: TokenIssuer
) -> None:
    for attempt in range(20):
        with pytest.raises(UnauthenticatedError, match="not the issuer's"):
            await authenticator.identify(
                METHOD, to_mapping(bearer(issuer.token("gateway", kid=f"made-up-{attempt}")))
            )
        clock.advance(seconds=1)
    assert published.read == 4


async def test_a_withdrawn_key_ends_its_remembered_tokens(
    authenticator: Authenticator, published: Published, clock: SettableClock, issuer: TokenIssuer
) -> None:
    withdrawn = bearer(issuer.token("gateway"))
    await authenticator.identify(METHOD, to_mapping(withdrawn))
    rotated = TokenIssuer(kid="key-2")
    published.jwks = rotated.jwks()
    clock.advance(minutes=6)
    await authenticator.identify(METHOD, to_mapping(bearer(rotated.token("gateway"))))
    with pytest.raises(UnauthenticatedError):
        await authenticator.identify(METHOD, to_mapping(withdrawn))


async def test_a_withdrawn_key_ends_its_remembered_tokens_though_no_other_token_comes(
    authenticator: Authenticator, published: Published, clock: SettableClock, issuer: TokenIssuer
) -> None:
    withdrawn = bearer(issuer.token("gateway"))
    await authenticator.identify(METHOD, to_mapping(withdrawn))
    published.jwks = TokenIssuer(kid="key-2").jwks()
    clock.advance(minutes=6)
    for _ in range(3):
        await authenticator.identify(METHOD, to_mapping(withdrawn))  # the load has only been started
    for _ in range(5):
        await asyncio.sleep(0)
    assert published.read == 2
    with pytest.raises(UnauthenticatedError):
        await authenticator.identify(METHOD, to_mapping(withdrawn))


async def test_a_key_replaced_under_its_own_id_ends_its_remembered_tokens(
    authenticator: Authenticator, keys: KeySet, published: Published, issuer: TokenIssuer
) -> None:
    signed_before, other = bearer(issuer.token("gateway")), TokenIssuer(kid=issuer.kid)
    await authenticator.identify(METHOD, to_mapping(signed_before))
    published.jwks = other.jwks()
    await keys.load()
    with pytest.raises(UnauthenticatedError):
        await authenticator.identify(METHOD, to_mapping(signed_before))
    await authenticator.identify(METHOD, to_mapping(bearer(other.token("gateway"))))


async def test_a_withdrawn_key_ends_though_the_clock_was_set_back(
    authenticator: Authenticator, published: Published, clock: SettableClock, issuer: TokenIssuer
) -> None:
    withdrawn = bearer(issuer.token("gateway"))
    await authenticator.identify(METHOD, to_mapping(withdrawn))
    rotated = TokenIssuer(kid="key-2")
    published.jwks = rotated.jwks()
    clock.set_back(hours=1)
    clock.advance(minutes=6)
    await authenticator.identify(METHOD, to_mapping(bearer(rotated.token("gateway"))))
    with pytest.raises(UnauthenticatedError):
        await authenticator.identify(METHOD, to_mapping(withdrawn))


async def test_an_issuer_that_is_down_locks_nobody_out(
    authenticator: Authenticator, published: Published, clock: SettableClock, issuer: TokenIssuer
) -> None:
    await authenticator.identify(METHOD, to_mapping(bearer(issuer.token("gateway"))))
    published.jwks = None
    clock.advance(minutes=6)
    assert (
        await authenticator.identify(METHOD, to_mapping(bearer(issuer.token("gateway", jti="2"))))
    ).caller == "gateway"


async def test_without_any_key_the_answer_is_unavailable(
    authenticator: Authenticator, published: Published, issuer: TokenIssuer
) -> None:
    published.jwks = None
    with pytest.raises(UnavailableError):
        await authenticator.identify(METHOD, to_mapping(bearer(issuer.token("gateway"))))


async def test_a_token_is_verified_once_and_never_remembered_beyond_its_expiry(
    authenticator: Authenticator,
    clock: SettableClock,
    issuer: TokenIssuer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verify = Mock(wraps=jwt.decode)
    monkeypatch.setattr(jwt, "decode", verify)
    metadata = bearer(issuer.token("gateway", expires_in=timedelta(minutes=2)))
    for _ in range(3):
        await authenticator.identify(METHOD, to_mapping(metadata))
    assert verify.call_count == 1
    clock.advance(minutes=3)
    await authenticator.identify(METHOD, to_mapping(metadata))
    assert verify.call_count == 2


async def test_remembered_tokens_are_bounded(
    authenticator: Authenticator, issuer: TokenIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "_KEPT_TOKENS", 3)
    for number in range(10):
        await authenticator.identify(METHOD, to_mapping(bearer(issuer.token("gateway", jti=str(number)))))
    assert len(authenticator._verified) == 3


async def test_a_remembered_token_is_still_held_against_the_table(
    authenticator: Authenticator, issuer: TokenIssuer
) -> None:
    metadata = bearer(issuer.token("gateway"))
    await authenticator.identify(METHOD, to_mapping(metadata))
    with pytest.raises(PermissionDeniedError):
        await authenticator.identify("/test.v1.Toy/Other", to_mapping(metadata))


@pytest.mark.parametrize(
    ("listed", "method", "allowed"),
    [
        ("/a.v1.S/*", "/a.v1.S/Get", True),
        ("/a.v1.S/Get", "/a.v1.S/Get", True),
        ("/a.v1.S/Get", "/a.v1.S/GetAll", False),
        ("/a.v1.S/*", "/a.v1.SX/Get", False),
        ("/a.v1.*", "/a.v1.S/Get", False),
        ("/*", "/a.v1.S/Get", False),
    ],
)
def test_the_table_lists_methods_or_whole_services(listed: str, method: str, *, allowed: bool) -> None:
    assert Caller(subject="s", methods=frozenset({listed})).may_call(method) is allowed


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (None, "No such file"),
        ("callers: [{subject: a, methods: [], may_act_for_peolpe: true}]", "may_act_for_peolpe"),
        ("callers: [{subject: a, methods: []}, {subject: a, methods: [/s/*]}]", "listed twice"),
        ("callers: [{subject: 'a b', methods: []}]", r"callers\.0\.subject"),
        (f"callers: [{{subject: {'a' * 257}, methods: []}}]", r"callers\.0\.subject"),
        ("callers: [", "expected"),
    ],
)
def test_a_bad_table_of_callers_is_refused_at_start(tmp_path: Path, table: str | None, problem: str) -> None:
    path = tmp_path / "callers.yaml"
    if table is not None:
        path.write_text(table)
    with pytest.raises(SettingsError, match=problem):
        load_callers(path)


@pytest.mark.parametrize("jwks", [None, "", "{}", '{"keys": []}'])
async def test_without_keys_at_start_the_process_does_not_start(
    tmp_path: Path, clock: SettableClock, issuer: TokenIssuer, jwks: str | None
) -> None:
    settings = rpc_settings(tmp_path, issuer, [])
    path = tmp_path / "jwks.json"
    path.unlink()
    if jwks is not None:
        path.write_text(jwks)
    with pytest.raises(FatalError, match=r"keys could not be loaded from .*jwks\.json: ") as caught:
        await Authenticator.load(settings, clock)
    assert caught.value.exit_code is ExitCode.UNAVAILABLE
