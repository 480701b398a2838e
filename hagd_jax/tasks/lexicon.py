"""Word lists, each shared out over the splits by position, so no word is in two of them.

The share does not depend on the tokenizer: a name kept for testing one model is never a
discovery name of another.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import TypeVar

from hagd_jax.tasks.definition import require_split

T = TypeVar("T")

# Of seven words, three are for discovery, as diverse discovery data generalises.
_SHARE = ("discover", "test", "discover", "select", "discover", "test", "select")


def share(items: Sequence[T], split: str) -> tuple[T, ...]:
    """Select the words of one split.

    Args:
        items: All words, the commonest first, so that every split has some of each.
        split: `discover`, `select` or `test`.

    Returns:
        Three sevenths of them for discovery, two sevenths of them for the others.

    Raises:
        InputError: If there is no such split.

    Example:
        >>> share(range(7), "select")
        (3, 6)
    """
    require_split(split)
    return tuple(item for item, owner in zip(items, cycle(_SHARE), strict=False) if owner == split)


def words(text: str) -> tuple[str, ...]:
    """Read a word list from its text."""
    return tuple(text.split())


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    """The two sides of each entry."""
    first, second = zip(*(pair.split(":") for pair in text.split(",")), strict=True)
    return tuple(zip(map(str.strip, first), map(str.strip, second), strict=True))


# First names that are hardly ever a surname, a place or an English word.
NAMES = words(
    """
    Mary John James Robert Michael William David Richard Joseph Thomas Charles Daniel Matthew
    Anthony Steven Paul Andrew Joshua Kenneth Kevin Brian George Timothy Edward Jason Jeffrey Ryan
    Jacob Gary Nicholas Eric Jonathan Stephen Larry Justin Scott Benjamin Samuel Gregory Alexander
    Patrick Raymond Jack Dennis Jerry Tyler Aaron Jose Adam Nathan Henry Douglas Peter Noah Ethan
    Jeremy Walter Keith Roger Sean Gerald Carl Harold Arthur Jesse Bryan Billy Bruce Gabriel Joe
    Logan Alan Juan Albert Elijah Vincent Ralph Bobby Russell Philip Eugene Patricia Jennifer Linda
    Elizabeth Barbara Susan Jessica Sarah Karen Lisa Nancy Betty Sandra Margaret Ashley Emily
    Michelle Carol Amanda Melissa Deborah Stephanie Rebecca Sharon Laura Dorothy Amy Kathleen
    Angela Shirley Emma Nicole Anna Samantha Katherine Christine Rachel Janet Maria Olivia Heather
    Helen Catherine Diane Julie Joyce Lauren Kelly Christina Ruth Joan Judith Hannah Andrea Teresa
    Abigail Sophia Martha Sara Ann Isabella Judy Julia Alice Isabel Diana Kate Claire Ellen Jane
    Lucy Molly Leo Oliver Oscar Simon Luke Owen Ian Neil Ted Tom Tim Jim Bob Ben Sam Dan Ron Ken
    Greg Jeff Steve Dave Mike Tony Andy Matt Chris Alex Jake Zach Charlie Fred Leon Stanley Howard
    Leonard Allen Glenn Edwin Karl Erik Ivan Victor Hugo Felix Julian Adrian Sebastian Marcus
    Theodore Walt Edgar Ernest Frederick Geoffrey Graham Gordon Hans Isaac Abraham Jonah Joel Jon
    Kurt Malcolm Maurice Nathaniel Phil Stuart Todd Wesley Ahmed Omar Hassan Carlos Diego Luis
    Miguel Pedro Pablo Antonio Fernando Francisco Mario Giovanni Pierre Jacques Henri Andre Sophie
    Mia Ella Eva Eleanor Erin Eliza Esther Frances Jill Juliet Katie Kim Louise Lynn Marie Maya
    Meg Monica Naomi Nina Rosa Sally Vera Wendy Anne Annie Beth Caroline Clara Edith Bella Bernard
    Brent Calvin Clarence Claude Clifford Colin Curtis Donald Doug Duncan Elliott Gilbert Herbert
    Herman Hugh Jimmy Johnny Lloyd Milton Tommy Vernon Boris Anton Brandon Zachary Kyle Dylan Evelyn
    Megan Natalie Denise Gloria Theresa Liam Eddie Rita Paula Tina Vanessa Sylvia
    """
)

# Country, state or province, and its capital; left out where the capital is disputed, shared, or
# named like the country.
CAPITALS = _pairs(
    """
    France: Paris, Germany: Berlin, Italy: Rome, Spain: Madrid, Japan: Tokyo, China: Beijing,
    Russia: Moscow, England: London, Egypt: Cairo, Greece: Athens, Canada: Ottawa,
    Ireland: Dublin, Poland: Warsaw, Portugal: Lisbon, Austria: Vienna, Sweden: Stockholm,
    Norway: Oslo, Denmark: Copenhagen, Finland: Helsinki, Hungary: Budapest, Belgium: Brussels,
    Switzerland: Bern, Cuba: Havana, Iran: Tehran, Iraq: Baghdad, Kenya: Nairobi, Peru: Lima,
    Chile: Santiago, Syria: Damascus, Afghanistan: Kabul, Scotland: Edinburgh, Wales: Cardiff,
    Australia: Canberra, Jamaica: Kingston, Bulgaria: Sofia, Tunisia: Tunis,
    the Netherlands: Amsterdam, South Korea: Seoul, the Philippines: Manila,
    New Zealand: Wellington, the United States: Washington, Guyana: Georgetown, Turkey: Ankara,
    Ukraine: Kyiv, Romania: Bucharest, Serbia: Belgrade, Croatia: Zagreb, Slovakia: Bratislava,
    Slovenia: Ljubljana, Albania: Tirana, Lithuania: Vilnius, Latvia: Riga, Estonia: Tallinn,
    Iceland: Reykjavik, Belarus: Minsk, Moldova: Chisinau, Cyprus: Nicosia, Malta: Valletta,
    Georgia: Tbilisi, Armenia: Yerevan, Azerbaijan: Baku, Thailand: Bangkok, Vietnam: Hanoi,
    Indonesia: Jakarta, Bangladesh: Dhaka, Nepal: Kathmandu, Pakistan: Islamabad, Lebanon: Beirut,
    Jordan: Amman, Saudi Arabia: Riyadh, Oman: Muscat, Qatar: Doha, Kazakhstan: Astana,
    Uzbekistan: Tashkent, Mongolia: Ulaanbaatar, North Korea: Pyongyang, Cambodia: Phnom Penh,
    Laos: Vientiane, Libya: Tripoli, Algeria: Algiers, Morocco: Rabat, Sudan: Khartoum,
    Uganda: Kampala, Rwanda: Kigali, Somalia: Mogadishu, Nigeria: Abuja, Ghana: Accra,
    Senegal: Dakar, Mali: Bamako, Angola: Luanda, Zambia: Lusaka, Zimbabwe: Harare,
    Mozambique: Maputo, Namibia: Windhoek, Botswana: Gaborone, Liberia: Monrovia,
    Ethiopia: Addis Ababa, Colombia: Bogotá, Venezuela: Caracas, Ecuador: Quito,
    Uruguay: Montevideo, Argentina: Buenos Aires, Brazil: Brasília, Nicaragua: Managua,
    Fiji: Suva, the Bahamas: Nassau, Texas: Austin, Colorado: Denver, Arizona: Phoenix,
    Massachusetts: Boston, Tennessee: Nashville, Bavaria: Munich, Queensland: Brisbane,
    Hawaii: Honolulu, Mississippi: Jackson, Alberta: Edmonton, Manitoba: Winnipeg,
    Andalusia: Seville, Florida: Tallahassee, Iowa: Des Moines
    """
)

# Where one language is spoken by nearly everybody.
LANGUAGES = _pairs(
    """
    France: French, Germany: German, Italy: Italian, Japan: Japanese, Spain: Spanish,
    China: Chinese, England: English, Russia: Russian, Mexico: Spanish, Greece: Greek,
    Portugal: Portuguese, Poland: Polish, Sweden: Swedish, Brazil: Portuguese, Egypt: Arabic,
    Denmark: Danish, Norway: Norwegian, Austria: German, Australia: English, Finland: Finnish,
    Turkey: Turkish, Hungary: Hungarian, the Netherlands: Dutch, South Korea: Korean,
    Argentina: Spanish, Ukraine: Ukrainian, Romania: Romanian, Iraq: Arabic, Thailand: Thai,
    Vietnam: Vietnamese, Iran: Persian, Cuba: Spanish, Saudi Arabia: Arabic, Israel: Hebrew,
    the Czech Republic: Czech, Bulgaria: Bulgarian, Colombia: Spanish, Serbia: Serbian,
    Croatia: Croatian, Indonesia: Indonesian, Iceland: Icelandic, Bangladesh: Bengali,
    Lithuania: Lithuanian, Chile: Spanish, Estonia: Estonian, Latvia: Latvian, Slovakia: Slovak,
    Syria: Arabic, Slovenia: Slovenian, Albania: Albanian, Armenia: Armenian, Georgia: Georgian,
    Venezuela: Spanish, Nepal: Nepali, Mongolia: Mongolian, Jordan: Arabic, Peru: Spanish,
    North Korea: Korean, Cambodia: Khmer, Jamaica: English
    """
)

# The three continents whose names are one word.
CONTINENTS = _pairs(
    """
    France: Europe, China: Asia, Egypt: Africa, Germany: Europe, India: Asia, Kenya: Africa,
    Nigeria: Africa, Italy: Europe, Japan: Asia, Ghana: Africa, Spain: Europe, Vietnam: Asia,
    Thailand: Asia, Ethiopia: Africa, Poland: Europe, South Korea: Asia, Morocco: Africa,
    Greece: Europe, Sweden: Europe, Pakistan: Asia, Uganda: Africa, Norway: Europe, Nepal: Asia,
    Tanzania: Africa, Algeria: Africa, Portugal: Europe, Bangladesh: Asia, Zimbabwe: Africa,
    Austria: Europe, Iran: Asia, Cambodia: Asia, Somalia: Africa, Hungary: Europe, Iraq: Asia,
    Zambia: Africa, Belgium: Europe, Finland: Europe, Afghanistan: Asia, Rwanda: Africa,
    Denmark: Europe, Mongolia: Asia, Angola: Africa, Tunisia: Africa, Ireland: Europe,
    Malaysia: Asia, Sudan: Africa, Romania: Europe, Laos: Asia, Sri Lanka: Asia, Senegal: Africa,
    Switzerland: Europe, Libya: Africa, Bulgaria: Europe, Syria: Asia
    """
)

# Irregular ones alone: there the past is not what a suffix makes of the verb.
PAST_TENSES = _pairs(
    """
    go: went, see: saw, take: took, give: gave, find: found, know: knew, think: thought,
    speak: spoke, write: wrote, drive: drove, eat: ate, drink: drank, sing: sang, swim: swam,
    run: ran, begin: began, fall: fell, fly: flew, grow: grew, hold: held, keep: kept, leave: left,
    lose: lost, make: made, meet: met, pay: paid, ride: rode, say: said, sell: sold, send: sent,
    sit: sat, sleep: slept, stand: stood, teach: taught, tell: told, throw: threw, wear: wore,
    win: won, bring: brought, buy: bought, build: built, catch: caught, choose: chose,
    draw: drew, feel: felt, fight: fought, forget: forgot, hear: heard, lead: led, shake: shook,
    spend: spent, steal: stole, break: broke, come: came, wake: woke, rise: rose, blow: blew,
    shoot: shot, hide: hid, freeze: froze
    """
)

# Singular and plural, of things and people that can stand beside each other.
NOUNS = _pairs(
    """
    car: cars, tree: trees, book: books, table: tables, door: doors, house: houses, boat: boats,
    chair: chairs, lamp: lamps, box: boxes, window: windows, bottle: bottles, doctor: doctors,
    teacher: teachers, farmer: farmers, boy: boys, girl: girls, student: students, king: kings,
    queen: queens, dog: dogs, cat: cats, horse: horses, bird: birds, key: keys, picture: pictures,
    flower: flowers, letter: letters, truck: trucks, tower: towers, bridge: bridges,
    garden: gardens, river: rivers, road: roads, shop: shops, school: schools, lawyer: lawyers,
    nurse: nurses, soldier: soldiers, driver: drivers, singer: singers, writer: writers,
    painting: paintings, stone: stones, ship: ships, bus: buses, train: trains, plane: planes,
    cup: cups, plate: plates, clock: clocks, mirror: mirrors, statue: statues, machine: machines,
    guest: guests, actor: actors, artist: artists, neighbor: neighbors, cow: cows,
    chief: chiefs
    """
)

# First names that are hardly ever the other gender's.
FEMALE = words(
    """
    Mary Anna Linda Emma Susan Sarah Elizabeth Laura Jessica Maria Nancy Lisa Karen Helen Barbara
    Patricia Jennifer Margaret Emily Amanda Rebecca Rachel Ruth Julia Alice Lucy Jane Sophie Olivia
    Hannah Catherine Diana Kate Rose Martha Michelle Stephanie Melissa Angela Nicole Christina
    Julie Heather Deborah Dorothy Amy Betty Sandra Claire Ellen Grace Charlotte Eleanor Louise
    Caroline Victoria Natalie Megan Samantha Katherine
    """
)
MALE = words(
    """
    John James Robert Michael William David Richard Joseph Thomas Daniel Matthew Paul Andrew
    Kevin Brian George Edward Jason Ryan Jacob Gary Nicholas Eric Stephen Larry Benjamin Samuel
    Gregory Patrick Jack Dennis Peter Henry Arthur Walter Harold Carl Adam Nathan Douglas Roger
    Albert Joe Vincent Ralph Simon Luke Oliver Philip Eugene Frank Mark Steven Kenneth Joshua
    Anthony Donald Timothy Jeffrey Scott
    """
)

# Events that can be said to last.
EVENTS = words(
    """
    war trip project reign siege voyage strike contract conflict campaign journey famine
    rebellion construction expedition study dispute experiment treaty plague marriage career
    tour revolt
    """
)

NUMBERS = words(
    """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen twenty
    """
)

# Words without a meaning of their own: articles, pronouns, prepositions (plus and minus among
# them), conjunctions, auxiliaries, particles, numerals. Texts may share them freely.
CLOSED_CLASS = frozenset(
    words(
        """
        a an the this that these those each every either neither both all some any no none one
        i you he she it we they me him her us them my your his its our their mine yours hers ours
        theirs myself himself herself itself ourselves themselves who whom whose which what where
        when why how there here then than so as if because since while after before until till
        although though unless once whether and or but nor yet
        of in on at by for with about against between into through during above below to from up
        down out off over under near behind beside besides next across along around among inside
        outside within without toward towards upon beyond per via like opposite close away
        plus minus times
        is are was were be been being am has have had having do does did doing done will would
        shall should can could may might must isn't aren't wasn't weren't hasn't haven't hadn't
        doesn't don't didn't won't wouldn't can't couldn't
        not very too also just only even still again ever never more most less least much many
        few such same other others another own else now
        zero two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
        sixteen seventeen eighteen nineteen twenty first second third
        """
    )
)
