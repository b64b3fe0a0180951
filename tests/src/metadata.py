"""The metadata service of an EC2 instance, version 2, whose role has these keys. It prints what it is asked."""

import datetime, json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

port, key_id, key, session_token = sys.argv[1:]
ROLES = "/latest/meta-data/iam/security-credentials/"


def role():
    expires = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)
    keys = {"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": key_id, "SecretAccessKey": key}
    return json.dumps(keys | {"Token": session_token, "Expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ")})


class Service(BaseHTTPRequestHandler):
    def answer(self, status, text=""):
        print(self.command, self.path, status)
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_PUT(self):
        lasts = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds")
        is_right = self.path == "/latest/api/token" and lasts
        self.answer(200, "a-token") if is_right else self.answer(400)

    def do_GET(self):
        if self.headers.get("X-aws-ec2-metadata-token") != "a-token":
            self.answer(401)
        elif self.path == ROLES:
            self.answer(200, "gateway")
        elif self.path == ROLES + "gateway":
            self.answer(200, role())
        else:
            self.answer(404)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", int(port)), Service)
print("ready")
server.serve_forever()
