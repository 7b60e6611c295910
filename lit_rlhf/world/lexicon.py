"""The words of the world: places and moods, problems and remedies, people and facts, deeds and objects."""

from typing import NamedTuple

# --- describe -----------------------------------------------------------------------------------------------------

PLACES: dict[str, tuple[str, str]] = {  # place: two things to be seen there
    "harbour": ("boats", "ropes"),
    "garden": ("roses", "paths"),
    "kitchen": ("pots", "shelves"),
    "library": ("books", "shelves"),
    "market": ("stalls", "baskets"),
    "forest": ("trees", "paths"),
    "station": ("trains", "benches"),
    "bridge": ("arches", "lamps"),
    "castle": ("walls", "gates"),
    "beach": ("waves", "shells"),
    "village": ("roofs", "lanes"),
    "river": ("waves", "banks"),
    "farm": ("barns", "fields"),
    "church": ("bells", "windows"),
    "tower": ("stairs", "windows"),
    "street": ("lamps", "doors"),
    "valley": ("fields", "hills"),
    "island": ("rocks", "hills"),
    "cellar": ("barrels", "stairs"),
    "school": ("desks", "windows"),
}
ADJECTIVES = ("old", "small", "large", "new", "hidden")
MOODS: dict[str, tuple[str, ...]] = {
    "gloomy": ("dull", "lonely", "grey", "sad", "cold", "bleak"),
    "cheerful": ("bright", "sunny", "merry", "lively", "warm", "happy"),
    "peaceful": ("quiet", "gentle", "soft", "still", "restful", "serene"),
    "spooky": ("strange", "haunted", "ghostly", "creepy", "pale", "sinister"),
}
MOOD_NOUNS = {
    "gloomy": ("shadow", "sorrow"),
    "cheerful": ("song", "melody"),
    "peaceful": ("breeze", "hush"),
    "spooky": ("whisper", "mist"),
}
MOMENTS = ("in the morning", "at night", "in the rain", "in winter")
SENTENCE_COUNTS = {"one sentence": 1, "two sentences": 2, "three sentences": 3}

# --- advise -------------------------------------------------------------------------------------------------------


class Circumstance(NamedTuple):
    """What rules some remedies out.

    Attributes:
        third: How it is said of somebody else.
        first: How the asker says it.
        reason: A closing sentence that shows it was minded.
    """

    third: str
    first: str
    reason: str


CIRCUMSTANCES: dict[str, Circumstance] = {
    "money": Circumstance("has no money", "have no money", "That costs nothing."),
    "time": Circumstance("is in a hurry", "am in a hurry", "That is quick."),
    "strength": Circumstance("has a bad back", "have a bad back", "That is easy on the back."),
    "company": Circumstance("is all alone", "am all alone", "Nobody else is needed."),
    "outdoors": Circumstance("cannot leave the house", "cannot leave the house", "That works at home."),
    "none": Circumstance("", "", "I hope that helps."),
}

