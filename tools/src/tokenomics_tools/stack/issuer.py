"""The stack's own issuer of identities: a key, its JWKS file, tokens good and bad, the table of callers."""

import hashlib
import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from tokenomics_chassis.clock import SystemClock
from tokenomics_chassis.rpc.identity import Caller

ISSUER = "https://issuer.tokenomics.local"
AUDIENCE = "tokenomics"

_QUOTA = "/tokenomics.quota.v1.QuotaService"
GATEWAY = "system:serviceaccount:ai:gateway"
"""Asks before each AI call."""
PORTAL = "system:serviceaccount:portal:portal"
"""Shows people what is theirs."""
OPERATOR = "system:serviceaccount:operations:operator"
"""Looks after projections and parked events."""
GOVERNANCE = "system:serviceaccount:governance:console"
"""Tries, proposes and publishes policies."""
LOCAL_CALLERS = (
    Caller(
        subject=GATEWAY,
        methods=frozenset(
            f"{_QUOTA}/{method}"
            for method in (
                "CheckQuota",
                "BatchCheckQuota",
                "StreamCheckQuota",
                "EstimateCost",
                "SuggestAlternatives",
                "ListPolicies",
                "PlaceHold",
                "SettleHold",
                "ReleaseHold",
                "ExtendHold",
                "ListHolds",
                "AcquireLease",
                "RenewLease",
                "ReturnLease",
            )
        ),
    ),
    Caller(
        subject=PORTAL,
        methods=frozenset(
            f"{_QUOTA}/{method}"
            for method in (
                "CheckQuota",
                "EstimateCost",
                "SuggestAlternatives",
                "GetBalance",
                "ListBalances",
                "ListUsage",
                "ListLooks",
                "FreezeAccount",
                "UnfreezeAccount",
                "GetBudget",
                "WatchBudget",
                "GetSourceStatus",
                "ListPolicies",
            )
        ),
        may_act_for_people=True,
    ),
    Caller(
        subject=OPERATOR,
        methods=frozenset(
            {
                "/tokenomics.operations.v1.OperationsService/*",
                *(
                    f"{_QUOTA}/{method}"
                    for method in (
                        "GetSourceStatus",
                        "CheckDrift",
                        "FreezeAccount",
                        "UnfreezeAccount",
                        "StartBypass",
                        "EndBypass",
                    )
                ),
                "/grpc.reflection.v1alpha.ServerReflection/*",
            }
        ),
    ),
    Caller(
        subject=GOVERNANCE,
        methods=frozenset(
            f"{_QUOTA}/{method}"
            for method in (
                "ListPolicies",
                "TestPolicy",
                "ProposePolicy",
                "ListPolicyProposals",
                "StartSimulation",
                "WatchSimulation",
                "GetSimulation",
                "CloseAccount",
            )
        ),
        may_act_for_people=True,
    ),
)


class Issuer:
    """Issues ES256 tokens as a cluster's issuer would.

    Parameters
    ----------
    folder
        Gets ``jwks.json``, ``callers.yaml`` and, kept when there is one, ``signing-key.pem``.
    """

    def __init__(self, folder: Path, callers: Sequence[Caller] = LOCAL_CALLERS) -> None:
        folder.mkdir(exist_ok=True)
        self.jwks_path = folder / "jwks.json"
        self.callers_path = folder / "callers.yaml"
        self.key = _read_or_make_key(folder / "signing-key.pem")
        public = ECAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        self.key_id = hashlib.sha256(json.dumps(public, sort_keys=True).encode()).hexdigest()[:16]
        jwk = {**public, "kid": self.key_id, "use": "sig", "alg": "ES256"}
        self.jwks_path.write_text(json.dumps({"keys": [jwk]}))
        table = {"callers": [caller.model_dump(mode="json") for caller in callers]}
        self.callers_path.write_text(yaml.safe_dump(table, sort_keys=False))

    def token(
        self,
        subject: str,
        *,
        audience: str = AUDIENCE,
        issuer: str = ISSUER,
        expires_in_seconds: int = 3600,
        algorithm: str = "ES256",
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> str:
        """Sign a token; the defaults make one that services accept, all else one that they must refuse.

        Parameters
        ----------
        subject
            The caller, e.g. ``GATEWAY``.
        expires_in_seconds
            From now; negative for a token that has expired.
        algorithm
            ``none`` leaves the token unsigned.
        key
            Another key to sign with, under the name of the issuer's own.
        """
        now = SystemClock().now()
        claims: dict[str, Any] = {
            "sub": subject,
            "aud": audience,
            "iss": issuer,
            "iat": now,
            "exp": now + timedelta(seconds=expires_in_seconds),
        }
        signing_key = "" if algorithm == "none" else key or self.key
        return jwt.encode(claims, signing_key, algorithm=algorithm, headers={"kid": self.key_id})


def make_key() -> ec.EllipticCurvePrivateKey:
    """Make a signing key, such as a forger would use."""
    return ec.generate_private_key(ec.SECP256R1())


def _read_or_make_key(path: Path) -> ec.EllipticCurvePrivateKey:
    if path.exists():
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key
    key = make_key()
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return key
