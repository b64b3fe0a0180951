"""Sentences with labelled entities, one JSON object a line: the text, and the spans (in bytes of UTF-8) with what they are.

The sentences are Presidio's templates (presidio-evaluator, with which Microsoft measures its own recognisers), filled by Faker,
and lines of configuration and logs for what Presidio has no templates for. The same seed makes the same corpus."""

import ast
import base64
import datetime
import json
import pathlib
import random
import re
import sys

from faker import Faker

SITE, SEED = pathlib.Path(sys.argv[1]), int(sys.argv[2])
DATA = SITE / "presidio_evaluator/data_generator"
# Of Presidio's templates, and of the lines below.
PASSES, REPEATED = 12, 60

LOCALES = {name: Faker(name) for name in ["en_US", "en_GB", "de_DE", "fr_FR", "it_IT", "nl_NL", "es_ES", "en_AU", "pl_PL"]}
for place, locale in enumerate(LOCALES.values()):
    locale.seed_instance(SEED + place)
chance = random.Random(SEED)
# Faker's times end today where they are not told otherwise.
END = datetime.datetime(2026, 1, 1)
us = LOCALES["en_US"]
abroad = [locale for name, locale in LOCALES.items() if name != "en_US"]


def formats():
    """Presidio's formats of telephone numbers, read from its source: to import it would want a gigabyte of other packages."""
    tree = ast.parse((DATA / "faker_extensions/providers.py").read_text())
    classes = [it for it in tree.body if isinstance(it, ast.ClassDef) and it.name == "PhoneNumberProviderNew"]
    values = [it.value for it in classes[0].body if isinstance(it, ast.Assign) and it.targets[0].id == "formats"]
    return ast.literal_eval(values[0])


FORMATS = formats()


def letters(alphabet, length):
    return "".join(chance.choice(alphabet) for _ in range(length))


UPPER, LOWER, DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz", "0123456789"


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwt():
    algorithm, length = chance.choice([("HS256", 32), ("RS256", 256), ("ES256", 64), ("none", 0)])
    header = chance.choice([{"alg": algorithm, "typ": "JWT"}, {"typ": "JWT", "alg": algorithm, "kid": us.uuid4()}])
    claims = {"sub": us.user_name(), "iat": us.unix_time(end_datetime=END), "email": us.email()}
    spaced = chance.choice([(",", ":"), (", ", ": ")])
    parts = [json.dumps(part, separators=spaced).encode() for part in (header, claims)]
    return ".".join([*map(base64url, parts), base64url(chance.randbytes(length))])