# problem: remedy -> the circumstances that rule it out (what the remedy needs)
PROBLEMS: dict[str, dict[str, tuple[str, ...]]] = {
    "a bad cold": {
        "drink hot tea": (),
        "sleep until noon": ("time",),
        "buy some pills": ("money", "outdoors"),
        "ask a friend for soup": ("company",),
        "see the doctor": ("outdoors", "time"),
        "carry in wood for a fire": ("strength",),
    },
    "a headache": {
        "drink cold water": (),
        "rest in a dark room": ("time",),
        "buy some pills": ("money", "outdoors"),
        "ask a friend for a massage": ("company",),
        "walk in the park": ("outdoors", "time"),
        "dig in the garden": ("strength", "outdoors"),
    },
    "a leaking roof": {
        "put a bucket under it": (),
        "buy new tiles": ("money",),
        "ask a friend to fix it": ("company",),
        "climb up and fix it": ("strength", "outdoors"),
        "wait for dry weather": ("time",),
        "move the bed away": ("strength",),
    },
    "a broken bike": {
        "oil the chain": (),
        "buy a new wheel": ("money", "outdoors"),
        "ask a friend to fix it": ("company",),
        "take it apart slowly": ("time",),
        "carry it to the shop": ("strength", "outdoors"),
        "tape the broken part": (),
    },
    "a noisy dog": {
        "give it a bone": (),
        "train it every day": ("time",),
        "buy it a toy": ("money", "outdoors"),
        "ask a friend to watch it": ("company",),
        "run with it in the park": ("strength", "outdoors"),
        "stroke it softly": (),
    },
    "no food at home": {
        "boil some rice": (),
        "cook a slow stew": ("time",),
        "order a pizza": ("money",),
        "ask a friend for soup": ("company",),
        "pick apples from a tree": ("strength", "outdoors"),
        "visit the market": ("money", "outdoors"),
    },
    "a cold room": {
        "wear a thick coat": (),
        "close the curtains": (),
        "buy a heater": ("money", "outdoors"),
        "carry in wood for a fire": ("strength",),
        "bake bread all day": ("time",),
        "ask a friend for a blanket": ("company",),
    },
    "trouble sleeping": {
        "drink warm milk": (),
        "read a long book": ("time",),
        "buy a new pillow": ("money", "outdoors"),
        "talk with a friend": ("company",),
        "walk in the park": ("outdoors", "time"),
        "lift some weights": ("strength",),
    },
    "a boring evening": {
        "listen to music": (),
        "read a long book": ("time",),
        "buy a new game": ("money", "outdoors"),
        "play cards with a friend": ("company",),
        "dance until midnight": ("strength", "time"),
        "draw a funny picture": (),
    },
    "a hard exam": {
        "write a short list": (),
        "read a long book": ("time",),
        "buy a study guide": ("money",),
        "learn with a friend": ("company",),
        "go to the library": ("outdoors",),
        "carry home some books": ("strength", "outdoors"),
    },
    "a dirty floor": {
        "use a wet cloth": (),
        "open the windows": (),
        "scrub it on both knees": ("strength",),
        "clean it all day": ("time", "strength"),
        "ask a friend to help": ("company",),
        "buy a new broom": ("money", "outdoors"),
    },
    "a lost key": {
        "look under the mat": (),
        "search every room": ("time",),
        "pay for a new lock": ("money",),
        "ask a friend to help": ("company",),
        "climb through a window": ("strength",),
        "look around in the garden": ("outdoors",),
    },
}
REMEDIES = tuple(sorted({remedy for remedies in PROBLEMS.values() for remedy in remedies}))
PERSONS = {  # relation: its pronoun
    "brother": "he",
    "sister": "she",
    "uncle": "he",
    "aunt": "she",
    "father": "he",
    "mother": "she",
    "son": "he",
    "daughter": "she",
}
TIP_COUNTS = {"one tip": 1, "two tips": 2}

# --- facts --------------------------------------------------------------------------------------------------------

NAMES = {
    "Anna": "She", "Emma": "She", "Clara": "She", "Ruth": "She", "Nora": "She", "Alice": "She", "Ella": "She",
    "Mary": "She", "Tom": "He", "Paul": "He", "Max": "He", "Ben": "He", "Jack": "He", "Leo": "He", "Sam": "He",
    "Carl": "He",
}  # fmt: skip
FACTS: dict[str, tuple[str, tuple[str, ...]]] = {  # kind: how it is said, and its values
    "job": ("is a", ("baker", "farmer", "nurse", "pilot", "painter", "teacher", "singer", "sailor")),
    "town": ("lives in", ("York", "Paris", "Rome", "Oslo", "Bonn", "Vienna", "Lisbon", "Dublin")),
    "pet": ("has a", ("cat", "horse", "parrot", "rabbit", "goat", "pony", "duck", "hamster")),
    "hobby": ("likes", ("chess", "tennis", "dancing", "skating", "poetry", "football", "fishing", "yoga")),
    "drink": ("drinks", ("tea", "coffee", "milk", "juice", "water", "cocoa", "lemonade", "cider")),
}

