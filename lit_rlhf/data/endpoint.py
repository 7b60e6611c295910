"""Asking an HTTP server: bounded in time, retried, and an error rather than a silence."""

import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lit_rlhf.data.errors import DataError

if TYPE_CHECKING:
    import httpx

WORTH_A_RETRY = (408, 409, 425, 429, 500, 502, 503, 504)


class Endpoint:
    """A server that takes and gives JSON.

    Args:
        url: Its address; paths are put behind it.
        timeout: Seconds until an attempt is given up; twice that for an answer that keeps coming in bits.
        retries: Further attempts after timeouts, broken connections and answers that say "busy" or "broken".
        wait: Seconds before the second attempt; doubled before each further one, a minute at most.
        concurrency: Questions that are asked at the same time.
        key: Name of the environment variable that holds the key to the server, which is sent as a bearer token. The key
            itself belongs in no config.

    Raises:
        DataError: If the address is none or holds a password, a number is out of range, or the variable is not set.
    """

    def __init__(
        self,
        url: str,
        timeout: float = 60.0,
        retries: int = 4,
        wait: float = 1.0,
        concurrency: int = 8,
        key: str | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise DataError(f"{url!r} is no address", "endpoint, url", "Give one such as http://localhost:8000.")
        if "@" in url.split("/")[2]:
            hint = "Addresses are written to configs and logs. Put it into an environment variable, and name that: key."
            raise DataError("the address holds a user's name or password", "endpoint, url", hint)
        if timeout <= 0 or retries < 0 or wait < 0 or concurrency < 1:
            hint = "timeout must be above 0, retries and wait at least 0, concurrency at least 1."
            raise DataError(f"a number is out of range for {url}", "endpoint", hint)
        if key is not None and key not in os.environ:
            hint = f"Set it: export {key}=…" if key.isidentifier() else "Give the name of a variable, never the key."
            raise DataError("the environment variable with the key is not set", "endpoint, key", hint)
        if key is not None and not (self._secret(key).isascii() and self._secret(key).isprintable()):
            raise DataError(f"the value of {key} is no line of ASCII", "endpoint, key", f"Mend {key}.")
        self.url, self.timeout, self.retries, self.wait = url.rstrip("/"), timeout, retries, wait
        self.concurrency, self.key = concurrency, key

    def __repr__(self) -> str:
        return f"Endpoint({self.url.partition('?')[0]})"

    @cached_property
    def _client(self) -> "httpx.Client":
        import httpx

        headers = {"Authorization": f"Bearer {self._secret(self.key)}"} if self.key else {}
        limits = httpx.Limits(max_connections=self.concurrency)
        return httpx.Client(headers=headers, timeout=self.timeout, limits=limits)

    def __getstate__(self) -> dict[str, Any]:
        """Connections are not copied."""
        return {name: value for name, value in vars(self).items() if name != "_client"}

    def openai(self, path: str) -> str:
        """A path of the OpenAI-compatible interface: behind ``/v1``, which the address may or may not bring."""
        return path if self.url.endswith("/v1") else f"/v1{path}"

    def post(self, path: str, payload: dict[str, Any]) -> Any:
        """Ask once; returns the decoded answer.

        Raises:
            DataError: If there is no usable answer after all attempts; it names address, attempts and the last reason.
        """
        import httpx

        reason = ""
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(min(self.wait * 2 ** (attempt - 1), 60.0))
            try:
                status, body = self._attempt(path, payload)
            except httpx.HTTPError as error:
                reason = self._without_key(f"{type(error).__name__}: {error}".rstrip(": "))
                continue
            text = self._without_key(body.decode("utf-8", "replace"))
            if 200 <= status < 300:
                try:
                    return json.loads(text)
                except ValueError:
                    reason = f"an answer that is no JSON: {text[:200]!r}"
                    continue
            reason = f"status {status}: {text[:200]}"
            if status not in WORTH_A_RETRY:
                raise DataError(f"the server refuses: {reason}", self.url + path, "It will not do on a second attempt.")
        hint = "Is the server up? Give a longer timeout or more retries if it is only slow."
        raise DataError(f"no answer after {self.retries + 1} attempts; the last: {reason}", self.url + path, hint)

    def _without_key(self, text: str) -> str:
        """Servers and libraries repeat the key in their complaints."""
        key = self._secret(self.key) if self.key else ""
        return text.replace(key, f"${self.key}") if key else text

    @staticmethod
    def _secret(name: str) -> str:
        return os.environ.get(name, "").strip()

    def _attempt(self, path: str, payload: dict[str, Any]) -> tuple[int, bytes]:
        """Status and body; a server that trickles is given up as well, after twice the timeout at most."""
        import httpx

        deadline, body = time.monotonic() + self.timeout, bytearray()
        with self._client.stream("POST", self.url + path, json=payload) as answer:
            for part in answer.iter_bytes():
                body += part
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout(f"the answer was not complete after {self.timeout:g} s")
        return answer.status_code, bytes(body)

    def post_all(self, path: str, payloads: Sequence[dict[str, Any]]) -> list[Any]:
        """Ask many questions, some at a time; returns the answers in the order of the questions.

        Raises:
            DataError: As for `post`, for the first question without an answer; those not yet asked are dropped.
        """
        # A list, not a generator: one that is left half read would end its threads whenever garbage is collected, which
        # may be in a thread that is just being born, and then waits for itself.
        with ThreadPoolExecutor(self.concurrency) as pool:
            futures = [pool.submit(self.post, path, payload) for payload in payloads]
            try:
                return [future.result() for future in futures]
            finally:
                for future in futures:
                    future.cancel()
