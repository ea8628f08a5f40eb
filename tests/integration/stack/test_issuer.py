"""The issuer's tokens hold as services check them, and the bad ones it makes are bad in one respect each."""

import json
import stat
from pathlib import Path

import jwt
import pytest

from tokenomics_chassis.rpc.identity import load_callers
from tokenomics_tools.stack import AUDIENCE, GATEWAY, GOVERNANCE, ISSUER, OPERATOR, PORTAL, Issuer
from tokenomics_tools.stack.issuer import make_key


def verify(issuer: Issuer, token: str) -> object:
    keys = jwt.PyJWKSet.from_dict(json.loads(issuer.jwks_path.read_text()))
    key = keys[jwt.get_unverified_header(token)["kid"]]
    return jwt.decode(token, key, algorithms=["ES256"], audience=AUDIENCE, issuer=ISSUER)["sub"]


def test_a_token_holds_under_the_published_key(tmp_path: Path) -> None:
    issuer = Issuer(tmp_path)
    assert verify(issuer, issuer.token(GATEWAY)) == GATEWAY


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"audience": "another"}, jwt.InvalidAudienceError),
        ({"issuer": "https://elsewhere.example"}, jwt.InvalidIssuerError),
        ({"expires_in_seconds": -1}, jwt.ExpiredSignatureError),
        ({"algorithm": "none"}, jwt.InvalidAlgorithmError),
        ({"key": make_key()}, jwt.InvalidSignatureError),
    ],
    ids=["audience", "issuer", "expired", "algorithm", "key"],
)
def test_each_bad_token_is_refused_for_its_one_fault(
    tmp_path: Path, options: dict[str, object], refusal: type[Exception]
) -> None:
    issuer = Issuer(tmp_path)
    with pytest.raises(refusal):
        verify(issuer, issuer.token(GATEWAY, **options))  # type: ignore[arg-type] # each option has its own type


def test_only_the_owner_may_read_the_signing_key(tmp_path: Path) -> None:
    Issuer(tmp_path)
    assert stat.S_IMODE((tmp_path / "signing-key.pem").stat().st_mode) == 0o600


def test_services_read_the_table_of_callers(tmp_path: Path) -> None:
    callers = load_callers(Issuer(tmp_path).callers_path)
    assert set(callers) == {GATEWAY, PORTAL, OPERATOR, GOVERNANCE}
    assert callers[GATEWAY].may_call("/tokenomics.quota.v1.QuotaService/CheckQuota")
    assert not callers[GATEWAY].may_call("/tokenomics.quota.v1.QuotaService/GetBalance")
    acting = [caller.subject for caller in callers.values() if caller.may_act_for_people]
    assert acting == [PORTAL, GOVERNANCE]
