"""Which nouns a fair reader takes for the same thing, and which name parts of things or ground."""

from __future__ import annotations

import re
from functools import lru_cache

# A noun phrase ends before these: what follows describes its head.
_AFTER_HEAD = frozenset(
    [
        "in",
        "on",
        "of",
        "with",
        "and",
        "wearing",
        "at",
        "by",
        "behind",
        "near",
        "holding",
        "standing",
        "sitting",
        "riding",
        "walking",
        "that",
        "is",
        "are",
        "to",
        "playing",
        "running",
        "looking",
        "for",
        "over",
        "next",
        "under",
        "through",
        "from",
        "while",
        "carrying",
    ]
)
_IRREGULAR = {
    "men": "man",
    "women": "woman",
    "children": "child",
    "feet": "foot",
    "leaves": "leaf",
    "geese": "goose",
}

# Each line: nouns that a fair reader would accept for one another.
_ALIKE = tuple(
    frozenset(line.split())
    for line in """
    person people pedestrian human figure crowd group man guy boy male player rider
    person people pedestrian human figure crowd group woman lady girl female rider
    person people human child kid boy girl baby toddler
    person people crowd group spectator audience team
    person rider biker cyclist bicyclist surfer skier snowboarder skateboarder skater climber runner dancer performer motorcyclist worker swimmer hiker athlete man boy
    car vehicle truck van suv jeep automobile bus traffic taxi minivan
    bike bicycle cycle
    bike motorcycle motorbike scooter moped dirtbike
    dog puppy animal retriever labrador poodle terrier shepherd
    cat kitten animal
    horse pony animal
    cow bull cattle calf animal
    sheep lamb goat animal
    bird duck swan goose seagull pigeon flamingo animal
    animal elephant bear zebra giraffe deer monkey
    grass field lawn meadow ground pasture yard park
    hill mountain hillside cliff slope rock
    road street pavement asphalt ground track roadway sidewalk path floor lot highway pathway crosswalk
    ground dirt soil mud earth sand field path floor gravel
    sand beach shore ground
    snow ground slope hill mountain
    water lake ocean sea river pool pond stream wave creek surf
    tree bush plant forest foliage hedge leaf wood shrub branch vegetation greenery garden jungle trunk
    flower plant bush garden
    building house structure wall store church shop barn city window
    wall fence building brick stone
    fence railing rail gate barrier
    sky cloud
    rock stone boulder cliff
    floor ground deck carpet rug mat
    shirt t-shirt top blouse sweater sweatshirt jacket coat jersey vest hoodie clothes clothing uniform suit
    pants jeans trousers shorts
    hat cap helmet hood
    shoe boot sneaker foot sandal
    dress skirt gown top
    cup mug glass
    boat ship canoe kayak raft sailboat
    ball football basketball soccer
    table desk counter
    chair seat bench couch sofa
    head face hair
    hand arm finger
    leg foot
    board surfboard skateboard snowboard
    sign poster board
    """.strip().splitlines()
)
# What is a part of a thing, or worn: true inside it, whether anybody annotated it or not.
PARTS = frozenset(
    [
        "shirt",
        "t-shirt",
        "top",
        "blouse",
        "sweater",
        "sweatshirt",
        "jacket",
        "coat",
        "jersey",
        "vest",
        "hoodie",
        "clothes",
        "clothing",
        "uniform",
        "suit",
        "pants",
        "jeans",
        "trousers",
        "shorts",
        "hat",
        "cap",
        "helmet",
        "shoe",
        "boot",
        "sneaker",
        "foot",
        "sandal",
        "dress",
        "skirt",
        "gown",
        "head",
        "face",
        "hair",
        "hand",
        "arm",
        "leg",
        "finger",
        "mouth",
        "nose",
        "ear",
        "eye",
        "tail",
        "back",
        "collar",
        "leash",
        "tongue",
        "neck",
        "wing",
        "beak",
        "wheel",
        "tire",
        "window",
        "door",
        "light",
        "glove",
        "sock",
        "tie",
        "belt",
        "scarf",
        "bag",
        "backpack",
        "sunglass",
        "glass",
        "strap",
        "paw",
    ]
)
# What has no outline of its own and may go on beyond what was annotated of it.
STUFF = frozenset(
    [
        "grass",
        "field",
        "lawn",
        "meadow",
        "ground",
        "yard",
        "hill",
        "mountain",
        "hillside",
        "cliff",
        "slope",
        "road",
        "street",
        "pavement",
        "asphalt",
        "track",
        "sidewalk",
        "path",
        "floor",
        "dirt",
        "soil",
        "mud",
        "sand",
        "beach",
        "shore",
        "snow",
        "water",
        "lake",
        "ocean",
        "sea",
        "river",
        "pool",
        "pond",
        "stream",
        "wave",
        "tree",
        "bush",
        "plant",
        "forest",
        "foliage",
        "hedge",
        "leaf",
        "wood",
        "shrub",
        "branch",
        "vegetation",
        "building",
        "house",
        "structure",
        "wall",
        "fence",
        "sky",
        "cloud",
        "rock",
        "stone",
        "background",
        "area",
        "scene",
        "park",
        "city",
        "night",
    ]
)


@lru_cache(maxsize=65536)
def thing_named(phrase: str) -> str:
    """The head of a phrase's first noun phrase, in the singular: "two red cars on the street" names a "car"."""
    words: list[str] = []
    for word in re.findall(r"[^\W_]+(?:-[^\W_]+)*", phrase.lower()):
        if word in _AFTER_HEAD and words:
            break
        words.append(word)
    head = words[-1] if words else ""
    if head in _IRREGULAR:
        return _IRREGULAR[head]
    plural = len(head) > 3 and head.endswith("s") and not head.endswith("ss") and head not in PARTS
    return head[:-1] if plural else head


def same_thing(first: str, second: str) -> bool:
    """Whether a fair reader takes two singular nouns for the same thing."""
    return first == second or any(first in alike and second in alike for alike in _ALIKE)
