"""The words of the built-in language, with what the grammar must know about them.

Words are sorted by frequency within each list: earlier ones are drawn more often.
"""

from __future__ import annotations

from typing import NamedTuple

VOWELS = "aeiou"
DOUBLING = ("hug", "nap", "sit", "swim", "wrap", "pet", "drop", "stop", "hop", "spin", "trap")


class Noun(NamedTuple):
    singular: str
    plural: str
    kind: str
    """person, animal, thing, food, drink, place or landmark."""
    gender: str = "n"
    """m, f, or n where the word leaves it open."""

    @property
    def irregular(self) -> bool:
        return self.plural != _plural(self.singular)


class Verb(NamedTuple):
    base: str
    third: str
    past: str
    participle: str
    gerund: str

    @property
    def irregular(self) -> bool:
        """Whether past and participle differ."""
        return self.past != self.participle


def _takes_es(word: str) -> bool:
    return word.endswith(("s", "sh", "ch", "x", "z")) or word == "go"


def _plural(noun: str) -> str:
    if noun.endswith("y") and noun[-2] not in VOWELS:
        return noun[:-1] + "ies"
    return noun + ("es" if _takes_es(noun) or noun.endswith("ato") else "s")


def _verb(entry: str) -> Verb:
    """A verb from `base` or `base/past/participle`."""
    base, *irregular = entry.split("/")
    y_to_i = base.endswith("y") and base[-2] not in VOWELS
    third = base[:-1] + "ies" if y_to_i else base + ("es" if _takes_es(base) else "s")
    stem = base + base[-1] if base in DOUBLING else base
    gerund = (stem[:-1] if base.endswith("e") and base != "see" else stem) + "ing"
    regular = base[:-1] + "ied" if y_to_i else stem + ("d" if base.endswith("e") else "ed")
    past, participle = irregular or (regular, regular)
    return Verb(base, third, past, participle, gerund)


def _nouns(kind: str, words: str, gender: str = "n") -> list[Noun]:
    nouns = []
    for entry in str.split(words):
        singular, _, plural = entry.partition("/")
        nouns.append(Noun(singular, plural or _plural(singular), kind, gender))
    return nouns


def _verbs(words: str) -> list[Verb]:
    return [_verb(entry) for entry in str.split(words)]


def _only(verbs: list[Verb], bases: str) -> list[Verb]:
    return [verb for verb in verbs if verb.base in str.split(bases)]


def _interleave(*lists: list[Noun]) -> list[Noun]:
    """Merge frequency-sorted lists, the rank in its own list deciding."""
    ranked = [(rank / len(nouns), noun) for nouns in lists for rank, noun in enumerate(nouns)]
    return [noun for _, noun in sorted(ranked, key=lambda pair: pair[0])]


