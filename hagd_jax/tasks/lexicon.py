"""Word lists, each shared out over the splits by position, so no word is in two of them.

The share does not depend on the tokenizer: a name kept for testing one model is never a
discovery name of another.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import TypeVar

T = TypeVar("T")

# Of six words, three are for discovery (diverse discovery data generalises), two for the test.
_SHARE = ("discover", "test", "discover", "select", "discover", "test")


def share(items: Sequence[T], split: str) -> tuple[T, ...]:
    """The words of one split.

    Args:
        items: All words, the commonest first, so that every split has some of each.
        split: `discover`, `select` or `test`.

    Returns:
        A half, a sixth or a third of them.

    Example:
        >>> share(range(6), "select")
        (3,)
    """
    return tuple(item for item, owner in zip(items, cycle(_SHARE), strict=False) if owner == split)


def words(text: str) -> tuple[str, ...]:
    """A word list from its text."""
    return tuple(text.split())


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    """(country, capital) of each entry."""
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

# Country and capital; left out where the capital is disputed, shared, or named like the country.
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
    Fiji: Suva, the Bahamas: Nassau
    """
)