def private_key():
    name = chance.choice(["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "OPENSSH PRIVATE KEY", "ENCRYPTED PRIVATE KEY"])
    body = base64.b64encode(chance.randbytes(chance.choice([48, 121, 1190]))).decode()
    lines = [body[at : at + 64] for at in range(0, len(body), 64)]
    text = "\n".join([f"-----BEGIN {name}-----", *lines, f"-----END {name}-----"])
    return chance.choice([text, text.replace("\n", "\\n")])


# What is an entity: by the name in a template, the detector that is to find it, where it is from, and how it is made.
ENTITIES = {
    "credit_card_number": ("credit_card", "faker", us.credit_card_number),
    "email": ("email", "faker", lambda: chance.choice([us, *abroad]).email()),
    "company_email": ("email", "faker", lambda: chance.choice([us, *abroad]).company_email()),
    "ssn": ("us_ssn", "faker", us.ssn),
    "iban": ("iban", "faker", lambda: chance.choice(abroad).iban()),
    "grouped_iban": ("iban", "faker, in groups", lambda: re.sub("(.{4})(?=.)", r"\1 ", chance.choice(abroad).iban())),
    "phone_number": ("phone", "faker, United States", us.phone_number),
    "phone_abroad": ("phone", "faker, eight other countries", lambda: chance.choice(abroad).phone_number()),
    "phone_presidio": ("phone", "presidio's formats", lambda: us.numerify(chance.choice(FORMATS))),
    "jwt": ("jwt", "made here", jwt),
    "private_key": ("private_key", "made here", private_key),
    "aws_access_key": ("aws_access_key", "made here", lambda: chance.choice(["AKIA", "ASIA"]) + letters(UPPER + "234567", 16)),
    "aws_secret_key": ("aws_secret_key", "made here", lambda: base64.b64encode(chance.randbytes(30)).decode()),
    "azure_storage": ("azure_key", "made here", lambda: base64.b64encode(chance.randbytes(64)).decode()),
    "azure_bus": ("azure_key", "made here", lambda: base64.b64encode(chance.randbytes(32)).decode()),
    "entra_secret": ("azure_key", "made here", lambda: letters(UPPER + LOWER, 3) + "8Q~" + letters(UPPER + LOWER + DIGITS + "_~.-", 33) + "a"),
    "google_key": ("google_key", "made here", lambda: "AIza" + letters(UPPER + LOWER + DIGITS + "_-", 34) + "x"),
    "google_secret": ("google_key", "made here", lambda: "GOCSPX-" + letters(UPPER + LOWER + DIGITS + "_-", 27) + "x"),
}

# What else is in the templates, and is to be left alone.
OTHERS = {
    "person": us.name, "organization": us.company, "nationality": us.country, "nation_woman": us.country,
    "nation_plural": us.country, "age": lambda: us.random_int(1, 99), "ip_address": us.ipv4, "zipcode": us.postcode,
    "us_driver_license": lambda: us.bothify("?#######").upper(), "date_of_birth": lambda: us.date(end_datetime=END), "year": lambda: us.random_int(1950, 2025), "name_nonbinary": us.name,
    "date_time": lambda: us.date_time(end_datetime=END).isoformat(sep=chance.choice(" T")), "title": us.prefix,
    "order": lambda: us.numerify(chance.choice(["##########", "###########", "ORD-########", "####-####-####", "%######-##", "###-#######-#######"])),
    "timestamp": lambda: us.date_time(end_datetime=END).strftime(chance.choice(["%Y-%m-%d %H:%M:%S.%f+00", "%d.%m.%Y %H:%M", "%m/%d/%Y %H:%M:%S", "%Y%m%d%H%M%S", "%s", "%s123"])),
    "digest": lambda: chance.choice([us.md5, us.sha1, us.sha256])(),
    "base64": lambda: base64.b64encode(chance.randbytes(chance.choice([16, 30, 32, 48, 64]))).decode(),
    "version": lambda: us.numerify(chance.choice(["%.#.##", "%.#.#-##", "%#.#.#.###"])),
    "amount": lambda: us.numerify(chance.choice(["%,###.##", "%###.##", "0.##########", "%##.######", "-%#.##e+##"])),
    "certificate": lambda: "-----BEGIN CERTIFICATE-----\nMIIB" + letters(UPPER, 60) + "\n-----END CERTIFICATE-----",
    "package": lambda: us.word() + us.numerify("@%.##.#"),
    "image": lambda: us.word() + "@2x.png",
    "measure": lambda: us.numerify(chance.choice(["%## %## ###", "%# x %# x %#", "##-##-##", "%/%##"])),
}

# Lines with what Presidio's templates lack. Those that look alike are here, too.
LINES = """
aws_access_key_id = {{aws_access_key}}\\naws_secret_access_key = {{aws_secret_key}}
{"AccessKeyId": "{{aws_access_key}}", "SecretAccessKey": "{{aws_secret_key}}", "Expiration": "{{timestamp}}"}
export AWS_SECRET_ACCESS_KEY={{aws_secret_key}}
{{aws_access_key}}:{{aws_secret_key}}
the key {{aws_access_key}}, made on {{timestamp}}
DefaultEndpointsProtocol=https;AccountName=shop;AccountKey={{azure_storage}};EndpointSuffix=core.windows.net
Endpoint=sb://shop.example/;SharedAccessKeyName=root;SharedAccessKey={{azure_bus}}
AZURE_STORAGE_KEY={{azure_storage}}
AZURE_CLIENT_SECRET={{entra_secret}}
"client_secret": "{{entra_secret}}"
https://maps.example/api?key={{google_key}}&q={{city}}
{"client_id": "{{order}}", "client_secret": "{{google_secret}}"}
GOOGLE_API_KEY={{google_key}}
Authorization: Bearer {{jwt}}
{"access_token": "{{jwt}}", "expires_in": {{age}}}
Set-Cookie: session={{jwt}}; Path=/
token was {{jwt}}.
{{private_key}}
key: {{private_key}} (of {{person}})
{"name": "{{person}}", "key": "{{private_key}}"}
{"email": "{{email}}", "phone": "{{phone_abroad}}", "iban": "{{grouped_iban}}", "ssn": "{{ssn}}"}
{{person}} <{{company_email}}>; {{person}} <{{email}}>
mailto:{{email}}?subject={{word}}
Call {{phone_abroad}} or {{phone_number}}, after {{timestamp}}.
Tel: {{phone_presidio}}
reach us: {{phone_presidio}}; {{phone_presidio}}
Our number is {{phone_abroad}}
Please pay to {{grouped_iban}}, {{person}}, {{amount}} EUR
IBAN: {{iban}}
SSN {{ssn}}, born {{date_of_birth}}
{{timestamp}} order {{order}} of {{uuid4}}: {{amount}}, {{amount}}
{{order}}
{{timestamp}}
{{uuid4}} {{digest}} {{digest}}
integrity sha512-{{base64}} {{base64}}
{{certificate}}
{{package}} {{package}} {{image}} {{version}} {{version}}
{{ipv4}} {{ipv6}} {{mac_address}} {{isbn13}} {{ean13}}
parcel {{measure}}, lot {{order}}, {{measure}}
{{url}} {{user_agent}}
{{vin}} {{swift}} {{license_plate}} {{bban}} {{file_path}}
{{timestamp}} | {{amount}} | {{order}} | {{version}} | {{word}}
"""


def fill(template):
    text, spans, at = "", [], 0
    for part in re.finditer(r"{{\s*(\w+)\s*}}", template):
        text += template[at : part.start()]
        at = part.end()
        name = part[1]
        if name in ENTITIES:
            kind, source, make = ENTITIES[name]
            value = str(make())
            start = len(text.encode())
            spans.append({"start": start, "end": start + len(value.encode()), "detector": kind, "source": source})
        else:
            value = str((OTHERS.get(name) or getattr(us, name))())
        text += value
    print(json.dumps({"text": text + template[at:], "spans": spans}))


templates = (DATA / "raw_data/templates.txt").read_text(errors="replace").splitlines()
for _ in range(PASSES):
    for template in templates:
        fill(template.replace("\\n", "\n"))
for _ in range(REPEATED):
    for line in LINES.strip().splitlines():
        fill(line.replace("\\n", "\n"))
