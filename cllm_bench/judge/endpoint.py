"""A judge served by an endpoint that speaks OpenAI's chat completions.

The official `openai` client sends the requests. Retries follow a policy of our own: the client's
cannot be interrupted, does not count its tries and takes every answer with status 200 for a
success. Endpoints quote keys in their errors, so whatever is stored, shown or raised is searched
for the key first.
"""

from __future__ import annotations

import html
import json
import os
import random
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cllm_bench.contracts import JudgePrompt
from cllm_bench.errors import UserError
from cllm_bench.judge.protocol import NoOpinion, Opinion, Stopped

if TYPE_CHECKING:
    import openai

KEYS = ("CLLM_BENCH_JUDGE_KEY", "OPENAI_API_KEY")  # the first that is set counts
MAX_TOKENS = 2048  # as in FastChat's llm_judge, and so is temperature 0
MAX_ANSWER_BYTES = 2**24
MAX_DETAIL = 200  # characters of an endpoint's own words about an error
_TRANSIENT = frozenset({408, 425, 429})  # and all from 500
_HOPELESS = frozenset({401, 402, 403, 404, 405})  # and redirects: the key must not follow them


@dataclass(frozen=True)
class RetryPolicy:
    """How often and for how long an endpoint is tried.

    Attributes:
        tries: Number of times that a prompt is sent.
        first_wait: Seconds before the second try. Each later wait is twice as long, up to
            `longest_wait`, and each is shortened at random by up to a half, so that parallel
            requests do not return together.
        longest_wait: Upper limit of these waits, in seconds.
        longest_retry_after: Longest wait that the endpoint may ask for, in seconds.
        timeout: Seconds for one whole answer.
    """

    tries: int = 8
    first_wait: float = 1.0
    longest_wait: float = 60.0
    longest_retry_after: float = 600.0
    timeout: float = 300.0

    def wait(self, attempt: int, retry_after: float) -> float:
        """Return the seconds to wait after a try, counted from 1."""
        backoff = min(self.longest_wait, self.first_wait * 2.0 ** (attempt - 1))
        return max(retry_after, backoff * random.uniform(0.5, 1.0))


