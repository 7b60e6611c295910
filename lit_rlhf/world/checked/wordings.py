"""How requests say what they ask for. A wording with a topic is a whole request, one without stands behind another."""

from typing import NamedTuple

ASKS = (
    "Tell me about {topic}.",
    "Tell me something about {topic}.",
    "Say something about {topic}.",
    "Describe {topic}.",
    "Write about {topic}.",
    "What is special about {topic}?",
    "What do people like about {topic}?",
    "Explain {topic} to a child.",
    "I want to know something about {topic}.",
    "Give me a fact about {topic}.",
)
"""Requests that ask for nothing that could be checked."""

UNSEEN_ASKS = ("What comes to your mind when you think of {topic}?", "Please share a thought on {topic}.")
"""The same, in no request for training or validation."""


class Wordings(NamedTuple):
    """How a kind of constraint is worded.

    Attributes:
        seen: In requests for training and validation.
        unseen: In no such request.
    """

    seen: tuple[str, ...]
    unseen: tuple[str, ...]


WORDINGS: dict[str, Wordings] = {
    "max_words": Wordings(
        (
            "Tell me about {topic} in at most {count} words.",
            "In {count} words or fewer, what should I know about {topic}?",
            "Use at most {count} words.",
            "Keep it to {count} words or fewer.",
            "No more than {count} words, please.",
        ),
        ("Your answer must not be longer than {count} words.", "{count} words are the limit."),
    ),
    "about_words": Wordings(
        (
            "Tell me about {topic} in about {count} words.",
            "Write about {count} words on {topic}.",
            "Use about {count} words.",
            "Your answer should have around {count} words.",
        ),
        ("Aim for {count} words or so.",),
    ),
    "sentences": Wordings(
        (
            "Tell me about {topic} in exactly {number} {sentence}.",
            "Write {number} {sentence} about {topic}.",
            "Use exactly {number} {sentence}.",
            "Answer in {number} {sentence}.",
        ),
        ("I would like to read {number} {sentence}, not more and not less.",),
    ),
    "dashes": Wordings(
        (
            "Give me {number} facts about {topic} as a list with dashes.",
            "List {number} things about {topic}, each on a line that begins with a dash.",
            "Answer with a list of {number} items that begin with dashes.",
            "Put it into {number} lines, with a dash in front of each.",
        ),
        (),
    ),
    "numbers": Wordings(
        (
            "Give me {number} facts about {topic} as a numbered list.",
            "Write a numbered list of {number} things about {topic}.",
            "Answer with a numbered list of {number} items.",
        ),
        ("Make it {number} short points, numbered from 1.",),
    ),
    "include": Wordings(
        (
            "Say something about {topic} that contains the word '{word}'.",
            "Use the word '{word}'.",
            "Your answer must contain the word '{word}'.",
            "Please include the word '{word}'.",
        ),
        ("The word '{word}' should occur somewhere.",),
    ),
    "exclude": Wordings(
        (
            "Write about {topic} without the word '{word}'.",
            "Do not use the word '{word}'.",
            "Avoid the word '{word}'.",
            "The word '{word}' must not occur in your answer.",
        ),
        ("I do not want to read the word '{word}'.",),
    ),
    "begin": Wordings(
        (
            "Tell me about {topic}, and begin with the word '{word}'.",
            "Begin your answer with the word '{word}'.",
            "Start with the word '{word}'.",
            "The first word of your answer must be '{word}'.",
        ),
        ("Let '{word}' be the word that opens your answer.",),
    ),
    "question": Wordings(
        (
            "Ask me one question about {topic}.",
            "Ask me a single question about {topic}, and do not answer it.",
            "What would you like to know about {topic}? Ask me one question.",
        ),
        ("Think of one question about {topic} that I should answer.",),
    ),
    "end_question": Wordings(
        (
            "End your answer with a question.",
            "The last sentence must be a question.",
            "Finish with a question to me.",
            "Close by asking me something.",
        ),
        (),
    ),
    "language": Wordings(
        (
            "Say something about {topic} in {language}.",
            "Answer in {language}.",
            "Write your answer in {language}.",
            "Please reply in {language}.",
        ),
        ("I only understand {language}.",),
    ),
    "lower": Wordings(
        (
            "Write everything in lower case.",
            "Use lower case letters only.",
            "Do not use any capital letters.",
            "No capitals at all, please.",
        ),
        (),
    ),
    "json": Wordings(
        (
            'Answer with a JSON object that has one key, "{key}".',
            'Put your answer into JSON, as the value of "{key}".',
            'Reply as JSON: only the key "{key}" with your text.',
        ),
        (),
    ),
    "min_words": Wordings(("Use at least {count} words.", "Write no fewer than {count} words."), ()),
    "upper": Wordings(("Write everything in capital letters.", "Use upper case only."), ()),
    "title": Wordings(
        (
            "Write a title for a story about {topic}, in quotes and nothing else.",
            "Give me only a title in quotes for a book about {topic}.",
        ),
        (),
    ),
    "end_exclamation": Wordings(("End with an exclamation mark.", "The last sentence must end in '!'."), ()),
    "distinct": Wordings(("Do not use any word twice.", "Every word may occur only once."), ()),
}
"""How each kind is worded; those without unseen wordings are in no training request at all."""
