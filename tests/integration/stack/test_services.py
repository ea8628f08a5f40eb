"""The quota service runs on the stack, and its processes can be killed and replaced."""

import signal
from functools import partial

import pytest

from tokenomics_tools.stack import ManagedProcess, Stack, StackError
from tokenomics_tools.stack.services import is_ready, quota_processes


def test_a_killed_projector_is_replaced_and_everything_ends_in_order(own_stack: Stack) -> None:
    with quota_processes(own_stack, own_stack.new_database("quota"), projectors=2) as quota:
        killed, other = quota.projectors
        killed.kill()
        with pytest.raises(StackError, match=r"quota-project-1 ended with exit code -9"):
            quota.check()
        replacement = quota.replace(killed)
        quota.check()
        assert quota.projectors == [replacement, other]
        assert is_ready(quota.address)
        for process, at_work in (
            (replacement, "assigned to"),
            (other, "assigned to"),
            (quota.relay, "leading"),
        ):
            process.wait_until(partial(_has_logged, process, at_work), timeout_seconds=60)
    assert not is_ready(quota.address)
    ends = [process.returncode for process in (quota.server, replacement, other, quota.relay)]
    assert ends == [0, 0, 0, 0]
    assert killed.returncode == -signal.SIGKILL


def _has_logged(process: ManagedProcess, text: str) -> bool:
    return text in process.log_text()


def test_a_service_that_cannot_start_is_reported_with_its_log(own_stack: Stack) -> None:
    wrong = own_stack.new_database("quota").replace("quota_", "nobody_")
    with (
        pytest.raises(StackError, match=r"migrate ended with exit code \d+\n.*quota-migrate\.log"),
        quota_processes(own_stack, wrong),
    ):
        pass