MEN = _nouns(
    "person",
    "boy man/men father brother king uncle prince grandfather policeman/policemen wizard "
    "fireman/firemen nephew waiter gentleman/gentlemen salesman/salesmen emperor duke son "
    "grandson monk butler milkman/milkmen cowboy godfather",
    "m",
)
WOMEN = _nouns(
    "person",
    "girl woman/women mother sister queen aunt princess grandmother lady witch niece waitress "
    "policewoman/policewomen daughter granddaughter empress duchess nun maid actress stewardess "
    "cowgirl godmother",
    "f",
)
OTHERS = _nouns(
    "person",
    "child/children teacher baby doctor friend farmer neighbor nurse baker sailor clown painter "
    "singer pirate thief/thieves driver dancer cook hunter knight student guard writer artist "
    "soldier shepherd carpenter pilot plumber tailor gardener captain stranger guest cousin "
    "twin giant elf/elves dwarf/dwarves judge lawyer scientist librarian dentist mayor barber "
    "tourist athlete magician acrobat",
)
ANIMALS = _nouns(
    "animal",
    "dog cat bird horse mouse/mice rabbit cow duck pig bear frog fox monkey goose/geese hen "
    "wolf/wolves elephant lion tiger puppy kitten turtle owl goat snake squirrel bee donkey "
    "penguin parrot ox/oxen butterfly hedgehog spider ant crow lamb whale camel zebra kangaroo "
    "crocodile giraffe swan dragon beetle lizard seal dolphin hamster raccoon beaver hawk eagle "
    "rooster calf/calves pony ladybug worm snail otter leopard panda peacock turkey badger "
    "hyena",
)
THINGS = _nouns(
    "thing",
    "ball book box toy doll cup hat shoe spoon bag coat key letter picture car kite drum bell "
    "bottle leaf/leaves stone basket knife/knives plate stick pencil blanket pillow brush "
    "scarf/scarves rope candle umbrella flower boat bowl ring coin clock mirror feather train "
    "lamp shirt glove sock truck puzzle balloon ladder bucket fork crown pot pan jar jug comb "
    "needle hammer nail shovel whistle trumpet violin guitar piano suitcase wallet purse "
    "necklace bracelet jacket sweater dress skirt boot slipper belt towel sponge broom tray "
    "napkin newspaper magazine map flag robot rocket wagon sled skateboard bicycle camera radio "
    "telephone computer lantern torch shell pebble marble",
)
FOODS = _nouns(
    "food",
    "apple cookie egg cake carrot sandwich banana pear berry potato nut tomato cherry pancake "
    "peach loaf/loaves bean onion plum muffin lemon melon pepper mushroom pumpkin cucumber "
    "radish strawberry grape olive biscuit pie waffle noodle sausage burger",
)
PLACES = _nouns(
    "place",
    "house garden park kitchen school forest barn farm field shop church castle village library "
    "market town zoo cave tower yard bakery museum stable tent palace hospital station airport "
    "valley desert jungle meadow cellar attic hallway bathroom bedroom office theater cottage "
    "cabin factory harbor temple",
)
LANDMARKS = _nouns(
    "landmark",
    "table tree door chair bed window river wall fence bench lake gate bush hill rock bridge "
    "shelf/shelves well fountain road pond statue stove fireplace curtain staircase sofa desk "
    "cupboard chimney waterfall stream path tunnel mailbox haystack lighthouse pillar swing "
    "cliff",
)
DRINKS = str.split("milk water juice tea soup coffee lemonade cocoa")
SUBSTANCES = str.split("bread rice cheese honey butter sugar sand snow salt paper")
"""Mass nouns, like the drinks."""

PEOPLE = _interleave(MEN, WOMEN, OTHERS)
NOUNS = [*PEOPLE, *ANIMALS, *THINGS, *FOODS, *PLACES, *LANDMARKS]

MALE_NAMES = str.split(
    "Tom Ben Sam Jack Max Peter Leo Paul Adam David Luke Henry Oscar Felix Noah Simon Daniel "
    "Martin Oliver Victor Frank George Eric Hugo Walter Arthur Julian Edgar Robert Edward Albert "
    "Ralph Philip Stephen Anthony Gregory Patrick Dennis Harold Bruno Carlos Rupert Jasper Kevin "
    "Nathan Ethan Caleb Jonas Theo Silas"
)
FEMALE_NAMES = str.split(
    "Anna Mary Lucy Emma Lily Sara Alice Julia Nora Clara Eva Maria Helen Laura Sophie Ruth Jane "
    "Kate Ella Diana Molly Amy Grace Ida Olga Vera Nina Martha Susan Rachel Hannah Sandra Paula "
    "Theresa Carol Denise Irene Judith Sylvia Bianca Carmen Ruby Pearl Wendy Naomi Chloe Zoe "
    "Esther Stella Miriam"
)

