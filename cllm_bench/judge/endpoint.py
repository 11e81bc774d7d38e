"""A judge behind an endpoint that speaks OpenAI's chat completions.

Its key comes from the environment and goes into one header: whatever is stored, shown or raised has
been searched for it, since endpoints quote keys in their errors.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from cllm_bench import __version__
from cllm_bench.contracts import JudgePrompt
from cllm_bench.errors import UserError
from cllm_bench.judge.protocol import NoOpinion, Opinion, Stopped

KEYS = ("CLLM_BENCH_JUDGE_KEY", "OPENAI_API_KEY")  # the first that is set counts
MAX_TOKENS = 2048  # as in FastChat's llm_judge, and so is temperature 0
LARGEST = 2**24  # bytes of an answer
DETAIL = 200  # characters of an error that an endpoint explains
_TRANSIENT = frozenset({408, 425, 429})  # and all from 500
_HOPELESS = frozenset({401, 402, 403, 404, 405})  # and redirections: the key must not follow them


@dataclass(frozen=True)
class Patience:
    """How long an endpoint is waited for, in seconds.

    Attributes:
        tries: How often a prompt is sent.
        first: The wait behind the first try; each further one is twice as long, up to `longest`,
            and each is cut by chance by up to a half, so that several do not come back together.
        longest: Of these waits.
        told: The longest wait that the endpoint may ask for.
        answer: One whole answer.
    """

    tries: int = 8
    first: float = 1.0
    longest: float = 60.0
    told: float = 600.0
    answer: float = 300.0

    def wait(self, attempt: int, told: float) -> float:
        """Return the wait behind a try, counted from 1."""
        backoff = min(self.longest, self.first * 2.0 ** (attempt - 1))
        return max(told, backoff * random.uniform(0.5, 1.0))


class _TryAgain(Exception):  # noqa: N818
    """This request failed, and another may not."""

    def __init__(self, reason: str, told: float = 0.0) -> None:
        super().__init__(reason)
        self.told = told


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follow nothing."""


