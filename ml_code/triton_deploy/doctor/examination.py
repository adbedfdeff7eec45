"""Runs the checks in parallel, each within its deadline; no check stops another."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ..errors import DeployError
from .check import DoctorCheck, DoctorVerdict, Finding, Report


def run_all(checks: Sequence[DoctorCheck], unusable: Mapping[str, DeployError]) -> list[Finding]:
    """Run the checks; return their findings, in the order of the checks.

    Args:
        checks: the checks to run.
        unusable: the error of each variable that can't be used; a check that needs such a variable does not
            run.
    """
    running = [_Running(check) for check in checks if not unusable.keys() & set(check.needs)]
    try:
        for one in running:
            one.thread.start()
        found = {one.check.name: one.result() for one in running}
    finally:
        for one in running:
            one.check.clean_up()
    findings: list[Finding] = []
    for check in checks:
        missing = sorted(unusable.keys() & set(check.needs))
        if missing:
            findings.append(
                Report(check.name).unknown(f"It needs {' and '.join(missing)}, which can't be used.")
            )
        findings += found.get(check.name, [])
    return list(_told_once(findings))


def _told_once(findings: Sequence[Finding]) -> Iterable[Finding]:
    """Report each cause once, at the first check that met it; later findings refer to that check."""
    failed: dict[str, str] = {}
    for finding in findings:
        cause = next(
            (cause for cause in failed if cause in finding.what and failed[cause] != finding.check), ""
        )
        if finding.after in failed.values():
            yield _see(finding, finding.what.partition(": ")[0], finding.after)
        elif cause and finding.verdict is not DoctorVerdict.OK:
            before = finding.what.partition(cause)[0].rstrip(" :")
            yield _see(finding, before or "It can't be looked at", failed[cause])
        else:
            # The hints are written for a deploy, and the doctor makes none.
            yield replace(finding, fix=finding.fix.replace(", then deploy again", ""))
        if finding.verdict is DoctorVerdict.FAILED:
            failed.setdefault(finding.what, finding.check)


def _see(finding: Finding, what: str, check: str) -> Finding:
    return replace(
        finding,
        verdict=DoctorVerdict.UNKNOWN,
        what=f"{what.rstrip('.')}: see {check}, above.",
        fix="",
        after="",
        see=check,
    )


class _Running:
    """A check that runs in a thread, which does not keep the process alive."""

    def __init__(self, check: DoctorCheck) -> None:
        self.check = check
        self.thread = threading.Thread(target=self._run, name=f"doctor: {check.name}", daemon=True)
        self._report = Report(check.name)
        self._findings: list[Finding] = []
        self._began = time.monotonic()

    def result(self) -> list[Finding]:
        """Return the findings up to the deadline, and a failure if the check has not ended by then."""
        self.thread.join(max(0.0, self._began + self.check.deadline_s - time.monotonic()))
        found = list(self._findings)
        if self.thread.is_alive():
            what = f"It did not end within {self.check.deadline_s:g} s: something that it asks hangs."
            fix = "See what it has found so far; the server or file system that comes next does not answer."
            found.append(self._report.failed(what, fix))
        return found

    def _run(self) -> None:
        try:
            for finding in self.check.look():
                self._findings.append(finding)
        except DeployError as error:
            self._findings.append(self._report.failed(error.message, error.hint))
        except Exception as error:
            what = f"The check itself failed: {type(error).__name__}: {error}."
            self._findings.append(self._report.unknown(what, "This is a defect: please report it."))
