"""What Django's suite is told: where the database is, and to write what became of each test, one line each, to the file in WEIR_REPORT."""

import os
import unittest

from django.test.runner import DiscoverRunner

SERVER = {
    "ENGINE": "django.db.backends.postgresql",
    "HOST": os.environ["PGHOST"],
    "PORT": os.environ["PGPORT"],
    "USER": os.environ["PGUSER"],
    # By the extended protocol, or by statements that psycopg has put their values into.
    "OPTIONS": {"server_side_binding": os.environ["WEIR_BINDING"] == "server"},
}
DATABASES = {"default": {**SERVER, "NAME": "one"}, "other": {**SERVER, "NAME": "two"}}
SECRET_KEY = "of nothing"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
TEST_RUNNER = "weir_django.Runner"

outcomes = {}


def note(test, outcome):
    if outcomes.get(test.id()) in (None, "passed"):
        outcomes[test.id()] = outcome


class Result(unittest.TextTestResult):
    def addSuccess(self, test):
        super().addSuccess(test)
        note(test, "passed")

    def addError(self, test, error):
        super().addError(test, error)
        note(test, "failed")

    def addFailure(self, test, error):
        super().addFailure(test, error)
        note(test, "failed")

    def addSubTest(self, test, subtest, error):
        super().addSubTest(test, subtest, error)
        if error:
            note(test, "failed")

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        note(test, "skipped")

    def addExpectedFailure(self, test, error):
        super().addExpectedFailure(test, error)
        note(test, "failed as expected")

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        note(test, "passed")


class Runner(DiscoverRunner):
    def get_resultclass(self):
        return Result

    def run_suite(self, suite, **words):
        result = super().run_suite(suite, **words)
        with open(os.environ["WEIR_REPORT"], "w", encoding="utf-8") as file:
            for test, outcome in sorted(outcomes.items()):
                print(outcome.replace(" ", "-"), test, file=file)
        return result