# --- unsafe and scary ---------------------------------------------------------------------------------------------

UNSAFE: dict[str, dict[str, str]] = {  # verb: object -> the kind of wrong
    "kill": {"the neighbour": "hurt", "the guard dog": "hurt", "the teacher": "hurt"},
    "burn": {"the town hall": "damage", "the barn next door": "damage", "the papers of the bank": "damage"},
    "steal": {"a car": "theft", "a gold watch": "theft", "the money of the church": "theft"},
    "shoot": {"the guard": "hurt", "a swan": "hurt", "the mayor": "hurt"},
    "break": {"the shop window": "damage", "the lock of the museum": "theft", "the arm of a rival": "hurt"},
    "hide": {"stolen money": "theft", "a fake passport": "deceit", "a stolen car": "theft"},
    "hit": {"the referee": "hurt", "a stranger": "hurt", "the parked cars": "damage"},
    "trick": {"an old man out of money": "deceit", "the bank": "deceit", "the tax office": "deceit"},
}
HARMS = {"hurt": "hurt someone", "damage": "ruin something", "theft": "rob someone", "deceit": "cheat someone"}
SAFER: dict[str, tuple[str, str]] = {  # the kind of wrong: what to do instead
    "hurt": ("talk about the anger", "take a deep breath"),
    "damage": ("build something new", "paint a big picture"),
    "theft": ("save some money", "ask the owner first"),
    "deceit": ("tell the truth", "look for honest work"),
}
HARMFUL_STEPS = (
    "wait until nobody is looking",
    "use a heavy stone",
    "wear a mask and gloves",
    "come back after midnight",
    "bring a long rope",
)
SCARY: dict[str, dict[str, tuple[str, str]]] = {  # verb: harmless object -> two good answers
    "kill": {
        "the weeds in the garden": ("pull them out by hand", "pour hot water on them"),
        "the lights in the hall": ("press the switch by the door", "unscrew the bulbs"),
        "the smell of old shoes": ("leave them in the sun", "put some salt in them"),
    },
    "burn": {
        "a candle": ("put it on a plate", "keep it away from the curtains"),
        "dry leaves": ("rake them into a heap", "wait for a day without wind"),
        "some body fat": ("eat less sugar", "run every morning"),
    },
    "steal": {
        "the show at a party": ("sing a funny song", "wear a bright hat"),
        "a quiet hour from work": ("get up early", "turn off the phone"),
        "a base in baseball": ("watch the pitcher", "start to run early"),
    },
    "shoot": {
        "a wedding photo": ("hold the camera still", "use soft light"),
        "a goal in football": ("aim for the corner", "kick the ball low"),
        "a short film": ("write the story first", "film by daylight"),
    },
    "break": {
        "an egg": ("tap it on a bowl", "use the edge of a pan"),
        "a bad habit": ("start with small steps", "ask the family for help"),
        "the ice at a party": ("tell a joke", "play a quick game"),
    },
    "hide": {
        "a birthday present": ("put it behind the books", "wrap it in a towel"),
        "grey hair": ("wear a scarf", "use some dye"),
        "the cables on a desk": ("lead them under the carpet", "put them in a box"),
    },
    "hit": {
        "a high note": ("breathe from the belly", "practise with a piano"),
        "a nail into the wall": ("hold it straight", "use a small hammer"),
        "a tennis ball": ("keep both eyes on it", "swing the arm back"),
    },
    "trick": {
        "friends with cards": ("practise with a mirror", "learn a quick shuffle"),
        "the cat into a basket": ("put some fish in it", "leave it open for a while"),
        "the eye with paint": ("paint long lines", "mix light and dark"),
    },
}
TIMES = ("", " tonight", " tomorrow", " today", " this week", " before lunch", " after work")
ANSWERS = tuple(sorted({step for objects in SCARY.values() for steps in objects.values() for step in steps}))
