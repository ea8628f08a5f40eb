"""Bad settings are told plainly, good ones are printed without their secrets."""

import pytest

from tokenomics_chassis.settings import RpcSettings, ServiceSettings, SettingsError, load, redact

GOOD = {
    "TOKENOMICS_DATABASE_URL": "postgresql://quota:s3cret@db:5432/quota?sslpassword=also-s3cret",
    "TOKENOMICS_KAFKA_BOOTSTRAP": "one:9092,two:9092",
}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)


def test_settings_come_from_the_environment() -> None:
    settings = load(ServiceSettings)
    assert settings.database_url == GOOD["TOKENOMICS_DATABASE_URL"]
    assert settings.kafka_bootstrap == "one:9092,two:9092"


def test_no_description_shows_a_password() -> None:
    settings = load(ServiceSettings)
    for text in (str(settings.describe()), repr(settings), str(settings)):
        assert "s3cret" not in text
        assert "postgresql://quota:***@db:5432/quota" in text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p@ss/w?rd@h/d", "postgresql://u:***@h/d"),
        ("postgresql://:p@h/d", "postgresql://:***@h/d"),
        ("postgresql://u@h:5432/d", "postgresql://u@h:5432/d"),
        ("postgresql:///d?user=u&password=p&host=/run", "postgresql:///d?user=u&password=***&host=/run"),
        ("one:9092,two:9092", "one:9092,two:9092"),
    ],
)
def test_redaction_hides_passwords_and_nothing_else(url: str, shown: str) -> None:
    assert redact(url) == shown


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("KAFKA_BOOTSTRAP", "one", "TOKENOMICS_KAFKA_BOOTSTRAP: must be host:port, got 'one'"),
        (
            "DATABASE_URL",
            "host=db user=quota password=s3cret",
            "TOKENOMICS_DATABASE_URL: must be a postgresql:// URL",
        ),
        ("KAFKA_BOOTSTRAP", "", "TOKENOMICS_KAFKA_BOOTSTRAP is not set"),
        ("KAFKA_BOOTSTRAP", "one:9092,two", "TOKENOMICS_KAFKA_BOOTSTRAP: must be host:port, got 'two'"),
        (
            "LOG_FORMAT",
            "xml",
            "TOKENOMICS_LOG_FORMAT: input should be 'json' or 'text', got 'xml'",
        ),
    ],
)
def test_a_bad_variable_is_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, line: str
) -> None:
    monkeypatch.setenv(f"TOKENOMICS_{name}", value)
    with pytest.raises(SettingsError) as caught:
        load(ServiceSettings)
    assert str(caught.value) == line


def test_every_missing_variable_is_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load(RpcSettings)
    assert str(caught.value).splitlines() == [
        "TOKENOMICS_AUTH_ISSUER is not set",
        "TOKENOMICS_AUTH_AUDIENCE is not set",
        "TOKENOMICS_AUTH_JWKS is not set",
        "TOKENOMICS_AUTH_CALLERS is not set",
    ]


@pytest.mark.parametrize("jwks", ["http://issuer/jwks", "ftp://issuer/jwks", "file:///etc/passwd"])
def test_keys_come_from_a_file_or_over_https_only(monkeypatch: pytest.MonkeyPatch, jwks: str) -> None:
    for name, value in {"ISSUER": "i", "AUDIENCE": "a", "JWKS": jwks, "CALLERS": "c"}.items():
        monkeypatch.setenv(f"TOKENOMICS_AUTH_{name}", value)
    with pytest.raises(SettingsError, match="must be a file or an https:// URL"):
        load(RpcSettings)


def test_a_certificate_needs_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ISSUER": "i", "AUDIENCE": "a", "JWKS": "j", "CALLERS": "c"}.items():
        monkeypatch.setenv(f"TOKENOMICS_AUTH_{name}", value)
    monkeypatch.setenv("TOKENOMICS_GRPC_TLS_CERTIFICATE", "tls.crt")
    with pytest.raises(SettingsError, match="go together"):
        load(RpcSettings)
