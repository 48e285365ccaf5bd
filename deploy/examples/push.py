#!/usr/bin/env python3
"""Pushes the status of something to Megaphone for as long as it runs.

    push.py URL HOST ID TTL COMMAND [ARGUMENT...]
    push.py http://127.0.0.1:18001 web01 queue/depth 60s ./queue-is-short

COMMAND is run every third of TTL (a number of seconds, or 60s). Exit 0 is OK, 1
Warning, 2 Critical, anything else Unknown; the first line it prints is the message.
A push that fails is made good by the next one, well before TTL is over. Killed with
TERM or INT (^C) it takes the check away: good-bye. Killed otherwise it falls silent,
and after TTL the check is Critical.

A service written in Python takes the class Check and calls push by itself.
"""

import http.client
import json
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request

# What a request that fails raises; urllib.error.URLError is an OSError.
FAILURES = (OSError, http.client.HTTPException)


def segment(name):
    """One segment of a path. A name of dots alone would be taken for a step in the path."""
    if name in (".", ".."):
        return name.replace(".", "%2E")
    return urllib.parse.quote(name, safe="")


class Check:
    """A check that is pushed: registered once, then told its status before each ttl is over."""

    def __init__(self, base, host, id, ttl):
        self.url = "%s/hosts/%s/checks/%s" % (base.rstrip("/"), segment(host), segment(id))
        self.id, self.ttl = id, ttl

    def register(self):
        self._call("PUT", "", {"id": self.id, "ttl": "%gs" % self.ttl})

    def push(self, status, message=""):
        self._call("PUT", "/status", {"status": status, "message": message})

    def deregister(self):
        self._call("DELETE", "")

    def _call(self, method, path, document=None):
        body = None if document is None else json.dumps(document).encode()
        request = urllib.request.Request(
            self.url + path, body, {"Content-Type": "application/json"}, method=method)
        urllib.request.urlopen(request, timeout=10).close()


def look(command, timeout):
    """The status and the message that a command gives."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=timeout)
    except subprocess.TimeoutExpired:
        return "Unknown", "%s takes longer than %g s" % (command[0], timeout)
    except OSError as e:
        return "Unknown", str(e)
    lines = done.stdout.decode(errors="replace").splitlines()
    status = {0: "OK", 1: "Warning", 2: "Critical"}.get(done.returncode, "Unknown")
    return status, lines[0][:1000] if lines else ""


def main(args):
    if len(args) < 5:
        sys.exit(__doc__.split("\n\n")[1])
    base, host, id, ttl, *command = args
    try:
        ttl = float(ttl[:-1] if ttl.endswith("s") else ttl)
    except ValueError:
        ttl = 0
    if not ttl > 0:
        sys.exit("push.py: TTL is a number of seconds, such as 60s")

    check = Check(base, host, id, ttl)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        keep_pushing(check, command)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        check.deregister()


def keep_pushing(check, command):
    registered = False
    while True:
        try:
            # Repeated until it succeeds: Megaphone may start later than this. And again after a push
            # that failed, should the check have been taken away; it changes nothing otherwise.
            if not registered:
                check.register()
                registered = True
            check.push(*look(command, check.ttl / 3))
        except FAILURES as e:
            print("push.py: %s: %s" % (check.url, e), file=sys.stderr)
            registered = False
        time.sleep(check.ttl / 3)


if __name__ == "__main__":
    main(sys.argv[1:])
