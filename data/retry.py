"""Trying again what failed for a passing reason: a busy server, a dropped connection."""

from __future__ import annotations

import errno
import logging
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from data.errors import StorageError

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Its own generator: how often the network fails must not move the one that others draw from.
_jitter = random.Random()

_PASSING_ERRNOS = {
    *(errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT, errno.EPIPE),
    *(errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH),
}
# pyarrow tells most failures of object stores by their text alone.
_PASSING_TEXT = re.compile(
    r"NETWORK_CONNECTION|SLOW_DOWN|SERVICE_UNAVAILABLE|THROTTLING|INTERNAL_FAILURE|REQUEST_TIMEOUT"
    r"|HTTP status (408|429|5\d\d)|\b(UNAVAILABLE|DEADLINE_EXCEEDED)\b"
)
_REFUSAL_TEXT = re.compile(
    r"ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY|INVALID_CLIENT|INVALID_SIGNATURE|SIGNATURE_DOES_NOT_MATCH"
    r"|EXPIRED_TOKEN|HTTP status 40[13]|\b(PERMISSION_DENIED|UNAUTHENTICATED)\b"
)


@dataclass(frozen=True)
class Retry:
    """Exponential backoff with jitter, bounded in number and in time.

    The delay doubles with each attempt, and a random part of up to a half is taken off, so that the
    workers of a job do not come back all at once.

    Attributes:
        attempts: Tries after the first one; 0 gives up at once.
        total_s: No new try is begun after so many seconds.
        first_delay_s: The longest delay before the first new try, in seconds.
        longest_delay_s: No delay is longer, in seconds.
    """

    attempts: int = 5
    total_s: float = 60.0
    first_delay_s: float = 0.2
    longest_delay_s: float = 10.0

    def call(self, act: Callable[[], T], what: str) -> T:
        """Calls ``act`` until it succeeds, fails for good, or the attempts or the time are used up.

        Args:
            act: May be called several times.
            what: Names the file or folder in messages.

        Raises:
            StorageError: All attempts failed for passing reasons.
            OSError: A failure for good, as it was raised: no such file, no permission, ...
        """
        started = time.monotonic()
        for attempt in range(self.attempts + 1):
            try:
                return act()
            except OSError as cause:
                if not is_passing(cause):
                    raise
                delay_s = self._delay_s(attempt)
                spent_s = time.monotonic() - started
                if attempt == self.attempts or spent_s + delay_s > self.total_s:
                    raise StorageError(
                        f"{what}: cannot be reached, after {attempt + 1} attempts in {spent_s:.0f} s ({cause}); check "
                        "the network and the endpoint, or raise data.retries and data.retry_for_s."
                    ) from cause
                logger.warning(
                    "%s: %s; trying again in %.1f s (%d of %d)", what, cause, delay_s, attempt + 1, self.attempts
                )
                time.sleep(delay_s)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _delay_s(self, attempt: int) -> float:
        longest: float = min(self.longest_delay_s, self.first_delay_s * 2.0**attempt)
        return longest * _jitter.uniform(0.5, 1.0)


def is_passing(error: OSError) -> bool:
    """Whether a failure may be gone the next time: not a missing file, a refused access or bad bytes."""
    if isinstance(error, FileNotFoundError | PermissionError):
        return False
    return error.errno in _PASSING_ERRNOS or _PASSING_TEXT.search(str(error)) is not None


def is_refusal(error: Exception) -> bool:
    """Whether the storage answered, and does not let us in."""
    return isinstance(error, PermissionError) or (
        isinstance(error, OSError) and _REFUSAL_TEXT.search(str(error)) is not None
    )
