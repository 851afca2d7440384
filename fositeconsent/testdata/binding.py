#!/usr/bin/env python3
"""A second implementation of docs/binding.md. Writes the known answers:

    python3 fositeconsent/testdata/binding.py > fositeconsent/testdata/binding.json
"""
import hashlib
import json

PARSED = {"audience", "code_challenge", "code_challenge_method", "redirect_uri", "response_mode", "response_type", "scope"}
UNBOUND = {"claims_locales", "client_assertion", "client_assertion_type", "client_secret", "display", "login_hint", "prompt",
           "ui_locales"}


def count(n):
    return n.to_bytes(8, "big")


def text(s):
    b = s.encode()
    return count(len(b)) + b


def optional(s):
    return b"\0" if s is None else b"\1" + text(s)


def values(l):
    return count(len(l)) + b"".join(map(text, l))


def the_set(l):
    return values(sorted(set(l), key=str.encode))


def audience(form):
    sent = form.get("audience", [])
    return [a for a in (sent[0].split(" ") if len(sent) == 1 else sent) if a]


def encode(v):
    form = v["form"]
    first = lambda name: (form.get(name) or [""])[0]
    method = form.get("code_challenge_method", [])
    if first("code_challenge") and not first("code_challenge_method"):
        method = ["plain"]
    rest = sorted((n for n in form if n not in PARSED and n not in UNBOUND), key=str.encode)
    return b"".join([
        b"\1", text("fosite-consent/binding"), text(v["issuer"]), text(v["subject"]), optional(v["login_session"]),
        text(v["client_id"]), text(first("redirect_uri")), values(form.get("redirect_uri", [])),
        the_set(first("response_type").split()), text(first("response_mode") or "query"),
        the_set(first("scope").split()), the_set(audience(form)), text(first("state")),
        values(form.get("code_challenge", [])), values(method),
        count(len(rest)), *(text(n) + values(form[n]) for n in rest)])


VECTORS = [
    {"name": "the smallest request", "issuer": "https://as.example", "subject": "peter", "login_session": None,
     "client_id": "app", "form": {"client_id": ["app"], "response_type": ["code"]}},
    {"name": "a code with PKCE", "issuer": "https://as.example", "subject": "peter", "login_session": "login-1",
     "client_id": "app", "form": {
         "client_id": ["app"], "redirect_uri": ["https://app.example/cb"], "response_type": ["code"],
         "scope": ["openid photos.read offline_access"], "state": ["0123456789abcdef"], "nonce": ["fedcba9876543210"],
         "code_challenge": ["E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"], "code_challenge_method": ["S256"]}},
    {"name": "a challenge without a method", "issuer": "https://as.example", "subject": "peter", "login_session": "",
     "client_id": "app", "form": {
         "client_id": ["app"], "redirect_uri": ["https://app.example/cb?x=1"], "response_type": ["code"],
         "state": ["0123456789abcdef"], "code_challenge": ["a-plain-challenge-of-43-characters-or-more-x"]}},
    {"name": "a hybrid response, extensions and unbound parameters", "issuer": "https://as.example/tenant",
     "subject": "Zoë", "login_session": "l", "client_id": "ünicode", "form": {
         "client_id": ["ünicode"], "redirect_uri": ["https://app.example/cb"], "response_type": ["id_token code"],
         "response_mode": ["form_post"], "scope": ["b openid a"], "audience": ["https://b.example", "https://a.example"],
         "state": [""], "nonce": [], "resource": ["https://b.example", "https://a.example"],
         "authorization_details": ['[{"type":"payment"}]'], "vendor": ["x"], "prompt": ["login"], "ui_locales": ["de"],
         "client_secret": ["not a part of it"], "request": ["eyJhbGciOiJub25lIn0.e30."]}},
]

for v in VECTORS:
    b = encode(v)
    v["encoding"], v["digest"] = b.hex(), hashlib.sha256(b).hexdigest()
print(json.dumps(VECTORS, indent=2, ensure_ascii=False))