# Verbs that need an object, by what the object may be.
LIVING_OBJECT = _verbs(
    "help hug kiss thank chase follow teach/taught/taught tickle greet visit feed/fed/fed scare "
    "meet/met/met invite comfort praise blame warn annoy amuse protect trust rescue obey ignore "
    "punish lead/led/led thrill"
)
THING_OBJECT = _verbs(
    "find/found/found carry take/took/taken bring/brought/brought want throw/threw/thrown "
    "hold/held/held make/made/made buy/bought/bought fix wash lose/lost/lost paint need "
    "catch/caught/caught kick lift draw/drew/drawn choose/chose/chosen build/built/built "
    "steal/stole/stolen borrow wear/wore/worn collect wrap repair polish mend measure weigh bury "
    "unpack decorate fetch deliver"
)
ANY_OBJECT = _verbs(
    "see/saw/seen like love watch touch notice push hide/hid/hidden admire describe recognize "
    "examine miss"
)
FOOD_OBJECT = _verbs(
    "eat/ate/eaten taste share cook bite/bit/bitten chew swallow peel slice devour nibble"
)
DRINK_OBJECT = _verbs("drink/drank/drunk pour spill taste")
# Verbs that can do without one ("the cup broke", "Tom broke the cup").
ALTERNATING = _verbs(
    "break/broke/broken open close roll move burn melt bend/bent/bent tear/tore/torn "
    "freeze/froze/frozen shake/shook/shaken sink/sank/sunk crack"
)
# Verbs that take none.
INTRANSITIVE = _verbs(
    "sleep/slept/slept laugh go/went/gone smile come/came/come cry fall/fell/fallen wait play "
    "sneeze arrive yawn stay giggle sit/sat/sat swim/swam/swum rest dance cough disappear snore "
    "stand/stood/stood shiver crawl sing/sang/sung wander blush stumble vanish kneel/knelt/knelt "
    "nap appear faint whisper jump sigh tremble limp grin weep/wept/wept chuckle hesitate shriek "
    "frown hiccup groan stagger"
)
THING_INTRANSITIVE = _verbs("fall/fell/fallen disappear vanish appear arrive shine/shone/shone")
GIVING = _verbs("give/gave/given show/showed/shown send/sent/sent offer hand sell/sold/sold")
SAYING = _verbs("say/said/said think/thought/thought hope believe guess dream")
KNOWING = _verbs("know/knew/known remember see/saw/seen forget/forgot/forgotten notice guess")
"""These take a clause with `that` and an indirect question."""
ASKING = _verbs("wonder ask")

STRICTLY_TRANSITIVE = _only(
    [*LIVING_OBJECT, *THING_OBJECT, *ANY_OBJECT],
    "find carry take bring throw hold make buy fix lose need catch lift choose build steal "
    "borrow hug thank tickle greet like love touch notice admire describe blame comfort rescue "
    "protect trust ignore repair polish fetch deliver recognize examine",
)
STRICTLY_INTRANSITIVE = _only(
    INTRANSITIVE,
    "sleep laugh go smile come cry fall wait sneeze arrive yawn stay giggle rest cough "
    "disappear snore shiver crawl wander blush stumble vanish appear faint sigh tremble grin "
    "weep chuckle hesitate frown groan",
)
REFLEXIVE = _only(
    [*LIVING_OBJECT, *ANY_OBJECT],
    "help scare see like praise blame hide describe admire protect amuse trust rescue examine",
)
# What follows from what (see `knowledge.py`).
HAVING = [Verb("have", "has", "had", "had", "having"), *_verbs("keep/kept/kept own")]
LACKING = _verbs("lack miss")
GIVING_TO = _verbs("give/gave/given hand sell/sold/sold send/sent/sent")
TAKING_FROM = _verbs("take/took/taken buy/bought/bought borrow get/got/got")
KIND_DEEDS = _verbs("help hug kiss comfort praise rescue protect visit")
UNKIND_DEEDS = _verbs("scare punish blame annoy ignore tease push pinch")
THANK = _verb("thank")
IRREGULAR_PARTICIPLES = [
    verb for verb in [*THING_OBJECT, *ANY_OBJECT, *FOOD_OBJECT, *ALTERNATING] if verb.irregular
]

LIVING_ADJECTIVES = str.split(
    "little happy old big hungry sad tired young funny kind brave clever quiet shy proud lazy "
    "angry gentle noisy friendly lonely careful cheerful curious polite grumpy sleepy thirsty "
    "jealous nervous patient selfish honest stubborn wise famous poor rich strong weak"
)
THING_ADJECTIVES = str.split(
    "big red new little blue old green yellow small heavy black clean pretty white round dirty "
    "soft brown shiny wooden broken pink tiny purple silver golden striped square flat thick thin "
    "sharp dusty rusty smooth plastic cheap expensive ugly fancy"
)
FOOD_ADJECTIVES = str.split("sweet fresh warm big cold ripe small tasty green red hot soft sour")
PLACE_ADJECTIVES = str.split(
    "big old dark quiet small green sunny empty cold busy pretty high narrow wide crowded lovely "
    "strange muddy foggy"
)

