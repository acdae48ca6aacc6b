"""Passing failures are tried again, within bounds; failures for good are not."""

from __future__ import annotations

import errno
import logging

import pytest

from data.errors import StorageError
from data.retry import Retry, is_passing, is_refusal

QUICK = Retry(attempts=3, total_s=10.0, first_delay_s=0.001, longest_delay_s=0.002)

# As pyarrow 26 words them: recorded from a server that answers so.
BUSY = "When reading information for key 'k' in bucket 'b': AWS Error UNKNOWN (HTTP status 503) during HeadObject"
DROPPED = "AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 18, Transferred a partial file"
DENIED = "When reading information for key 'k' in bucket 'b': AWS Error ACCESS_DENIED during HeadObject operation"
NO_BUCKET = "When listing objects under key 'd/' in bucket 'b': AWS Error NO_SUCH_BUCKET during ListObjectsV2 operation"
CORRUPT = "Corrupt snappy compressed data."


class Flaky:
    """Fails with each of the given errors, then succeeds."""

    def __init__(self, *errors: OSError) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "read"


def test_passing_failures_are_tried_again_until_it_works() -> None:
    act = Flaky(OSError(BUSY), OSError(errno.ECONNRESET, "reset"), OSError(DROPPED))
    assert QUICK.call(act, "s3://b/k") == "read"
    assert act.calls == 4


@pytest.mark.parametrize("error", [FileNotFoundError(2, "gone"), PermissionError(13, "no"), OSError(DENIED)])
def test_a_failure_for_good_is_raised_at_once(error: OSError) -> None:
    act = Flaky(error)
    with pytest.raises(type(error)) as raised:
        QUICK.call(act, "s3://b/k")
    assert raised.value is error
    assert act.calls == 1


def test_the_number_of_attempts_is_bounded() -> None:
    act = Flaky(*[OSError(BUSY)] * 9)
    with pytest.raises(
        StorageError, match=r"s3://b/k: cannot be reached, after 4 attempts in 0 s .*503.*data\.retries"
    ):
        QUICK.call(act, "s3://b/k")
    assert act.calls == 4


def test_the_time_is_bounded() -> None:
    act = Flaky(*[OSError(BUSY)] * 9)
    with pytest.raises(StorageError, match="after 1 attempts"):
        Retry(attempts=8, total_s=1.0, first_delay_s=5.0, longest_delay_s=5.0).call(act, "s3://b/k")


def test_no_attempts_gives_up_at_once() -> None:
    act = Flaky(OSError(BUSY))
    with pytest.raises(StorageError, match="after 1 attempts"):
        Retry(attempts=0).call(act, "s3://b/k")


def test_delays_double_up_to_the_longest_with_up_to_half_taken_off(caplog: pytest.LogCaptureFixture) -> None:
    retry = Retry(attempts=6, total_s=60.0, first_delay_s=0.001, longest_delay_s=0.02)
    with caplog.at_level(logging.WARNING):
        retry.call(Flaky(*[OSError(BUSY)] * 6), "s3://b/k")
    delays = [record.args[2] for record in caplog.records if isinstance(record.args, tuple)]
    longest = [0.001, 0.002, 0.004, 0.008, 0.016, 0.02]
    assert len(delays) == 6
    for delay, bound in zip(delays, longest, strict=True):
        assert isinstance(delay, float)
        assert bound / 2 <= delay <= bound


def test_failures_are_told_apart() -> None:
    passing = [OSError(BUSY), OSError(DROPPED), OSError(errno.ESTALE, "stale"), TimeoutError(errno.ETIMEDOUT, "late")]
    refusals = [OSError(DENIED), OSError(NO_BUCKET), PermissionError(13, "no")]
    neither = [OSError(CORRUPT), FileNotFoundError(2, "gone")]
    everything = [*passing, *refusals, *neither]
    assert [error for error in everything if is_passing(error)] == passing
    assert [error for error in everything if is_refusal(error)] == refusals