class _TryAgain(Exception):  # noqa: N818
    """A request failed, and another one may succeed."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


@dataclass
class EndpointJudge:
    """A model served by an endpoint.

    Attributes:
        name: Name of the model at the endpoint.
        url: Base URL, without `/chat/completions`.
        key: API key; None sends requests without one.
        parallel: Number of simultaneous requests.
        retries: Policy for failed requests.
    """

    name: str
    url: str
    key: str | None = field(default=None, repr=False)
    parallel: int = 4
    retries: RetryPolicy = field(default_factory=RetryPolicy)
    _stopping: threading.Event = field(default_factory=threading.Event, repr=False)
    _reached: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        self.url = checked_url(self.url)

    @property
    def identity(self) -> str:
        """URL of the endpoint: elsewhere, the same name may be another model."""
        return self._hidden(self.url)

    def ask(self, prompt: JudgePrompt) -> Opinion:
        """Send a prompt until it is answered or all tries are used up."""
        attempt = 1
        while True:
            try:
                return self._opinion(self._completion(prompt), attempt)
            except _TryAgain as error:
                reason = self._hidden(str(error))
                if error.retry_after > self.retries.longest_retry_after:
                    asks = f"{reason}; it asks to wait {error.retry_after:.0f} s"
                    raise NoOpinion(asks, attempt) from None
                if attempt == self.retries.tries:
                    tries = f" ({attempt} tries)" if attempt > 1 else ""
                    raise NoOpinion(reason + tries, attempt) from None
                if self._stopping.wait(self.retries.wait(attempt, error.retry_after)):
                    raise Stopped from None
                attempt += 1

    def stop(self) -> None:
        """Make every `ask` that is waiting for its next try give up."""
        self._stopping.set()

    @cached_property
    def _client(self) -> openai.OpenAI:
        import openai  # slow to import, and few runs need it

        try:
            return openai.OpenAI(
                base_url=self.url,
                api_key=self.key or "unused",  # None would take one from the environment
                timeout=self.retries.timeout,
                max_retries=0,
                default_headers={"User-Agent": f"cllm-bench/{version('cllm-bench')}"},
                http_client=openai.DefaultHttpxClient(follow_redirects=False),
            )
        except Exception as error:  # its HTTP library takes fewer hosts than `checked_url`
            reason = self._hidden(" ".join(str(error).split()))
            raise UserError(f"--judge-url {self.identity} is not a valid URL ({reason})") from None

    def _completion(self, prompt: JudgePrompt) -> Any:
        """Send one request and return the JSON of the answer."""
        import openai

        client = self._client
        end = time.monotonic() + self.retries.timeout
        try:
            with client.chat.completions.with_streaming_response.create(
                model=self.name,
                messages=[
                    {"role": "system", "content": prompt.system},
                    {"role": "user", "content": prompt.user},
                ],
                temperature=0,
                max_tokens=MAX_TOKENS,
                extra_headers=None if self.key else {"Authorization": openai.Omit()},
            ) as response:
                body = _read(response.iter_bytes(), end)
        except openai.APIStatusError as error:
            raise self._refused(error) from None
        except _TryAgain:
            raise
        except Exception as error:  # the client does not wrap all errors of its HTTP library
            raise self._unreachable(_cause(error)) from None
        self._reached = True
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise _TryAgain("the answer is not JSON") from None

    def _opinion(self, answer: Any, attempt: int) -> Opinion:
        """Return the text and the token counts of a completion."""
        try:
            choice = answer["choices"][0]
            text = choice["message"]["content"]
        except (KeyError, IndexError, TypeError):
            raise _TryAgain("the answer is not a chat completion") from None
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

    def _refused(self, error: openai.APIStatusError) -> Exception:
        """Return the exception for an answer with a status other than 200."""
        self._reached = True
        status = error.status_code
        # Hidden before it is shortened: half a key would not be found.
        reason = f"HTTP {status}: {self._hidden(_detail(error))[:MAX_DETAIL]}"
        if status in _TRANSIENT or status >= 500:
            return _TryAgain(reason, _seconds(error.response.headers.get("Retry-After")))
        if status in _HOPELESS or status < 400:
            where = f"the judge at {self.identity}"
            return UserError(f"{where} refused: {reason}; check --judge, --judge-url and the key")
        return NoOpinion(reason, own=True)

    def _unreachable(self, cause: BaseException) -> Exception:
        """Return the exception for a broken connection: fatal only if none ever worked."""
        reason = self._hidden(" ".join(f"{type(cause).__name__}: {cause}".split()))
        never = isinstance(cause, ConnectionRefusedError | socket.gaierror) and not self._reached
        if never or isinstance(cause, ssl.SSLCertVerificationError):
            where = f"the judge at {self.identity}"
            return UserError(f"cannot reach {where} ({reason}); check --judge-url")
        return _TryAgain(reason)

    def _hidden(self, text: str) -> str:
        return self._key_pattern.sub("[key]", text) if self.key else text

    @cached_property
    def _key_pattern(self) -> re.Pattern[str]:
        """Matches the key, also where its characters are escaped for JSON, HTML or a URL."""
        forms = []
        for character in self.key or "":
            code = ord(character)
            escaped = {re.escape(character), re.escape(html.escape(character))}
            numbered = rf"u00{code:02x}|%{code:02x}|&#0*{code};|&#x0*{code:x};"
            forms.append(rf"\\*(?:{'|'.join(escaped)}|(?i:{numbered}))")
        return re.compile("".join(forms))


def checked_url(url: str) -> str:
    """Return an endpoint's URL in the form that is stored and shown.

    Raises:
        UserError: The URL is malformed, or has a part that may hold secrets.
    """
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna")  # as a socket would: no part of it is empty
        whole = parts.scheme in ("http", "https") and bool(host) and parts.port != 0
    except ValueError:
        whole = False
    if not whole or not url.isascii() or not url.isprintable() or " " in url:
        raise UserError("--judge-url is not of the form http(s)://HOST[:PORT]/PATH, in ASCII")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UserError(
            f"--judge-url for {parts.hostname} has a user, a password, a query or a fragment, "
            f"which may hold secrets; set the key in the environment variable {KEYS[0]}"
        )
    return url.rstrip("/").removesuffix("/chat/completions")


def key_of_environment() -> str | None:
    """Return the judge's API key, or None if none is set.

    Raises:
        UserError: The key contains characters that a header cannot hold.
    """
    for name in KEYS:
        if key := os.environ.get(name, "").strip():
            if not key.isascii() or not key.isprintable() or " " in key:
                raise UserError(
                    f"the key in {name} contains a space or a character that is not printable "
                    "ASCII; set it again"
                )
            return key
    return None


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _read(parts: Iterator[bytes], end: float) -> bytes:
    """Return a whole body, within a time limit: the client's own is for each part."""
    body = bytearray()
    for part in parts:
        body += part
        if len(body) > MAX_ANSWER_BYTES:
            raise _TryAgain(f"the answer is longer than {MAX_ANSWER_BYTES:,} bytes")
        if time.monotonic() > end:
            raise TimeoutError("timed out")
    return bytes(body)


def _cause(error: BaseException) -> BaseException:
    """Return the operating system's error that broke a connection, else the HTTP library's."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError):
            return inner
        inner = inner.__cause__ or inner.__context__
    return error.__cause__ or error


def _detail(error: openai.APIStatusError) -> str:
    """Return an endpoint's own words about a failure, in one line."""
    message = error.body.get("message") if isinstance(error.body, Mapping) else None
    text = str(message or error.response.text or error.response.reason_phrase)
    return " ".join(text.split()) or "no reason given"


def _seconds(header: str | None) -> float:
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
