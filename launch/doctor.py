"""Looks whether a job can start: ``torchrun ... launch/doctor.py experiment=adult``, on all of its hosts, or alone.

Prints a table with ok, warn and fail and a remedy for each; ends with 0 if nothing failed.
"""

from __future__ import annotations

import os
import sys

from launch.doctor_report import num_failed, table
from launch.doctor_versions import check_imports, check_versions
from trainer.ending import USER_ERROR_EXIT_CODE
from trainer.provenance import versions


def main() -> None:
    """Tries the compiled libraries in another process first: all else here needs them."""
    libraries = check_imports() if os.environ.get("LOCAL_RANK", "0") == "0" else []
    if num_failed(libraries):
        print(table([*check_versions(versions()), *libraries]), flush=True)
        sys.exit(USER_ERROR_EXIT_CODE)
    from launch.doctor_checks import start

    start(libraries)


if __name__ == "__main__":
    main()
