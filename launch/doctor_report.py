"""What the doctor found, as a table."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail"]
_WORST: dict[Status, int] = {"ok": 0, "warn": 1, "fail": 2}
_WIDTH = 100


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        status: ``fail``: do not start. ``warn``: it will run, but not as it could.
        check: What was looked at.
        told: What was found.
        remedy: What to do about it; empty if nothing is to be done.
        host: Where; empty for the job as a whole.
    """

    status: Status
    check: str
    told: str
    remedy: str = ""
    host: str = ""


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """The same finding of several hosts once, with all their names; checks in the order in which they came."""
    hosts: dict[Finding, list[str]] = {}
    for finding in findings:
        alike = Finding(finding.status, finding.check, finding.told, finding.remedy)
        names = hosts.setdefault(alike, [])
        if finding.host and finding.host not in names:
            names.append(finding.host)
    checks = list(dict.fromkeys(finding.check for finding in hosts))
    ordered = sorted(hosts, key=lambda finding: (checks.index(finding.check), -_WORST[finding.status]))
    return [Finding(f.status, f.check, f.told, f.remedy, _named(hosts[f])) for f in ordered]


def num_failed(findings: Iterable[Finding]) -> int:
    """How many say: do not start."""
    return sum(finding.status == "fail" for finding in findings)


def table(findings: list[Finding]) -> str:
    """The findings, one below the other, each with its remedy."""
    checks = max([len("check"), *(len(finding.check) for finding in findings)])
    places = max([len("host"), *(len(finding.host) for finding in findings)])
    lines = [f"      {'check':<{checks}}  {'host':<{places}}  found"]
    indent = " " * (6 + checks + 2 + places + 2)
    for finding in findings:
        told = textwrap.wrap(finding.told, _WIDTH) or [""]
        lines.append(f"{finding.status:<4}  {finding.check:<{checks}}  {finding.host or '-':<{places}}  {told[0]}")
        lines += [indent + line for line in told[1:]]
        if finding.remedy:
            remedy = textwrap.wrap(finding.remedy, _WIDTH)
            lines += [indent + ("-> " if i == 0 else "   ") + line for i, line in enumerate(remedy)]
    return "\n".join(lines)


def _named(hosts: list[str]) -> str:
    return ", ".join(hosts) if len(hosts) <= 4 else f"{', '.join(hosts[:3])} and {len(hosts) - 3} more"
