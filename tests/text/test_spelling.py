"""Words that may have been meant: the right one, or none."""

import pytest

from gesso.scenes.vocabulary import things
from gesso.text.spelling import meant_word

NOUNS = [phrase for thing in things() for phrase in (thing.name, thing.plural, *thing.synonyms)]
OTHERS = "red orange yellow green blue purple pink brown background on two three left"
KNOWN = tuple(dict.fromkeys(" ".join((*NOUNS, OTHERS)).replace("-", " ").split()))

MISSPELT = """
aple apple, appel apple, hous house, castel castle, turtel turtle, elefant elephant, elephent elephant, pinguin penguin,
pengin penguin, umbrela umbrella, bycicle bicycle, rabit rabbit, tigre tiger, octapus octopus, dolfin dolphin,
buterfly butterfly, guitarr guitar, rocet rocket, yelow yellow, orenge orange, purpel purple, backround background,
treee tree, strawbery strawberry, bannana banana, pizzza pizza, cofee coffee, sunflwer sunflower, cactos cactus,
mooon moon, unicron unicorn, unicorm unicorn, helicoptor helicopter, airplan airplane, baloon balloon, brocoli broccoli,
tomatoe tomato, carot carrot, lemmon lemon, pinapple pineapple, watermellon watermelon, avacado avocado,
egplant eggplant, hambuger hamburger, chese cheese, pretzle pretzel, lolipop lollipop, donnut donut, cokie cookie,
monky monkey, chiken chicken, hedghog hedgehog, mushrom mushroom, ghots ghost, pumkin pumpkin, snoman snowman,
carr car, catt cat, dogg dog, foxx fox, ccar car, caar car, sunn sun, keyy key, starr star, moonn moon,
sissors scissors, hamer hammer, telefone telephone, tracter tractor
"""
REAL = """
five one ears mat hat kat hart tale lady loin wolf horse ship truck tower lake forest mountain river beach night man
woman girl dragon knight city flower bird eagle deer goat shark king queen portrait sunset rain snow winter fine bright
ball bell buss boss fuzz mitt tree cart care scar oscar doge cats cate
golden wooden stone glass ocean bridge church plate bowl bread soup rice milk tea wine ring watch piano violin drum card
"""
OTHER_LANGUAGES = "gato perro maison katze hund haus baum pomme fleur lune voiture casa cane sole luna fiore kot pies"


@pytest.mark.parametrize("pair", [pair.strip() for pair in MISSPELT.split(",")])
def test_a_misspelt_word_is_told_right(pair):
    word, meant = pair.split()
    assert meant_word(word, KNOWN, KNOWN) == meant


@pytest.mark.parametrize("word", (REAL + OTHER_LANGUAGES).split())
def test_another_word_is_not_taken_for_one(word):
    assert word in KNOWN or meant_word(word, KNOWN, KNOWN) is None


@pytest.mark.parametrize("word", ["", "a", "tre", "snale", "zxqwvk", "кот", "q" * 30_000, "c4t", "top-hat", "abcdefgh"])
def test_in_doubt_there_is_none(word):
    assert meant_word(word, KNOWN, KNOWN) is None
