"""A plugin of pytest that writes what became of each test, one line each, to the file in WEIR_REPORT."""

import os

NAMES = {"passed": "passed", "failed": "failed", "skipped": "skipped"}
outcomes = {}


def pytest_runtest_logreport(report):
    outcome = NAMES[report.outcome]
    if outcome != "passed" or report.when == "call":
        worse = outcomes.get(report.nodeid) in (None, "passed")
        if worse:
            outcomes[report.nodeid] = outcome


def pytest_collectreport(report):
    if report.outcome == "failed":
        outcomes["collecting " + report.nodeid] = "failed"


def pytest_sessionfinish(session):
    with open(os.environ["WEIR_REPORT"], "w", encoding="utf-8") as file:
        for test, outcome in sorted(outcomes.items()):
            print(outcome, test, file=file)