@dataclass
class EndpointJudge:
    """A model behind an endpoint.

    Attributes:
        name: Of the model, as the endpoint knows it.
        url: Without the `/chat/completions`.
        key: None asks without one.
        parallel: Requests at once.
        patience: With failures.
    """

    name: str
    url: str
    key: str | None = field(default=None, repr=False)
    parallel: int = 4
    patience: Patience = field(default_factory=Patience)
    _stopping: threading.Event = field(default_factory=threading.Event, repr=False)
    _reached: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        self.url = checked_url(self.url)
        self._opener = urllib.request.build_opener(_NoRedirect)

    @property
    def identity(self) -> str:
        """The address: the same name may be another model elsewhere."""
        return self._hidden(self.url)

    def ask(self, prompt: JudgePrompt) -> Opinion:
        """Ask until there is an answer or the patience is at its end."""
        attempt = 1
        while True:
            try:
                return self._opinion(self._answer(prompt), attempt)
            except _TryAgain as error:
                reason = self._hidden(str(error))
                if error.told > self.patience.told:
                    asks = f"{reason}; it asks to wait {error.told:.0f} s"
                    raise NoOpinion(asks, attempt) from None
                if attempt == self.patience.tries:
                    tries = f" ({attempt} tries)" if attempt > 1 else ""
                    raise NoOpinion(reason + tries, attempt) from None
                if self._stopping.wait(self.patience.wait(attempt, error.told)):
                    raise Stopped from None
                attempt += 1

    def stop(self) -> None:
        """Let every `ask` give up that waits before its next try."""
        self._stopping.set()

    def _opinion(self, answer: Any, attempt: int) -> Opinion:
        """Read what the endpoint sent."""
        try:
            choice = answer["choices"][0]
            text = choice["message"]["content"]
        except (KeyError, IndexError, TypeError):
            raise _TryAgain("the answer is no chat completion") from None
        if not isinstance(text, str):
            reason = choice.get("finish_reason")
            raise NoOpinion(self._hidden(f"no text (finish_reason {reason})"), attempt, own=True)
        usage = answer.get("usage") or {}
        return Opinion(
            text=self._hidden(text),
            requests=attempt,
            prompt_tokens=_count(usage, "prompt_tokens"),
            completion_tokens=_count(usage, "completion_tokens"),
        )

    def _answer(self, prompt: JudgePrompt) -> Any:
        """Send one request; return the JSON of the answer."""
        try:
            body = self._body(self._request(prompt))
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error) from None
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from None
        self._reached = True
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise _TryAgain("the answer is no JSON") from None

    def _request(self, prompt: JudgePrompt) -> urllib.request.Request:
        messages = [
            {"role": "system", "content": prompt.system},
            {"role": "user", "content": prompt.user},
        ]
        asked = {
            "model": self.name,
            "messages": messages,
            "temperature": 0,
            "max_tokens": MAX_TOKENS,
        }
        request = urllib.request.Request(
            f"{self.url}/chat/completions",
            json.dumps(asked).encode(),
            {"Content-Type": "application/json", "User-Agent": f"cllm-bench/{__version__}"},
            method="POST",
        )
        if self.key is not None:
            request.add_unredirected_header("Authorization", f"Bearer {self.key}")
        return request

    def _body(self, request: urllib.request.Request) -> bytes:
        """Read an answer to its end, in a limited time: a socket's own limit is for each part."""
        end = time.monotonic() + self.patience.answer
        parts, size = [], 0
        with self._opener.open(request, timeout=self.patience.answer) as response:
            while part := response.read1(65536):
                parts.append(part)
                size += len(part)
                if size > LARGEST:
                    raise _TryAgain(f"the answer is longer than {LARGEST:,} bytes")
                if time.monotonic() > end:
                    raise TimeoutError("timed out")
            if response.length:  # announced, and not sent
                raise http.client.IncompleteRead(b"".join(parts), response.length)
        return b"".join(parts)

    def _refused(self, error: urllib.error.HTTPError) -> Exception:
        """Return what an answer with a status other than 200 means."""
        self._reached = True
        status = error.code
        # Hidden before it is cut: of a key that the cut parts, nothing would be found.
        reason = f"HTTP {status}: {self._hidden(_detail(error))[:DETAIL]}"
        if status in _TRANSIENT or status >= 500:
            return _TryAgain(reason, _told(error.headers.get("Retry-After")))
        if status in _HOPELESS or status < 400:
            where = f"the judge at {self.identity}"
            return UserError(f"{where} refused: {reason}; check --judge, --judge-url and the key")
        return NoOpinion(reason, own=True)

    def _unreachable(self, error: OSError | http.client.HTTPException) -> Exception:
        """Return what a broken connection means: nothing, unless there never was one."""
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        reason = self._hidden(" ".join(f"{type(cause).__name__}: {cause}".split()))
        never = isinstance(cause, ConnectionRefusedError | socket.gaierror) and not self._reached
        if never or isinstance(cause, ssl.SSLCertVerificationError):
            where = f"the judge at {self.identity}"
            return UserError(f"cannot reach {where} ({reason}); check --judge-url")
        return _TryAgain(reason)

    def _hidden(self, text: str) -> str:
        return text.replace(self.key, "[key]") if self.key else text


def checked_url(url: str) -> str:
    """Return an endpoint's address as it may be stored and shown.

    Raises:
        UserError: It is none, or has a place for secrets.
    """
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna")  # as a socket would: no part of it is empty
        whole = parts.scheme in ("http", "https") and bool(host) and parts.port != 0
    except ValueError:
        whole = False
    if not whole or not url.isascii() or not url.isprintable() or " " in url:
        raise UserError("--judge-url is not of the form http(s)://HOST[:PORT]/PATH, all in ASCII")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UserError(
            f"--judge-url for {parts.hostname} has a user, a password, a query or a fragment, "
            f"which may hold secrets; give the key in the environment as {KEYS[0]}"
        )
    return url.rstrip("/").removesuffix("/chat/completions")


def key_of_environment() -> str | None:
    """Return the judge's key, if there is one.

    Raises:
        UserError: It is none that a header can hold.
    """
    for name in KEYS:
        if key := os.environ.get(name, "").strip():
            if not key.isascii() or not key.isprintable() or " " in key:
                raise UserError(f"the key in {name} holds characters that no key has; set it anew")
            return key
    return None


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _detail(error: urllib.error.HTTPError) -> str:
    """Return an endpoint's own words about a failure, all of them, in one line."""
    try:
        data = error.read(65536)
    except (OSError, http.client.HTTPException):
        data = b""
    text = data.decode(errors="replace")
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        text = str(json.loads(text)["error"]["message"])
    return " ".join((text or error.reason or "").split()) or "no reason given"


def _told(header: str | None) -> float:
    """Return the seconds of a Retry-After header, which may be a number or a date."""
    if not header:
        return 0.0
    try:
        return max(0.0, float(header)) if float(header) < float("inf") else 0.0
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(header)
    except ValueError:
        return 0.0
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())
