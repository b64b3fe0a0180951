"""What RDS does with the token of a login: has it checked by who can sign one. Run by pam_exec, which gives the token.

Its arguments: where botocore is, what the instance is, and a file for the tokens that were seen."""

import datetime, json, os, sys
from urllib.parse import parse_qsl

site, instance, seen = sys.argv[1:]
sys.path.insert(0, site)
import botocore.auth
import botocore.session

# No more than 512 bytes: PAM has no room for longer ones.
token = sys.stdin.buffer.read().rstrip(b"\0").decode()
with open(seen, "a") as file:
    file.write(token + "\n")
with open(instance) as file:
    instance = json.load(file)


def parts(token):
    place, query = token.split("/?", 1)
    return [("endpoint", place)] + sorted(parse_qsl(query, strict_parsing=True))


found = parts(token)
date = datetime.datetime.strptime(dict(found)["X-Amz-Date"], "%Y%m%dT%H%M%SZ")
age = (datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None) - date).total_seconds()
if not -300 <= age <= int(dict(found)["X-Amz-Expires"]):
    sys.exit(f"refused: a token that is {age} s old")
botocore.auth.get_current_datetime = lambda *_, **__: date
keys = {"aws_access_key_id": instance["key_id"], "aws_secret_access_key": instance["key"]}
keys["aws_session_token"] = instance["session_token"]
client = botocore.session.Session().create_client("rds", region_name=instance["region"], **keys)
own = client.generate_db_auth_token(
    DBHostname=instance["host"], Port=instance["port"], DBUsername=os.environ["PAM_USER"], Region=instance["region"]
)
wrong = [name for name, value in parts(own) if (name, value) not in found]
if wrong or len(parts(own)) != len(found):
    sys.exit(f"refused: {' '.join(wrong)}")
print("taken", flush=True)
