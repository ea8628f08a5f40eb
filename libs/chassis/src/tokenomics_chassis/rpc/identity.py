"""Who calls: JWTs of one pinned issuer, a deny-by-default table of methods, people through their caller."""

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self
from urllib.request import urlopen

import jwt
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from tokenomics_chassis.clock import Clock
from tokenomics_chassis.process import ExitCode, FatalError
from tokenomics_chassis.rpc.errors import PermissionDeniedError, UnauthenticatedError, UnavailableError
from tokenomics_chassis.settings import RpcSettings, SettingsError
from tokenomics_contracts.units import IDENTIFIER_PATTERN
from tokenomics_contracts.units import Caller as CallerSubject

log = logging.getLogger(__name__)

ON_BEHALF_OF = "tokenomics-on-behalf-of"
"""Metadata by which a caller asserts the person it acts for: a subject id."""

ALGORITHMS = ("ES256", "RS256")
"""Asymmetric only: a public key can't be mistaken for a shared secret, and ``none`` does not exist."""

_SUBJECT = re.compile(IDENTIFIER_PATTERN)
_LARGEST_JWKS_BYTES = 1024 * 1024
_KEPT_TOKENS = 10_000
_FETCH_TIMEOUT_SECONDS = 5
_KEYS_LIVE = timedelta(minutes=5)
_PAUSE_BETWEEN_LOADS = timedelta(seconds=5)
_PAUSE_BETWEEN_LOOKS = timedelta(seconds=1)

