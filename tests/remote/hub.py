"""The part of a Hub that nginx cannot do: lists repositories, signs links that expire, refuses.

    hub.py PORT ROOT CDN SECRET

ROOT/ORG/NAME/… are the files. The name of a repository says how it behaves: gated, private,
expiring (links are good for two seconds), slow, cut, limited.
"""

import base64
import hashlib
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

PORT, ROOT, CDN, SECRET = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
TOKEN = "hf_test_token"
asked = {}


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, headers=(), body=b""):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status, code):
        self.reply(status, [("X-Error-Code", code)])

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        is_list = path.startswith("/api/models/")
        parts = path.removeprefix("/api/models").strip("/").split("/", 4)
        if len(parts) < 4:
            return self.reply(404)
        repository, revision = "/".join(parts[:2]), parts[3]
        if repository == "org/renamed":
            return self.reply(307, [("Location", self.path.replace(repository, "org/model"))])
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        directory = os.path.join(ROOT, repository)
        if token not in ("", TOKEN):
            return self.refuse(401, "InvalidToken")
        if not os.path.isdir(directory) or (parts[1] == "private" and not token):
            return self.refuse(404 if token else 401, "RepoNotFound")
        commit = hashlib.sha1(repository.encode()).hexdigest()
        if revision not in ("main", commit):
            return self.refuse(404, "RevisionNotFound")
        asked[path] = asked.get(path, 0) + 1
        if parts[1] == "limited" and asked[path] == 1:
            return self.reply(429, [("Retry-After", "1")])
        if is_list:
            siblings = []
            for folder, _, names in os.walk(directory):
                for name in names:
                    file = os.path.join(folder, name)
                    named = os.path.relpath(file, directory)
                    siblings.append({"rfilename": named, "size": os.path.getsize(file)})
            body = json.dumps({"sha": commit, "siblings": siblings}).encode()
            return self.reply(200, [("Content-Type", "application/json")], body)
        if parts[1] == "gated" and not token:
            return self.refuse(401, "GatedRepo")
        file = parts[4] if len(parts) > 4 else ""
        if not os.path.isfile(os.path.join(directory, file)):
            return self.refuse(404, "EntryNotFound")
        uri = f"/{parts[1]}/{file}"
        expires = int(time.time()) + (2 if parts[1] == "expiring" else 3600)
        digest = hashlib.md5(f"{expires}{uri} {SECRET}".encode()).digest()
        signature = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        link = f"{CDN}{uri}?Signature={signature}&Expires={expires}"
        self.reply(302, [("Location", link), ("X-Repo-Commit", commit)])


ThreadingHTTPServer(("127.0.0.1", PORT), Hub).serve_forever()
