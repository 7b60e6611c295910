"""JSON values one after another: from single lines, and from texts in which a value may fill many."""

import codecs
import json
import re
from collections import Counter
from typing import Any

from lit_rlhf.data.errors import DataError, excerpt
from lit_rlhf.data.opening import Pushback

LONGEST_ITEM = 2**28  # characters of a value in a list
REWRITE = "Mend it there, or write it anew with one row per line."

_EXCERPT = 20
_NEAR = 16  # the longest word or escape of JSON: an error so near the end of what was read may be no error yet
_READ = 2**16
_BLANKS = re.compile(r"[ \t\r\n]*")


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, unless it gives a field twice: others might read the one where we read the other.

    Raises:
        DataError: If it does.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise DataError(f"field '{excerpt(twice)}' is given more than once")
    return found


_STRICT = json.JSONDecoder(object_pairs_hook=unique)
_PLAIN = json.JSONDecoder()


def parse_line(line: bytes) -> Any:
    """The value on a line. NaN and infinite numbers are read; whoever uses one refuses it.

    Raises:
        DataError: If it is no JSON, no UTF-8, or gives a field twice; without a location.
    """
    text = line.rstrip(b"\r\n")
    try:
        return _STRICT.decode(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        message = f"not UTF-8: byte 0x{text[error.start]:02x} at position {error.start + 1}"
        raise DataError(message, hint="Save the file as UTF-8.") from error
    except json.JSONDecodeError as error:
        hint = _hint(error)
        if is_unfinished(error) and not line.endswith(b"\n"):
            hint = "The last line is not complete: the file may have been cut off."
        raise DataError(_broken(error, error.pos), hint=hint) from error
    except DataError:
        raise
    except (RecursionError, ValueError) as error:  # nested too deeply; a number of thousands of digits
        raise DataError(f"unreadable JSON: {error}") from error


def is_unfinished(error: json.JSONDecodeError) -> bool:
    """Whether a text may be the beginning of valid JSON, for all that the decoder says."""
    return error.msg.startswith("Unterminated string") or error.pos > len(error.doc) - _NEAR


class JsonText:
    """The values of a text, decoded one by one: no more of the text is held than the value that is being read.

    Args:
        stream: The text, as UTF-8.
        path: For errors.
        line: Number of its first line.

    Attributes:
        line: Number of the line of what comes next.
        column: How many characters stand before it on that line.
    """

    def __init__(self, stream: Pushback, path: str, line: int) -> None:
        self._stream, self._path = stream, path
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text, self._at = "", 0
        self._ended = False
        self.line, self.column = line, 0

    def peek(self) -> str:
        """The next character that is no blank; empty at the end."""
        while True:
            blanks = _BLANKS.match(self._text, self._at)
            self._advance(blanks.end() if blanks else self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return ""
            self._more(_READ)

    def take(self, mark: str) -> bool:
        """Step over a character, if it comes next."""
        found = self.peek() == mark
        if found:
            self._advance(self._at + 1)
        return found

    def value(self, longest: int) -> Any:
        """The next value; a `DataError` in its place if it gives a field twice.

        Raises:
            DataError: If there is none, or it has ``longest`` characters or more.
        """
        self.peek()
        while True:
            try:
                value, end = self._decoded()
            except json.JSONDecodeError as error:
                if self._ended or not is_unfinished(error):
                    raise self._error(error) from error
            except (RecursionError, ValueError) as error:
                raise DataError(f"unreadable JSON: {error}", self._where(), REWRITE) from error
            else:
                if end < len(self._text) or self._ended:  # else it may be the beginning of a longer number
                    self._advance(end)
                    return value
            held = len(self._text) - self._at
            if held >= longest:
                raise DataError(f"a row of {longest >> 20} MiB or more", self._where(), "Is it one row, or many?")
            self._more(max(held, _READ))

    def broken(self, expected: str, hint: str = "") -> DataError:
        """The error that something else comes next than what was expected."""
        self.peek()
        return self._error(json.JSONDecodeError(f"expecting {expected}", self._text, self._at), hint)

    def _decoded(self) -> tuple[Any, int]:
        try:
            return _STRICT.raw_decode(self._text, self._at)
        except DataError as error:  # a field twice; where the value ends, others can tell
            return error, _PLAIN.raw_decode(self._text, self._at)[1]

    def _more(self, size: int) -> None:
        data = self._stream.read(size)
        self._ended = not data
        try:
            new = self._decoder.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            good = self._text[self._at :] + error.object[: error.start].decode()
            message = f"not UTF-8: byte 0x{error.object[error.start]:02x}"
            line = self.line + good.count("\n")
            raise DataError(message, f"{self._path}:{line}", "Save the file as UTF-8.") from error
        self._text, self._at = self._text[self._at :] + new, 0

    def _advance(self, end: int) -> None:
        lines = self._text.count("\n", self._at, end)
        self.line += lines
        if lines:
            self.column = end - 1 - self._text.rindex("\n", self._at, end)
        else:
            self.column += end - self._at
        self._at = end

    def _where(self) -> str:
        return f"{self._path}:{self.line}"

    def _error(self, error: json.JSONDecodeError, hint: str = "") -> DataError:
        line = self.line + self._text.count("\n", self._at, error.pos)
        begin = self._text.rfind("\n", self._at, error.pos)
        place = self.column + error.pos - self._at if begin < 0 else error.pos - begin - 1
        where = f"{self._path}:{line}" if line > 1 else self._path  # all of a long list may be one line
        return DataError(_broken(error, place), where, hint or _hint(error) or REWRITE)


def _broken(error: json.JSONDecodeError, place: int) -> str:
    found = error.doc[error.pos : error.pos + _EXCERPT].strip()
    found = f"where it says {found!r}" if found else "where it ends"
    return f"broken JSON at character {place + 1}, {found}: {error.msg[:1].lower()}{error.msg[1:]}"


def _hint(error: json.JSONDecodeError) -> str:
    """What usually makes such an error, where it can be told."""
    rest, before = error.doc[error.pos :].lstrip(), error.doc[: error.pos].rstrip()
    if rest.startswith("'"):
        return "JSON has double quotes: write rows with json.dumps, not with str or print."
    if rest.startswith(("None", "True", "False")):
        return "JSON says null, true and false: write rows with json.dumps, not with str or print."
    if error.msg == "Extra data" and rest.startswith(","):
        return "Rows on lines of their own have no comma behind them; or put all into one list, [ ]."
    if error.msg == "Extra data" and rest.startswith("{"):
        return "Put each row on a line of its own."
    if (rest[:1] in ("]", "}") and before.endswith(",")) or "trailing comma" in error.msg:
        return "Take away the comma before it."
    return ""