Metadata = Collection[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller that was verified and may call the method at hand."""

    caller: str
    """The token's subject, e.g. ``system:serviceaccount:ai:gateway``."""

    on_behalf_of: str | None = None
    """Subject id of the person the caller acts for. What that person may do is for the domain to check."""


_current: ContextVar[Identity] = ContextVar("identity")
set_current_identity = _current.set


def current_identity() -> Identity:
    """Who makes the call at hand.

    Raises
    ------
    LookupError
        Outside a call that was identified (health needs no identity).
    """
    return _current.get()


class Caller(BaseModel):
    """One line of the table: what a caller may do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: CallerSubject
    methods: frozenset[str]
    """``/package.Service/Method``, or ``/package.Service/*``."""

    may_act_for_people: bool = False

    def may_call(self, method: str) -> bool:
        """Say whether the method is listed, by its name or by its service."""
        return method in self.methods or f"{method.rpartition('/')[0]}/*" in self.methods


class _Callers(BaseModel):
    model_config = ConfigDict(extra="forbid")

    callers: list[Caller]


def load_callers(path: Path) -> dict[str, Caller]:
    """Read the table of callers, by subject.

    Raises
    ------
    SettingsError
        The file can't be read, is malformed, or names a caller twice.
    """
    try:
        callers = _Callers.model_validate(yaml.safe_load(path.read_text())).callers
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise SettingsError([f"TOKENOMICS_AUTH_CALLERS: {path}: {error}"]) from error
    table = {caller.subject: caller for caller in callers}
    if len(table) < len(callers):
        raise SettingsError([f"TOKENOMICS_AUTH_CALLERS: {path}: a subject is listed twice"])
    return table


Keys = Mapping[str, jwt.PyJWK]


class KeySet:
    """The issuer's public keys by key id, kept current without ever blocking the event loop.

    They are loaded again when they are older than five minutes, or at once for a key id not seen yet, but
    never more often than every five seconds, whoever sends made-up key ids. When loading fails the keys at
    hand stay valid: an issuer that is down locks nobody out.
    """

    def __init__(self, fetch: Callable[[], Awaitable[bytes]], clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock
        self.at_hand: Keys = {}
        """Replaced as a whole, never changed."""
        self._tried_at = datetime.min.replace(tzinfo=UTC)
        self._loading = asyncio.Lock()
        self._refresh: asyncio.Task[None] | None = None

    @classmethod
    def at(cls, location: str, clock: Clock) -> Self:
        """Take keys from a file or an ``https://`` URL."""
        url = location if "://" in location else Path(location).absolute().as_uri()

        def read() -> bytes:
            with urlopen(url, timeout=_FETCH_TIMEOUT_SECONDS) as response:  # noqa: S310 - settings allow https and files
                content: bytes = response.read(_LARGEST_JWKS_BYTES)
                return content

        return cls(lambda: asyncio.to_thread(read), clock)

    async def get(self, kid: str) -> jwt.PyJWK | None:
        """Look up a key, loading the set when it is old or does not have it."""
        age = self._clock.steady() - self._tried_at
        if age > _KEYS_LIVE or (kid not in self.at_hand and age > _PAUSE_BETWEEN_LOADS):
            await self._load_unless_just_tried()
        return self.at_hand.get(kid)

    def has(self, key: jwt.PyJWK) -> bool:
        """Whether a key is still the issuer's: another one may have taken its id."""
        at_hand = self.at_hand.get(key.key_id or "")
        return at_hand is not None and at_hand.key == key.key

    def refresh(self) -> None:
        """Load a set that is old in the background: where every token is known, nobody asks for a key."""
        is_old = self._clock.steady() - self._tried_at > _KEYS_LIVE
        if is_old and (self._refresh is None or self._refresh.done()):
            self._refresh = asyncio.create_task(self._load_unless_just_tried())

    async def _load_unless_just_tried(self) -> None:
        async with self._loading:
            if self._clock.steady() - self._tried_at > _PAUSE_BETWEEN_LOADS:
                await self.load()

    async def load(self) -> None:
        """Load the keys now; a failure is logged, and raised only while there are none at all.

        Raises
        ------
        UnavailableError
            No key was ever loaded.
        """
        self._tried_at = self._clock.steady()
        try:
            found = jwt.PyJWKSet.from_dict(json.loads(await self._fetch()))
        except (OSError, ValueError, jwt.PyJWTError) as error:
            log.warning("the issuer's keys could not be loaded", extra={"error": str(error)})
            if not self.at_hand:
                raise UnavailableError("the issuer's keys could not be loaded") from error
            return
        self.at_hand = {key.key_id: key for key in found if key.key_id and key.algorithm_name in ALGORITHMS}


@dataclass(slots=True)
class _Verified:
    caller: Caller
    identity: Identity
    """Of the caller that acts for nobody."""
    key: jwt.PyJWK
    expires_at: datetime
    keys: Keys
    """Among which its key was found."""
    looked_at: datetime
    look_again_at: datetime
    methods: set[str] = field(default_factory=set)
    """Those that the caller was found to be allowed."""


class Authenticator:
    """Turns a call's metadata into an :class:`Identity`, or refuses the call.

    A token is verified once. What was verified is remembered until the token expires or its key is withdrawn:
    token by token, so that no moment exists at which all are verified anew; the oldest make room.
    """

    def __init__(
        self, *, issuer: str, audience: str, callers: Mapping[str, Caller], keys: KeySet, clock: Clock
    ) -> None:
        self._issuer = issuer
        self._audience = audience
        self._callers = callers
        self._keys = keys
        self._clock = clock
        self._verified: dict[object, _Verified] = {}

    @classmethod
    async def load(cls, settings: RpcSettings, clock: Clock) -> Self:
        """Make one from settings, with the keys at hand.

        Raises
        ------
        SettingsError
            The table of callers is unusable.
        FatalError
            The issuer's keys can't be loaded.
        """
        callers = load_callers(settings.auth_callers)
        keys = KeySet.at(settings.auth_jwks, clock)
        try:
            await keys.load()
        except UnavailableError as error:
            message = f"{error} from {settings.auth_jwks}: {error.__cause__}"
            raise FatalError(message, ExitCode.UNAVAILABLE) from None
        return cls(
            issuer=settings.auth_issuer,
            audience=settings.auth_audience,
            callers=callers,
            keys=keys,
            clock=clock,
        )

    def remembered(self, method: str, metadata: Mapping[str, str | bytes]) -> Identity | None:
        """Return who calls for itself, where nothing has to be looked up; a short way for most calls."""
        known = self._verified.get(metadata.get("authorization"))
        if (
            known is None
            or method not in known.methods
            or ON_BEHALF_OF in metadata
            or known.keys is not self._keys.at_hand
            or not known.looked_at <= self._clock.now() < known.look_again_at
        ):
            return None
        return known.identity

    async def identify(self, method: str, metadata: Mapping[str, str | bytes]) -> Identity:
        """Identify the caller of ``/package.Service/Method`` and check that it may call it.

        Raises
        ------
        UnauthenticatedError
            No token, or one that does not hold.
        PermissionDeniedError
            The caller is not listed for the method, or acts for a person without being allowed to.
        UnavailableError
            The issuer's keys could never be loaded.
        """
        known = await self._look_again(metadata.get("authorization"))
        if method not in known.methods:
            if not known.caller.may_call(method):
                raise PermissionDeniedError(f"{known.caller.subject} may not call {method}")
            known.methods.add(method)
        person = metadata.get(ON_BEHALF_OF)
        return known.identity if person is None else _acting_for(person, known.caller)

    async def _look_again(self, token: object) -> _Verified:
        self._keys.refresh()
        now, known = self._clock.now(), self._verified.get(token)
        if known is None or known.expires_at <= now or not self._keys.has(known.key):
            self._verified.pop(token, None)
            if not isinstance(token, str):
                raise UnauthenticatedError("the call carries no token: send `authorization: Bearer <JWT>`")
            known = await self._verify(token)
        known.keys = self._keys.at_hand
        known.looked_at, known.look_again_at = now, min(now + _PAUSE_BETWEEN_LOOKS, known.expires_at)
        return known

    async def _verify(self, authorization: str) -> _Verified:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise UnauthenticatedError("authorization must be `Bearer <JWT>`")
        try:
            header = jwt.get_unverified_header(token)
            kid = header.get("kid")
            if header.get("alg") not in ALGORITHMS or not isinstance(kid, str):
                raise UnauthenticatedError(
                    f"the token must be signed by {' or '.join(ALGORITHMS)} and name its key"
                )
            key = await self._keys.get(kid)
            if key is None:
                raise UnauthenticatedError("the token's key is not the issuer's")
            claims = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                issuer=self._issuer,
                audience=self._audience,
                options={"require": ["exp", "iss", "aud", "sub"], "verify_iat": False},
            )
        except jwt.PyJWTError as error:
            raise UnauthenticatedError(f"the token does not hold: {error}") from error
        subject = claims["sub"]
        caller = self._callers.get(subject)
        if caller is None:
            raise PermissionDeniedError(f"{subject} is not a known caller")
        expires_at = datetime.fromtimestamp(claims["exp"], UTC)
        verified = _Verified(caller, Identity(subject), key, expires_at, {}, expires_at, expires_at)
        while len(self._verified) >= _KEPT_TOKENS:
            del self._verified[next(iter(self._verified))]
        self._verified[authorization] = verified
        return verified


def to_mapping(metadata: Metadata) -> Mapping[str, str | bytes]:
    """Return a call's metadata by key; who calls, and for whom, may be said once.

    Raises
    ------
    UnauthenticatedError, PermissionDeniedError
        Said twice, neither can be trusted.
    """
    by_key = dict(metadata)
    if len(by_key) < len(metadata):
        keys = [key for key, _ in metadata]
        if keys.count("authorization") > 1:
            raise UnauthenticatedError("authorization is given twice")
        if keys.count(ON_BEHALF_OF) > 1:
            raise PermissionDeniedError(f"{ON_BEHALF_OF} is given twice")
    return by_key


def _acting_for(person: object, caller: Caller) -> Identity:
    if not caller.may_act_for_people:
        raise PermissionDeniedError(f"{caller.subject} may not act for people")
    if not isinstance(person, str) or not _SUBJECT.fullmatch(person):
        raise PermissionDeniedError(f"{ON_BEHALF_OF} is not a subject id")
    return Identity(caller.subject, person)
