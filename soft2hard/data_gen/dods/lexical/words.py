"""The words of the lexical world: semantic categories, relations between words, and label words.

Every word stands in exactly one category, so that membership is a fact and not a matter of taste.
Words that only ever appear as outputs of a relation (plurals, translations, ...) have no category.
"""

from dataclasses import dataclass

CATEGORIES: dict[str, tuple[str, ...]] = {
    name: tuple(words.split())
    for name, words in {
        "animal": "dog cat horse cow sheep goat pig lion bear deer rabbit fox wolf kangaroo elephant donkey",
        "bird": "eagle robin sparrow crow owl hawk swan goose duck pigeon parrot falcon heron gull stork wren",
        "fish": "trout cod tuna shark herring carp pike eel perch sardine halibut salmon haddock anchovy mackerel flounder",
        "insect": "ant bee wasp moth beetle mosquito butterfly ladybird termite locust flea gnat hornet dragonfly grasshopper aphid",
        "fruit": "apple banana lemon cherry strawberry plum lime pear kiwi coconut blueberry grape mango apricot raspberry papaya",
        "vegetable": "carrot potato onion cabbage spinach broccoli lettuce celery pea bean leek turnip radish cucumber pumpkin garlic",
        "drink": "water milk coffee tea juice wine beer soda lemonade cocoa cider rum vodka whisky brandy gin",
        "tool": "hammer saw drill wrench chisel screwdriver axe shovel rake ladder knife brush clamp crowbar spade mallet",
        "country": "France Spain Italy Germany Japan China Egypt Russia Greece Norway Portugal Poland Kenya Peru Cuba Austria",
        "city": "Paris Madrid Rome Berlin Tokyo Beijing Cairo Moscow Athens Oslo Lisbon Warsaw Nairobi Lima Havana Vienna",
        "colour": "red blue green yellow orange purple pink brown black white grey crimson turquoise beige maroon indigo",
        "garment": "shirt hat coat sock glove scarf jacket skirt dress belt sweater boot vest robe blouse cap",
        "container": "box jar bottle bucket barrel basket bag mug bowl vase crate pouch sack tub jug urn",
        "vehicle": "car bus train truck bicycle boat ship plane tram taxi van ferry helicopter scooter rocket canoe",
        "sport": "football tennis golf rugby hockey basketball volleyball boxing judo rowing skiing fencing surfing archery wrestling polo",
        "instrument": "piano guitar violin flute drum trumpet harp cello clarinet trombone banjo oboe accordion saxophone tuba lute",
        "job": "doctor teacher nurse farmer lawyer baker pilot plumber judge soldier painter waiter butcher tailor sailor barber",
        "tree": "oak pine maple birch willow elm cedar ash spruce poplar beech fir chestnut larch hazel yew",
        "flower": "rose tulip daisy lily orchid daffodil poppy iris violet lavender sunflower marigold jasmine carnation peony lilac",
        "metal": "iron gold silver copper tin zinc nickel aluminium titanium bronze brass steel platinum cobalt chromium magnesium",
        "building": "house church school hospital library museum hotel castle factory barn palace temple prison theatre tower cottage",
        "verb": "eat run grow ride sing swim shake fall break speak drive buy teach think catch sleep",
        "adjective": "big small hot cold fast slow old new rich poor hard soft dark light loud quiet",
        "number": "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen",
    }.items()
}

_IRREGULAR_PLURALS = {"fish": "fish", "country": "countries", "city": "cities"}
PLURALS: dict[str, str] = {name: _IRREGULAR_PLURALS.get(name, name + "s") for name in CATEGORIES}
CATEGORY_OF: dict[str, str] = {word: name for name, words in CATEGORIES.items() for word in words}

LABELS: tuple[str, ...] = tuple("alpha beta gamma delta omega sigma left right up down true false".split())
ORDINALS: tuple[str, ...] = ("first", "second", "third", "fourth", "last")
COUNTS: tuple[str, ...] = ("zero", "one", "two", "three", "four", "five")


@dataclass(frozen=True)
class Relation:
    """A function from the words of one category to words."""

    noun: str
    """As it stands in instructions: 'the {noun} of the word'."""
    domain: str
    pairs: dict[str, str]


_RELATIONS = """
capital of country: Paris Madrid Rome Berlin Tokyo Beijing Cairo Moscow Athens Oslo Lisbon Warsaw Nairobi Lima Havana Vienna
opposite of adjective: small big cold hot slow fast new old poor rich soft hard light dark quiet loud
plural of tool: hammers saws drills wrenches chisels screwdrivers axes shovels rakes ladders knives brushes clamps crowbars spades mallets
past tense of verb: ate ran grew rode sang swam shook fell broke spoke drove bought taught thought caught slept
young of animal: puppy kitten foal calf lamb kid piglet cub cub fawn bunny kit whelp joey calf foal
colour of fruit: red yellow yellow red red purple green green brown brown blue purple orange orange red orange
successor of number: two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
French name of number: un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize
Spanish name of number: uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciseis
German name of number: eins zwei drei vier funf sechs sieben acht neun zehn elf zwolf dreizehn vierzehn funfzehn sechzehn
"""


def _relation(line: str) -> Relation:
    """One of '{noun} of {domain}: {values in the order of the domain's words}'."""
    about, values = line.split(": ")
    noun, domain = about.split(" of ")
    return Relation(noun, domain, dict(zip(CATEGORIES[domain], values.split(), strict=True)))


RELATIONS: dict[str, Relation] = {one.noun: one for one in map(_relation, _RELATIONS.strip().split("\n"))}


def article(noun: str) -> str:
    """'an animal', 'a tool'."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
