"""Sentences that ask for the object of a relation: capitals, languages, continents, past tense."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from hagd_jax.brief import one_line
from hagd_jax.tasks import lexicon


class Relation(NamedTuple):
    """A relation lists pairs of words and the sentences that express how they are related.

    Attributes:
        description: One sentence for the report.
        pairs: (subject, object), the commonest first.
        templates: By split, with `{subject}`; none begins with it.
    """

    description: str
    pairs: tuple[tuple[str, str], ...]
    templates: Mapping[str, tuple[str, ...]]

    __repr__ = one_line


RELATIONS = {
    "capitals": Relation(
        "Name the capital of a country or a state.",
        lexicon.CAPITALS,
        {
            "discover": (
                "The capital of {subject} is",
                "As every child knows, the capital of {subject} is",
                "We are going to {subject}, to see its capital,",
                "She moved to {subject} and found work in the capital,",
                "All main roads in {subject} lead to the capital,",
                "Our plane to {subject} landed in the capital,",
                "Heavy rain flooded parts of {subject}, including the capital,",
                "If you have only one day for {subject}, see at least the capital,",
                "Thousands of protesters from all over {subject} marched on the capital,",
                "The fastest train in {subject} runs straight to the capital,",
                "Hotels in {subject} are cheap, except in the capital,",
                "A friend who was born in {subject} told me stories about its capital,",
                "The oldest university in {subject} can be found in the capital,",
                "The earthquake in {subject} was felt even in the capital,",
                "Wildfires in northern {subject} are threatening the capital,",
                "Football fans across {subject} bought tickets for the final in the capital,",
                "When the company expanded into {subject}, it opened a branch in the capital,",
                "Tired of the countryside of {subject}, the painter settled in the capital,",
                "The river that crosses {subject} passes through the capital,",
                "Prices in {subject} are rising, above all in the capital,",
                "Trucks carry fruit from the farms of {subject} to markets in the capital,",
                "Were you ever in {subject}? I can recommend the restaurants of its capital,",
                "The orchestra will give two concerts in {subject}, both in the capital,",
                "Among the cities of {subject}, none is as lively as the capital,",
                "Electricity failed in most of {subject}, and it was dark in the capital,",
                "After the storm, help for {subject} arrived first in the capital,",
                "An old photograph of {subject} shows a square in the capital,",
                "Scientists from {subject} met at a conference in the capital,",
                "Before the wedding in {subject}, all the guests gathered in the capital,",
                "Just inside {subject}, a sign shows the distance to the capital,",
                "Although she works in {subject}, she has never seen its capital,",
                "On Friday police in {subject} arrested two thieves not far from the capital,",
            ),
            "select": (
                "Most visitors who come to {subject} never leave the capital,",
                "Make a stop in {subject}, preferably in its capital,",
                "The letter was posted in {subject}, in the capital,",
                "His trip through {subject} ended late at night in the capital,",
            ),
            "test": (
                "On a map of {subject}, a star marks the capital,",
                "The government of {subject} sits in the capital,",
                "The largest airport of {subject} is close to the capital,",
                "Last summer we toured {subject} and spent a week in the capital,",
                "For years the power in {subject} has been held by men in the capital,",
                "Half of the population of {subject} is crowded around the capital,",
                "The team from {subject} played at home in the capital,",
                "Tourists love {subject} for its food and for its capital,",
                "Your package for {subject} has already reached the capital,",
                "It took us three hours by car from the border of {subject} to the capital,",
                "The author set her novel about {subject} in the narrow streets of the capital,",
                "This year the games were hosted by {subject}, or rather by its capital,",
                "Her poem praises {subject}, its people and its capital,",
                "The best chocolate in {subject} is sold by a family firm in the capital,",
                "A newspaper in {subject} reported a long strike of nurses in the capital,",
                "Ask anyone in {subject} where to shop, and they will send you to the capital,",
            ),
        },
    ),
    "languages": Relation(
        "Name the language of a country.",
        lexicon.LANGUAGES,
        {
            "discover": (
                "The official language of {subject} is",
                "He grew up in {subject}, so his mother tongue is",
                "In the schools of {subject}, children learn to read and write in",
                "The national anthem of {subject} is sung in",
                "Menus in {subject} are often only in",
            ),
            "select": (
                "To translate a letter from {subject}, we need someone who knows",
                "Poets of {subject} compose their verses in",
                "Citizens of {subject} vote with ballots printed in",
                "Someone who moves to {subject} must first master",
            ),
            "test": (
                "The language spoken in {subject} is called",
                "Anyone raised in {subject} is a native speaker of",
                "She has lived in {subject} all her life and is fluent in",
                "Bedtime stories in {subject} are told in",
                "They married in {subject}, and the wedding vows were in",
                "The parliament of {subject} debates in",
                "My grandmother was born in {subject} and her accent is still",
            ),
        },
    ),
    "continents": Relation(
        "Name the continent of a country.",
        lexicon.CONTINENTS,
        {
            "discover": (
                "The country of {subject} is in",
                "The people of {subject} live in",
                "On the map you find {subject} in",
                "Every river in {subject} flows through",
                "From space you can see {subject} and the rest of",
                "Animals that are native to {subject} are also common in other regions of",
                "A new highway connects {subject} with cities throughout",
                "Few tourists visit {subject}, although it is one of the prettiest corners of",
                "For a long time {subject} was the poorest nation in",
                "The lakes of {subject} are by far the deepest ones in the whole of",
                "Scientists in {subject} study the wild plants of",
                "Our guide in {subject} had seen nearly every country in",
                "The pilot flew over {subject}, and an hour later he had crossed the whole of",
                "The king of {subject} once ruled half of",
                "The kitchens of {subject} serve meals that are among the finest in",
                "After cycling through {subject}, they wanted to explore more of",
                "The president of {subject} invited leaders from all over",
                "Locusts came to {subject} and ruined harvests all over",
                "Like its neighbors, {subject} belongs to",
                "The football team of {subject} is among the best in",
                "Traders from {subject} buy and sell their goods all across",
                "Farmers in {subject} fear the worst drought ever seen in",
                "From {subject} the disease traveled on to every corner of",
                "Bankers in {subject} lend money to companies across",
                "Airlines from {subject} offer flights to dozens of cities in",
                "Archaeologists digging in {subject} uncovered some of the earliest tools in",
                "Together with {subject}, several smaller nations of",
                "Temples in {subject} are older than any others in",
                "Coffee tastes better in {subject} than in the rest of",
                "Ships from {subject} call at all the ports of",
                "The dialects of {subject} resemble those of its neighbors in",
                "For a cheap lunch there is nowhere better than {subject} in",
            ),
            "select": (
                "We know {subject} as a state in",
                "In {subject} the climate is typical of",
                "Geography lesson: {subject} is located in",
                "She wrote a book about {subject} and other places in",
            ),
            "test": (
                "The continent where {subject} lies is",
                "After a year in {subject} she left the continent of",
                "The mountains of {subject} are some of the highest in",
                "The history of {subject} is taught as the history of",
                "The war began in {subject} and soon spread over",
                "The railway from {subject} leads to other parts of",
                "The economy of {subject} is one of the largest in",
                "Rare orchids bloom in {subject} and across southern",
                "Forests in {subject} are home to the most colorful butterflies in",
                "The empire grew from {subject} until it covered most of",
                "Bees are dying in {subject}, and indeed in much of",
                "Thunder and hail hit {subject} before moving across central",
                "Internet speeds in {subject} compare badly with those elsewhere in",
                "Men searched for gold in {subject} and in other lands of",
                "Investors rate {subject} as the most promising market in",
                "A photographer roamed {subject} to capture the wildlife of",
            ),
        },
    ),
    "past_tense": Relation(
        "Say what one does every day of yesterday.",
        lexicon.PAST_TENSES,
        {
            "discover": (
                "Today they {subject}, and yesterday they",
                "Now I {subject}; last year I",
                "These days we {subject}, as back then we",
                "Every Sunday we {subject}, and last Sunday we",
                "All of them {subject} each week, and a week ago all of them",
            ),
            "select": (
                "Did the old man {subject}? Indeed he",
                "Now write it in the past: I {subject} becomes I",
                "When asked whether they {subject}, he replied that they once",
                "In class: the verb is {subject}, and its past form is",
            ),
            "test": (
                "Every morning the boys {subject}, and this morning the boys",
                "The workers {subject} at noon, as the workers before them",
                "Do you {subject}? No, but in school I",
                "How often do they {subject}? In May they",
                "The women {subject} just like their mothers",
                "Did they {subject}? Yes, they",
                "Here is how to change the tense of a sentence: they {subject}, they",
            ),
        },
    ),
}
