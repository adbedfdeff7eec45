#!/usr/bin/env python3
"""Writes the passwords of Airflow's users for its simple auth manager, and becomes the API server."""

import json
import os
import sys
from pathlib import Path

USERS = {"admin": "AIRFLOW_ADMIN_PASSWORD", "events": "AIRFLOW_EVENTS_PASSWORD"}

passwords = {user: os.environ.pop(variable, "") for user, variable in USERS.items()}
if missing := [USERS[user] for user, password in passwords.items() if not password]:
    # Without a password Airflow would invent one, and print it to its log.
    sys.exit(f"Not set: {', '.join(missing)}. Run deploy/compose/write_env.py")
os.umask(0o077)
Path(os.environ["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"]).write_text(json.dumps(passwords))
os.execvp("airflow", ["airflow", "api-server", *sys.argv[1:]])
