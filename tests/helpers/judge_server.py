"""An endpoint on this machine that speaks chat completions, and fails as it is told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HANG, CLOSE = "hang", "close"


@dataclass
class Answer:
    """What the endpoint sends: a status, headers and a body, with a pause behind each byte."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    pause: float = 0.0


def said(text: str | None, prompt_tokens: int = 100, completion_tokens: int = 10) -> Answer:
    """A completion."""
    body = {
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens},
    }
    return Answer(body=json.dumps(body).encode())


def failed(status: int, message: str = "no", **headers: str) -> Answer:
    """An error in the form that such endpoints give it."""
    body = json.dumps({"error": {"message": message}}).encode()
    return Answer(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


class Endpoint:
    """The server; `behave` gets the user's text and how often that text has come.

    Args:
        behave: Gives the answers.
        port: That of an earlier one, to be the same judge; 0 takes a free one.

    Attributes:
        requests: Path, headers and JSON body of each request, in the order of arrival.
    """

    def __init__(self, behave: Callable[[str, int], Answer | str], port: int = 0) -> None:
        self.requests: list[dict[str, Any]] = []
        self.behave = behave
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def port(self) -> int:
        return self._server.server_port

    @property
    def prompts(self) -> list[str]:
        """The user's texts."""
        return [each["body"]["messages"][-1]["content"] for each in self.requests]

    def close(self) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answer = endpoint._take(self.path, self.headers, body)
                if answer == HANG:
                    endpoint._released.wait(10)
                if isinstance(answer, str):
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                headers = {"Content-Length": str(len(answer.body))} | answer.headers
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                parts = [bytes([byte]) for byte in answer.body] if answer.pause else [answer.body]
                for part in parts:
                    if endpoint._released.wait(answer.pause):
                        return
                    self.wfile.write(part)

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def _take(self, path: str, headers: Message, body: Any) -> Answer | str:
        with self._lock:
            text = body["messages"][-1]["content"]
            times = self.prompts.count(text)
            self.requests.append({"path": path, "headers": headers, "body": body})
        return self.behave(text, times)