ADJECTIVES = {
    "person": LIVING_ADJECTIVES,
    "animal": LIVING_ADJECTIVES,
    "thing": THING_ADJECTIVES,
    "food": FOOD_ADJECTIVES,
    "place": PLACE_ADJECTIVES,
    "landmark": PLACE_ADJECTIVES,
}

TIMES = ["today", "in the morning", "every day", "at night", "again", "after lunch", "on Sunday"]
PAST_TIMES = ["yesterday", "last week", "this morning", "last night", "a moment ago"]
MANNERS = str.split("quietly slowly quickly happily carefully loudly gently suddenly")
MODALS = str.split("can will must may should could would might")
NUMBERS = str.split("two three four five six ten")

CONVERSE_PLACES = (("above", "below"), ("in front of", "behind"), ("left of", "right of"))
BRIGHT_COLORS = str.split("red blue green yellow black white")
DIMENSIONS = (
    ("thing", (("big", "bigger"), ("small", "smaller"))),
    ("thing", (("heavy", "heavier"), ("light", "lighter"))),
    ("person", (("tall", "taller"), ("short", "shorter"))),
    ("person", (("old", "older"), ("young", "younger"))),
)
GOOD_FEELINGS = str.split("happy glad cheerful")
BAD_FEELINGS = str.split("sad angry upset")
NEEDS = {
    "hungry": (_verb("eat/ate/eaten"), [f"the {noun.singular}" for noun in FOODS[:12]]),
    "thirsty": (_verb("drink/drank/drunk"), [f"some {drink}" for drink in DRINKS]),
    "tired": (_verb("go/went/gone"), ["to bed", "to sleep"]),
    "cold": (_verb("put/put/put"), [f"on the {word}" for word in str.split("coat scarf sweater")]),
    "dirty": (_verb("take/took/taken"), ["a bath", "a shower"]),
}
"""What somebody does about it."""
TOWNS = str.split("Ashford Oakdale Riverton Redhill Greenville Stonebridge Summerfield Winterhill")
# Facts about the world. Each animal: what it says, what it eats, where it lives.
ANIMAL_FACTS = {
    "dog": ("woof", "bones", "house"),
    "cat": ("meow", "mice", "house"),
    "bird": ("tweet", "seeds", "tree"),
    "horse": ("neigh", "hay", "stable"),
    "mouse": ("squeak", "cheese", "wall"),
    "cow": ("moo", "grass", "field"),
    "duck": ("quack", "bread", "pond"),
    "pig": ("oink", "potatoes", "barn"),
    "bear": ("growl", "honey", "cave"),
    "frog": ("ribbit", "flies", "pond"),
    "goose": ("honk", "grass", "lake"),
    "hen": ("cluck", "corn", "barn"),
    "wolf": ("howl", "meat", "forest"),
    "lion": ("roar", "meat", "zoo"),
    "owl": ("hoot", "mice", "tree"),
    "snake": ("hiss", "eggs", "rock"),
    "bee": ("buzz", "honey", "garden"),
    "donkey": ("bray", "carrots", "farm"),
    "monkey": ("chatter", "bananas", "tree"),
    "rabbit": ("sniff", "carrots", "field"),
}
# Smaller before larger.
SIZES = str.split(
    "ant bee mouse frog bird squirrel cat fox dog wolf lion cow bear camel elephant whale"
)
COLORS = {
    "grass": "green",
    "snow": "white",
    "milk": "white",
    "the sky": "blue",
    "the sun": "yellow",
    "coal": "black",
    "honey": "golden",
    "blood": "red",
    "sand": "yellow",
    "chocolate": "brown",
}
WORK = {
    "baker": "bread",
    "farmer": "vegetables",
    "doctor": "sick people",
    "teacher": "children",
    "painter": "pictures",
    "singer": "songs",
    "cook": "soup",
    "driver": "buses",
    "nurse": "patients",
    "thief": "jewels",
    "pirate": "treasures",
    "hunter": "deer",
}
