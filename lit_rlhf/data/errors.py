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
        super().__init__(f"{text}\n  {hint}" if hint else text)
