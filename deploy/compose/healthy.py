#!/usr/bin/env python3
"""Exits 0 if a GET of the URL succeeds: the health check of this project's images, which have no curl."""

import sys
import urllib.request

# No proxy of the environment for this machine's own ports.
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    with opener.open(sys.argv[1], timeout=5) as answer:
        answer.read()
except OSError as error:
    sys.exit(f"{sys.argv[1]}: {error}")
