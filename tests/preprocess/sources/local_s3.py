"""A local S3 server, with moto."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import fsspec
import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
from werkzeug.wrappers import Response


class Store:
    """`failing`: paths for which GET answers 500. `halved`: paths whose connection ends in the middle of the content.
    `denied`: buckets that answer 403."""

    def __init__(self) -> None:
        self.failing: set[str] = set()
        self.halved: set[str] = set()
        self.denied: set[str] = set()
        application = DomainDispatcherApplication(create_backend_app)

        def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
            path = environ["PATH_INFO"]
            if path.strip("/").split("/")[0] in self.denied:
                return Response("<Error><Code>AccessDenied</Code></Error>", 403)(environ, start_response)
            if path in self.failing and environ["REQUEST_METHOD"] == "GET":
                return Response("<Error><Code>InternalError</Code></Error>", 500)(environ, start_response)
            content = application(environ, start_response)
            if path in self.halved and environ["REQUEST_METHOD"] == "GET":
                whole = b"".join(content)
                return [whole[: len(whole) // 2]]  # the header states the whole length
            return content

        self.server = make_server("127.0.0.1", 0, answer, threaded=True)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.client = boto3.client(
            "s3", endpoint_url=self.url, aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1"
        )

    def put(self, bucket: str, files: dict[str, bytes]) -> None:
        self.client.create_bucket(Bucket=bucket)
        for name, data in files.items():
            self.client.put_object(Bucket=bucket, Key=name, Body=data)

    def environment(self) -> dict[str, str]:
        """Return the environment variables with which a command uses the server."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
        }


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    store = Store()
    for name, value in store.environment().items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield store
    store.server.shutdown()
