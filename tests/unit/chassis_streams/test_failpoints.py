"""Failpoints: inert unless armed, and never misspelt."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import tokenomics_chassis
import tokenomics_quota
from tokenomics_chassis import failpoints


def run(code: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", code], env=env, check=False, capture_output=True)  # noqa: S603


HIT = "from tokenomics_chassis.failpoints import failpoint; failpoint('relay.after_read'); print('alive')"


def test_a_failpoint_is_inert_unless_armed() -> None:
    assert run(HIT).stdout == b"alive\n"
    assert run(HIT, TOKENOMICS_FAILPOINTS="relay.after_send=1").stdout == b"alive\n"
    assert run(HIT, TOKENOMICS_FAILPOINTS="relay.after_read=0").stdout == b"alive\n"


def test_an_armed_failpoint_kills_the_process_and_says_so(tmp_path: Path) -> None:
    log = tmp_path / "hits"
    armed = {"TOKENOMICS_FAILPOINTS": "relay.after_read=1", "TOKENOMICS_FAILPOINTS_LOG": str(log)}
    for _ in range(2):
        assert run(HIT, **armed).returncode == -9
    assert log.read_text() == "relay.after_read\nrelay.after_read\n"


@pytest.mark.parametrize("text", ["relay.after_reed=1", "relay.after_read=2", "relay.after_read=often"])
def test_a_misspelt_fault_test_does_not_run(text: str) -> None:
    with pytest.raises(ValueError, match=r"failpoint|convert"):
        failpoints.parse(text)


def test_the_list_of_failpoints_is_what_the_code_passes() -> None:
    packages = (tokenomics_chassis, tokenomics_quota)
    sources = (file for package in packages for file in Path(package.__path__[0]).rglob("*.py"))
    passed = [
        name for file in sources for name in re.findall(r'    failpoint\("([^"]+)"\)', file.read_text())
    ]
    assert sorted(passed) == sorted(failpoints.FAILPOINTS)
