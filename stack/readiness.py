"""Checks that a server does its work. Each returns None, or a text with the missing part."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime
from functools import cache
from typing import Any

import boto3
import psycopg
import redis
import requests
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from celery import Celery
from psycopg.sql import SQL, Identifier

from .errors import StackError

Probe = Callable[[], str | None]

_TIMEOUT_S = 5.0


def answers(url: str) -> str | None:
    """Check that a GET of ``url`` succeeds."""
    try:
        _request("GET", url)
    except requests.RequestException as error:
        return _text(error)
    return None


def bucket_is_there(endpoint: str, access_key: str, secret_key: str, bucket: str) -> str | None:
    """Check that S3 serves ``bucket`` with these keys; create the bucket if only that is missing."""
    client = _s3_client(endpoint, access_key, secret_key)
    try:
        client.head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            return str(error)
        client.create_bucket(Bucket=bucket)
    except BotoCoreError as error:
        return str(error)
    return None


def databases_are_there(host: str, port: int, user: str, password: str, names: Collection[str]) -> str | None:
    """Check that PostgreSQL serves these databases; create missing ones."""
    try:
        with psycopg.connect(
            host=host, port=port, user=user, password=password, dbname="postgres", autocommit=True
        ) as server:
            there = {row[0] for row in server.execute("SELECT datname FROM pg_database")}
            for name in sorted(set(names) - there):
                server.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
    except psycopg.Error as error:
        return str(error)
    return None


def redis_answers(host: str, port: int, password: str) -> str | None:
    """Check that Redis accepts the password and answers."""
    try:
        with redis.Redis(host=host, port=port, password=password, socket_timeout=_TIMEOUT_S) as client:
            client.ping()
    except redis.RedisError as error:
        return str(error)
    return None


def worker_answers(broker_url: str, node: str, api_url: str) -> str | None:
    """Check that the Celery worker ``node`` takes orders, and that the API that its tasks call answers."""
    if missing := answers(f"{api_url}health"):
        return f"the execution API {missing}"
    with Celery(broker=broker_url) as app:
        answered = app.control.ping(destination=[node], timeout=1.0)
    return None if answered else f"{node} does not answer"


def airflow_runs(url: str, login: tuple[str, str], dag_ids: Collection[str], since: datetime) -> str | None:
    """Check that scheduler and dag-processor beat, DAGs are parsed, and the API that tasks call answers.

    Raises:
        StackError: a DAG file failed to import after ``since``; the text has the traceback.
    """
    try:
        # The first request for this API creates it: that takes seconds, in which the API server answers no
        # request.
        _request("GET", f"{url}/execution/health")
        health = _request("GET", f"{url}/api/v2/monitor/health")
        for component in ("metadatabase", "scheduler", "dag_processor"):
            if missing := _unhealthy(health, component):
                return missing
        return _dags_are_parsed(url, login, dag_ids, since)
    except requests.RequestException as error:
        return _text(error)


def airflow_component_runs(url: str, component: str) -> str | None:
    """Check that a component of Airflow beats."""
    try:
        return _unhealthy(_request("GET", f"{url}/api/v2/monitor/health"), component)
    except requests.RequestException as error:
        return _text(error)


def _unhealthy(health: Any, component: str) -> str | None:
    status = health[component]["status"]
    return None if status == "healthy" else f"{component} is {status or 'not heard of yet'}"


def _dags_are_parsed(
    url: str, login: tuple[str, str], dag_ids: Collection[str], since: datetime
) -> str | None:
    username, password = login
    token = _request("POST", f"{url}/auth/token", json={"username": username, "password": password})
    headers = {"Authorization": f"Bearer {token['access_token']}"}
    for error in _request("GET", f"{url}/api/v2/importErrors", headers=headers)["import_errors"]:
        if datetime.fromisoformat(error["timestamp"]) > since:
            raise StackError(f"Airflow cannot import {error['filename']}:\n{error['stack_trace']}")
    dags = _request("GET", f"{url}/api/v2/dags", headers=headers)["dags"]
    missing = set(dag_ids) - {dag["dag_id"] for dag in dags}
    return f"not parsed yet: {', '.join(sorted(missing))}" if missing else None


def _request(method: str, url: str, **options: Any) -> Any:
    with requests.Session() as session:
        # No proxy and no .netrc for servers on this machine.
        session.trust_env = False
        response = session.request(method, url, timeout=_TIMEOUT_S, **options)
        response.raise_for_status()
        return response.json() if "json" in response.headers.get("Content-Type", "") else None


def _text(error: requests.RequestException) -> str:
    if isinstance(error, requests.ConnectionError):
        return "refuses connections"
    return str(error)


@cache
def _s3_client(endpoint: str, access_key: str, secret_key: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name="us-east-1",
        config=Config(
            proxies={},
            connect_timeout=_TIMEOUT_S,
            read_timeout=_TIMEOUT_S,
            retries={"total_max_attempts": 1},
        ),
    )
