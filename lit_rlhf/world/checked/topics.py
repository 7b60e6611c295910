"""What requests are about: everyday topics, each with words by which an answer about it can be told."""

from collections.abc import Collection
from functools import cache

from lit_rlhf.world.checked.text import plain, words
from lit_rlhf.world.text import stable_unit

_TOPICS = """
honey: bee hive nectar sweet syrup
bread: bake baki dough flour loaf loaves toast wheat yeast
coffee: bean brew caffein cafe espresso drink roast
tea: leaf leaves brew drink cup herbal
chocolate: cocoa cacao sweet candy cake
cheese: milk dairy cheddar mozzarella cow
soup: broth vegetable bowl stew cook boil
apples: fruit orchard tree juic pie
pizza: dough cheese tomato topping crust slice
ice cream: frozen vanilla cone dessert sweet milk
salt: sodium sea season flavor mineral
eggs: hen chicken yolk breakfast omelet
cats: kitten feline pet purr meow whisker
dogs: pupp canine pet bark breed
horses: ride ridi gallop pony mare stallion equine hoof
elephants: trunk tusk herd ivory mammal
tigers: cat stripe predator wild jungle feline
birds: feather wing fly flie flying nest sing beak
ants: colon insect queen nest worker
whales: ocean sea mammal swim dolphin marine
owls: bird night nocturnal feather hoot prey
butterflies: butterfly caterpillar wing insect flower
spiders: web silk leg arachnid insect
penguins: bird ice antarctic cold swim
the moon: lunar earth orbit sky night star
the sun: solar star light heat sky sunl sunn
stars: sky night galax sun bright constellation
rain: rain water cloud wet drop weather storm umbrella
snow: ice cold winter white flake snowfl
clouds: sky rain water weather vapor
volcanoes: lava erupt magma ash mountain
rivers: water flow stream lake sea bank
the sea: ocean water wave beach marine fish
mountains: peak climb hill high summit snow
deserts: sand dry hot dune arid cactus
forests: tree wood leaf leaves plant wild
gardens: plant flower vegetable grow soil
roses: flower petal red thorn garden
trees: leaf leaves wood forest branch trunk plant
winter: cold snow season ice
summer: sun sunn hot warm beach season heat
bicycles: bike biki cycl ride ridi wheel pedal
trains: rail track station locomotive travel passenger
ships: boat sea sail ocean vessel water
airplanes: plane aircraft fly flying flight pilot wing
cars: driv vehicle road engine wheel
bridges: river cross span road build
clocks: time hour tick watch minute
maps: place direction location world navigat road
mirrors: reflect glass image light
glass: window transparent sand bottle material
paper: writ book page wood tree print
books: read page stor author writ novel
computers: machine software digital program laptop technolog
telephones: phone call talk communicat bell
robots: machine human program technolog automat
chess: game player piece board king queen pawn
football: ball team player goal game soccer
swimming: water pool swim sport stroke
running: run jog jogg exercise marathon race fitness
dancing: danc music move rhythm body
painting: paint art arts artist color colour canvas brush artist
singing: sing song voice music
guitars: string music play instrument chord
theatre: theater stage play actor drama audience
cooking: cook food kitchen recipe meal dish
sleeping: sleep rest night bed dream tired
dreams: sleep night mind imagin wish
friendship: friend love trust people care
birthdays: birth party cake year celebrat gift
schools: learn student teach class educat
teachers: teach student school learn educat class
doctors: medic patient health hospital treat
farmers: farm crop land animal grow harvest
holidays: vacation travel relax family celebrat
museums: art exhibit histor collect visit
markets: buy sell food shop price trade
castles: king stone wall histor fort medieval tower
"""

_FILLERS = {"the", "ice"}  # of a topic's own words, those that tell nothing alone
_UNSEEN_SHARE = 1 / 6


def _read(lines: str) -> dict[str, tuple[str, ...]]:
    pairs = [line.split(": ") for line in lines.strip().splitlines()]
    return {topic: (*_own(topic), *stems.split()) for topic, stems in pairs}


def _own(topic: str) -> list[str]:
    """The topic's own words without the ending of the plural."""
    return [word.removesuffix("s") for word in words(topic) if word not in _FILLERS]


TOPICS: dict[str, tuple[str, ...]] = _read(_TOPICS)
"""Each topic, as it stands in a request, and how words of an English answer about it may begin; up to three letters are
a whole word, or its singular."""


@cache
def unseen_topics() -> frozenset[str]:
    """Topics that no training or validation request is about."""
    ranked = sorted(TOPICS, key=lambda topic: stable_unit("checked topic", topic))
    return frozenset(ranked[: round(len(ranked) * _UNSEEN_SHARE)])


def is_about(text: str, topic: str, asked: Collection[str] = ()) -> bool:
    """Whether an English text has any of the topic's words.

    Args:
        text: The text.
        topic: One of `TOPICS`.
        asked: Words that do not count, since the request asks for them.

    Examples:
        >>> is_about("Bees make it from nectar.", "honey"), is_about("I have been there.", "honey")
        (True, False)
    """
    said = [plain(word) for word in words(text) if word not in asked]
    short = {word for stem in TOPICS[topic] if len(stem) <= 3 for word in (stem, f"{stem}s")}
    long = tuple(stem for stem in TOPICS[topic] if len(stem) > 3)
    return any(word in short or word.startswith(long) for word in said)
