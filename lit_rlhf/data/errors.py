"""The project's own error type: what was wrong, where, and what to do."""


class DataError(ValueError):
    """Bad input data, configuration or store. The message is meant for the person who runs the command.

    Args:
        message: What was wrong and what was expected.
        location: Where: ``file:line``, ``file, field`` or an option's name.
        hint: What to do about it.
    """

    def __init__(self, message: str, location: str = "", hint: str = "") -> None:
        self.location = location
        text = f"{location}: {message}" if location else message
        super().__init__(_printable(f"{text}\n  {hint}" if hint else text))


class UnsettledError(DataError):
    """Data that can be read in more than one way, and the option of the source that settles it.

    Args:
        message: What was found.
        location: The field.
        case: When the option is right, as the beginning of a sentence.
        option: The source's option.
        value: Its value.
    """

    def __init__(self, message: str, location: str, case: str, option: str, value: str) -> None:
        super().__init__(message, location, f"{case}: {option} {value}")
        self.message, self.case, self.option, self.value = message, case, option, value


class NotFiniteError(DataError):
    """A loss, a gradient or a reward is NaN or infinite."""


def excerpt(text: str, longest: int = 40) -> str:
    """What an error shows of a text from a file: one line, and not all of a long one."""
    line = text.replace("\n", "\\n")
    return line if len(line) <= longest else f"{line[:longest]}…"


def check_counts(**options: int | None) -> None:
    """Refuse options of the data that count something and are below 1; None stands for a default.

    Raises:
        DataError: If one is below 1.
    """
    for name, value in options.items():
        if value is not None and value < 1:
            raise DataError(f"expected a whole number from 1 on, found {value}", f"option data.{name}")


def _printable(text: str) -> str:
    """Without what a terminal would obey or could not write: a file's words must not move the cursor."""
    shown = (char if char == "\n" or char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return "".join(shown)
