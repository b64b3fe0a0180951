# A program of steps: what each gives is written down, one line of JSON each. A step that fails does not end the others.
import json
import os
import sys


def plain(value):
    if hasattr(value, "values") and hasattr(value, "keys"):
        return [plain(it) for it in value.values()]
    if isinstance(value, (list, tuple)) or hasattr(value, "_mapping"):
        return [plain(it) for it in value]
    return value if value is None or isinstance(value, (bool, int)) else str(value)


def said(name, value):
    print(json.dumps({"step": name, "gives": plain(value)}))


def failed(name, error):
    print(json.dumps({"step": name, "fails": str(error)[:500]}))


def url(scheme):
    password = os.environ.get("PGPASSWORD", "")
    return f"{scheme}://{os.environ['PGUSER']}:{password}@{os.environ['PGHOST']}:{os.environ['PGPORT']}/{os.environ['PGDATABASE']}"
