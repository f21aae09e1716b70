#!/usr/bin/env python3
"""Make the full table of objects, src/gesso/scenes/objects_full.txt, from the emoji package and the CLDR annotations.

    scripts/make_objects.py /usr/share/unicode/cldr/common/annotations/en.xml [--font NotoColorEmoji.ttf] [--near 25]

The annotations are in Debian's package unicode-cldr-core (Unicode-DFS-2016), the emoji package is on PyPI. Every
fully qualified emoji that CLDR names is taken, under that name, unless a rule below leaves it out, renames it or gives
it other words. What is in objects.txt comes first, as it is there. The result is a file of the project: this script
tells how it was made and makes it anew for a later Unicode; it is no step of the installation.

Prints what was left out because it looks like another object: two glyphs that differ in their colours alone are one
object, since objects are painted in any colour. `--near N` prints the N closest pairs that stayed.
"""

import argparse
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import emoji
import numpy as np
from PIL import Image

from gesso.errors import GessoError
from gesso.scenes.glyphs import render_glyphs
from gesso.scenes.vocabulary import BACKGROUNDS, COLOUR_SYNONYMS, NUMBERS, SIZES, Thing, parse_things, plural_of, things

TARGET = Path(__file__).parents[1] / "src/gesso/scenes/objects_full.txt"
HEADER = """\
# What gesso-mini can draw after its training on a GPU, in the format of objects.txt, whose objects come first.
# Made by scripts/make_objects.py from the emoji package and the English annotations of Unicode CLDR 41, chosen and
# renamed by hand. Copyright 1991-2022 Unicode, Inc.; Unicode-DFS-2016, see NOTICE.
"""
TOO_NEAR = 0.085  # below this distance two glyphs count as one object

# ---- what no one would ask for, or what is a colour, a sign or a person's variant ------------------------------------
LEFT_OUT = re.compile(
    r"""
    button|\bsymbol\b|^keycap|^flag:|o’clock|-thirty|^Japanese\ “|^family|^kiss|couple\ with\ heart   # signs, times
    |^(Aquarius|Aries|Cancer|Capricorn|Gemini|Leo|Libra|Ophiuchus|Pisces|Sagittarius|Scorpio|Taurus|Virgo)$
    |\barrow\b(?<!heart\ with\ arrow)(?<!bow\ and\ arrow)|triangle|\bsquare$|\bcircle$|\bdiamond$|\bflags?$|\ flag$
    |^(black|white|red|blue|green|brown|purple|orange|yellow)\                                       # colours are tints
    |^(man|woman|men|women|person|people|older|pregnant|deaf|mx)\b(?!.*(
        dancing|wearing\ turban|walking|running|surfing|swimming|biking$|climbing|golfing|juggling|fencing|rowing
        |lifting|boot|hat$|sandal|man’s\ shoe|headscarf|taking\ bath))
    |^(man|woman|men|women)\b(?=.*(wearing|walking|running|surfing|swimming|biking|climbing|golfing|juggling|rowing
        |lifting))                                                                          # sexes of one glyph
    |mountain\ biking|cat\ with|\ cat$|-evil\ monkey|sign$|hand\b(?!bag)|fist$|^palm|fingers|gesture$|salute$
    |mailbox|\bgibbous|waxing|waning|quarter\ moon|mark$|dash$
    |^(no|non)[ -]|trade|copyright|registered|^input|banknote$
    """,
    re.VERBOSE,
)
# Faces differ by a few small strokes: only these are kept, by the names that people use.
FACES = """
grinning face with big eyes = smiley face | happy face, grinning face
frowning face = sad face | frowning face
angry face = angry face | mad face
face with tears of joy = laughing face | tears of joy
loudly crying face = crying face | sobbing face
winking face = winking face | wink
sleeping face = sleeping face | snoring face
thinking face = thinking face | pondering face
smiling face with sunglasses = cool face
smiling face with heart-eyes = heart eyes/heart eyes | lovestruck face
star-struck = starstruck face
face blowing a kiss = kissing face
face with tongue = silly face
face screaming in fear = screaming face | terrified face
face with medical mask = masked face
face with thermometer = sick face | feverish face
face with head-bandage = bandaged face | injured face
cold face = freezing face | cold face
hot face = sweating face | hot face
nauseated face = nauseated face | queasy face
face vomiting = vomiting face
nerd face = nerd | geek
partying face = party face | partying face
cowboy hat face = cowboy | cowgirl
clown face = clown |
smiling face with halo = angel face
smiling face with horns = devil | demon, imp
exploding head = exploding head
money-mouth face = money face
zipper-mouth face = zipper face
face with crossed-out eyes = dazed face
face with spiral eyes = dizzy face | hypnotized face
face with monocle = monocle face
shushing face = shushing face
yawning face = yawning face
melting face = melting face
lying face = lying face
smiling face with open hands = hugging face
disguised face = disguised face
face with symbols on mouth = swearing face | cursing face
upside-down face = upside-down face
sun with face = sun face
dragon face = dragon head
drooling face = drooling face
sneezing face = sneezing face
face with rolling eyes = rolling eyes/rolling eyes
face in clouds = face in the clouds/faces in the clouds
saluting face = saluting face
pleading face = pleading face | puppy eyes
"""
# Full bodies of animals whose faces are in objects.txt, second views of one thing, and what makes no sense alone.
DROPPED = """
1st place medal; 2nd place medal; 3rd place medal; airplane arrival; airplane departure; antenna bars; baby angel;
baggage claim; beach with umbrella; beating heart; bell with slash; biting lip; bookmark tabs; bowl with spoon;
breast-feeding; bust in silhouette; busts in silhouette; camel; camera with flash; card file box; card index; card
index dividers; cat; chart decreasing; chart increasing; chart increasing with yen; check box with check; child;
children crossing; cinema; circled M; cityscape at dusk; clinking beer mugs; clinking glasses; clockwise vertical
arrows; closed book; closed umbrella; cloud with lightning and rain; clutch bag; computer disk; convenience store;
cow; cricket game; curly loop; currency exchange; customs; department store; derelict house; diamond with a dot;
divide; dizzy; dog; dotted six-pointed star; double curly loop; dvd; e-mail; ear with hearing aid; eight-pointed star;
eight-spoked asterisk; elevator; eye in speech bubble; film frames; fish cake with swirl; flower playing cards; fog;
foggy; fork and knife with plate; framed picture; front-facing baby chick; globe showing Americas; globe showing
Asia-Australia; globe with meridians; growing heart; guide dog; hammer and pick; hamsa; health worker; heart
decoration; heart exclamation; heart hands; heart suit; heart with ribbon; high-speed train; horizontal traffic light;
hot springs; hourglass not done; house with garden; houses; hundred points; identification card; inbox tray; incoming
envelope; index pointing at the viewer; index pointing up; infinity; information; Japanese dolls; kaaba; latin cross;
leaf fluttering in wind; ledger; left luggage; left speech bubble; level slider; light rail; linked paperclips; locked
with key; locked with pen; loudspeaker; love hotel; magnifying glass tilted right; mahjong red dragon; map of Japan;
mending heart; merman; merperson; metro; middle finger; minibus; minus; mobile phone off; monkey; monorail; moon
viewing ceremony; motor boat; mountain cableway; mountain railway; mouse; Mrs. Claus; multiply; musical notes; muted
speaker; name badge; night with stars; notebook with decorative cover; oden; office building; office worker; om;
oncoming automobile; oncoming bus; oncoming police car; oncoming taxi; open file folder; open hands; optical disk;
orthodox cross; outbox tray; page facing up; page with curl; pager; passenger ship; passport control; pen; people with
bunny ears; pig; pine decoration; place of worship; plus; post office; potable water; pouring liquid; prohibited;
rabbit; railway car; rescue worker’s helmet; restroom; revolving hearts; right anger bubble; rolled-up newspaper;
rolling on the floor laughing; rosette; round pushpin; running shirt; sari; selfie; service dog; shamrock; sheaf of
rice; singer; small airplane; snow-capped mountain; snowman; softball; sparkle; speaker low volume; speaker medium
volume; speaking head; sport utility vehicle; star and crescent; star of David; station; sun behind large cloud; sun
behind rain cloud; sun behind small cloud; sunrise over mountains; sunset; suspension railway; tanabata tree; tear-off
calendar; technologist; tiger; train; tram; tram car; trolleybus; two hearts; umbrella on ground; umbrella with rain
drops; unlocked; vibration mode; water closet; whale; wheel of dharma; ZZZ
"""
# CLDR name = our name[/plural] | synonyms. All others keep their CLDR name. A name here stays, whatever LEFT_OUT says.
RENAMED = """
stop sign = stop sign
Christmas tree = christmas tree | xmas tree
Japanese castle = japanese castle
Japanese post office = post office
OK hand = ok hand | ok sign
Santa Claus = santa | santa claus, father christmas
Statue of Liberty = statue of liberty | lady liberty
T-Rex = dinosaur | tyrannosaurus, t-rex
Tokyo tower = tower | eiffel tower, radio tower
adhesive bandage = bandage | plaster, band-aid
admission tickets = admission ticket
aerial tramway = cable car | gondola, aerial tramway
alien monster = space invader | alien monster
american football = american football | gridiron ball
amphora = amphora | greek vase
anatomical heart = human heart | anatomical heart
articulated lorry = truck | lorry, articulated lorry
artist palette = palette | paint palette, artist palette
auto rickshaw = rickshaw | tuk-tuk, auto rickshaw
axe = axe | hatchet
baby = baby/babies | infant
baby bottle = baby bottle | feeding bottle
baby chick = chick | baby chick
backpack = backpack | rucksack, school bag
badminton = badminton racket | shuttlecock
baguette bread = baguette | french bread
balance scale = scales/scales | balance, weighing scale
ballet shoes = ballet shoe | ballet slipper
ballot box with ballot = ballot box | voting box
bar chart = bar chart | bar graph
bathtub = bathtub | bath
beans = bean | kidney bean
bellhop bell = service bell | hotel bell, desk bell
bento box = bento | lunch box, bento box
beverage box = juice box | juice, carton of juice
billed cap = cap | baseball cap
biohazard = biohazard sign | biohazard
bison = bison/bison | buffalo
black nib = nib | pen nib
blossom = daisy | blossom
blowfish = pufferfish/pufferfish | blowfish
blue book = book
blueberries = blueberry
books = stack of books | pile of books
bottle with popping cork = champagne | bottle of champagne
bouquet = bouquet | bunch of flowers, bouquet of flowers
bow and arrow = bow and arrow/bows and arrows | archery bow
bowling = bowling pin | bowling
bread = bread/loaves of bread | loaf of bread, toast
brick = brick wall | brick
bridge at night = bridge | suspension bridge
briefs = briefs/briefs | underpants, underwear
bubble tea = bubble tea | boba tea, milk tea
bubbles = bubbles/bubbles | soap bubbles
bug = caterpillar
building construction = crane | building crane, construction site
bullseye = dartboard | bullseye, archery target
bullet train = bullet train | shinkansen, high-speed train
butter = butter/sticks of butter | stick of butter
candy = candy/candies | bonbon
canned food = tin can | canned food
canoe = canoe | rowboat
carousel horse = carousel horse | carousel, merry-go-round
carp streamer = carp streamer | koinobori
carpentry saw = saw | handsaw
chair = chair | wooden chair
cheese wedge = cheese
cherry blossom = cherry blossom | sakura
chess pawn = chess pawn | pawn, chess piece
chipmunk = squirrel | chipmunk
chocolate bar = chocolate | chocolate bar, bar of chocolate
chopsticks = chopsticks/chopsticks | pair of chopsticks
circus tent = circus tent | circus
cityscape = city/cities | skyline, cityscape
clapper board = clapperboard | movie clapper
classical building = temple | museum, greek temple
cloud with lightning = thundercloud | lightning cloud, storm cloud, thunderstorm
cloud with rain = rain cloud | rain, raincloud
cloud with snow = snow cloud | snowfall, snow
club suit = club | club suit, clubs suit
coat = coat | jacket
cocktail glass = martini | cocktail, cocktail glass
collision = explosion | collision
computer mouse = computer mouse/computer mice
confetti ball = confetti ball | confetti
construction = barrier | roadblock, construction barrier
construction worker = construction worker | builder
control knobs = control knob | knob, dial
cook = chef | cook
cooked rice = bowl of rice | rice, cooked rice
couch and lamp = couch/couches | sofa, couch and lamp
cricket = cricket | grasshopper
crocodile = crocodile | alligator
crossed fingers = crossed fingers/crossed fingers | fingers crossed
crossed swords = crossed swords/crossed swords | pair of swords
cup with straw = soda | soft drink, cup with straw
curry rice = curry/curries | curry rice
custard = pudding | custard, flan
cut of meat = steak | beef, raw meat
cyclone = spiral | cyclone, swirl
dagger = dagger | knife blade
dashing away = puff of smoke | puff of air, dust cloud
deciduous tree = oak tree | oak, leafy tree
deer = deer/deer | stag
delivery truck = delivery truck | delivery van, van
desert island = island | desert island, tropical island
desktop computer = computer | desktop computer, desktop
detective = detective | spy, sleuth
diamond suit = diamond suit | diamonds suit
diving mask = diving mask | snorkel, scuba mask
diya lamp = oil lamp | diya lamp, diya
dna = dna/strands of dna | strand of dna, double helix
dollar banknote = dollar bill | dollar, banknote, dollar banknote
drop of blood = drop of blood | blood drop, blood
droplet = water drop | droplet, drop of water
drum = drum | snare drum
dumpling = dumpling | gyoza
ear of corn = corn
electric plug = plug | power plug, electric plug
empty nest = nest | empty nest, bird nest
envelope = envelope | letter, mail
ewe = sheep/sheep | ewe, lamb
eyes = pair of eyes
eye = eye | eyeball
factory worker = factory worker | welder
falafel = falafel/falafel
fallen leaf = autumn leaf/autumn leaves | fallen leaf, dry leaf
ferry = ferry/ferries | cruise ship, ferry boat
field hockey = field hockey stick
file cabinet = filing cabinet | file cabinet
file folder = folder | file folder
film projector = film projector | projector
fire engine = fire truck | fire engine
firecracker = firecracker | dynamite
fireworks = fireworks/fireworks | firework
fish = fish/fish
fishing pole = fishing rod | fishing pole
flag in hole = golf hole | golf flag
flashlight = flashlight | torch
flat shoe = flat shoe | ballet flat
fleur-de-lis = fleur-de-lis/fleurs-de-lis
flexed biceps = flexed arm | biceps, muscle
floppy disk = floppy disk | diskette
fly = fly | housefly
flying disc = frisbee | flying disc
flying saucer = ufo | flying saucer
folded hands = folded hands/folded hands | praying hands, prayer
fondue = fondue | fondue pot
footprints = footprints/footprints | pair of footprints
fork and knife = fork and knife/forks and knives | knife and fork, cutlery
french fries = french fries/french fries | fries, chips
fried shrimp = fried shrimp/fried shrimp | tempura
fuel pump = gas pump | fuel pump, petrol pump
funeral urn = urn | funeral urn
garlic = garlic/bulbs of garlic | bulb of garlic
gear = gear | cogwheel, cog
glass of milk = glass of milk/glasses of milk | milk
globe showing Europe-Africa = earth | globe, planet earth
gloves = glove | pair of gloves, mitten
glowing star = glowing star | shining star
goal net = goal | soccer goal, goal net
goggles = goggles/goggles | ski goggles
graduation cap = graduation cap | mortarboard
green salad = salad | bowl of salad
guard = guard | royal guard, guardsman
hammer and wrench = hammer and wrench/hammers and wrenches
hatching chick = hatching chick | hatchling
headphone = headphones/headphones | pair of headphones
headstone = gravestone | headstone, tombstone
heart on fire = burning heart | heart on fire
heart with arrow = heart with an arrow/hearts with arrows | heart with arrow
herb = herb | sprig
high voltage = lightning bolt | lightning, thunderbolt
high-heeled shoe = high heel | stiletto
hippopotamus = hippo | hippopotamus
honey pot = honey pot | honey, pot of honey
hook = hook | fish hook
horse = horse | stallion, pony
horse racing = jockey | horse racing, horse rider
hot dog = hot dog | hotdog
hot pepper = chili pepper | chili, chilli, hot pepper
hourglass done = hourglass | sand timer
hut = hut | straw hut
ice = ice cube | block of ice
ice cream = sundae | bowl of ice cream
ice hockey = hockey stick | ice hockey stick
jack-o-lantern = pumpkin
jeans = jeans/jeans | trousers, pants
joker = joker card | joker
kick scooter = scooter | kick scooter
kitchen knife = knife/knives | kitchen knife
kiwi fruit = kiwi | kiwi fruit, kiwifruit
label = price tag | tag, luggage tag
lacrosse = lacrosse stick
leafy green = lettuce | cabbage
leopard = leopard | cheetah, jaguar
link = chain link
locked = padlock | lock
long drum = conga drum | conga, djembe
lotion bottle = lotion bottle | soap dispenser, lotion
lotus = lotus | water lily
love-you gesture = love sign
low battery = empty battery | low battery
luggage = suitcase | luggage
lungs = lungs/lungs | pair of lungs
mage = wizard | mage, sorcerer
magic wand = magic wand | wand
magnifying glass tilted left = magnifying glass | magnifier
man = man/men
mango = mango/mangoes
mantelpiece clock = mantel clock | mantelpiece clock
manual wheelchair = wheelchair
martial arts uniform = karate suit | judo suit, karate uniform
mate = mate tea | yerba mate
man’s shoe = dress shoe | leather shoe
meat on bone = ham | meat on bone
mechanical arm = robot arm | mechanical arm
mechanical leg = robot leg | mechanical leg
melon = cantaloupe | honeydew
memo = note | memo
microbe = microbe | bacterium, germ
military helmet = army helmet | military helmet
milky way = galaxy/galaxies | milky way
mirror ball = disco ball | mirror ball
moai = moai | easter island statue, stone head
mobile phone = smartphone | mobile phone, cell phone
money bag = money bag | bag of money
money with wings = flying money
moon cake = mooncake
motor scooter = moped | motor scooter, vespa
motorized wheelchair = electric wheelchair | motorized wheelchair
motorway = highway | motorway
mount fuji = mount fuji | snowy mountain, mount fuji mountain
mouse trap = mousetrap | mouse trap
mouth = mouth | pair of lips
movie camera = movie camera | film camera
musical keyboard = piano | piano keyboard, piano keys
musical note = musical note | music note
musical score = sheet music/sheets of music | treble clef, musical score
nail polish = nail polish/nail polishes | painted nails
national park = landscape | national park
nazar amulet = evil eye | nazar amulet, nazar
necktie = necktie | tie, shirt and tie
nest with eggs = nest with eggs/nests with eggs
nesting dolls = nesting doll | matryoshka, russian doll
new moon = new moon | dark moon
nut and bolt = nut and bolt/nuts and bolts | bolt, screw
ogre = ogre | oni
goblin = goblin mask | tengu, goblin
oil drum = oil barrel | barrel, oil drum
old key = antique key | old key
old man = old man/old men | grandfather, grandpa
old woman = old woman/old women | grandmother, grandma
one-piece swimsuit = swimsuit | bathing suit
oncoming fist = fist bump
ox = ox/oxen | bull
package = package | parcel, cardboard box
paintbrush = paintbrush | brush
pancakes = pancake | stack of pancakes
paperclip = paper clip | paperclip
paw prints = paw print | pawprint
peanuts = peanut
performing arts = theater masks/theater masks | theatre masks
person biking = cyclist | person biking
person climbing = climber | rock climber
person fencing = fencer
person golfing = golfer
person juggling = juggler
person lifting weights = weightlifter
person rowing boat = rower
person running = runner | jogger
person surfing = surfer
person swimming = swimmer
person taking bath = person in a bathtub/people in bathtubs
person walking = pedestrian | walker
person wearing turban = man with a turban/men with turbans
pick = pickaxe | pick
pickup truck = pickup truck | pickup
pig nose = pig nose | snout
pile of poo = poop | pile of poo, poo
pinched fingers = pinched fingers/pinched fingers
ping pong = ping pong paddle | table tennis paddle, ping pong
pirate flag = pirate flag | jolly roger
piñata = pinata
placard = signpost | placard
playground slide = slide | playground slide
police car light = siren | police light
police officer = police officer | policeman, cop
pool 8 ball = billiard ball | pool ball, eight ball
postal horn = post horn | postal horn
postbox = mailbox | postbox, letterbox
pot of food = stew | soup, pot of food
potato = potato/potatoes
potted plant = potted plant | houseplant
poultry leg = drumstick | chicken leg
prayer beads = prayer beads/prayer beads | beads
princess = princess | queen
prince = prince | king
puzzle piece = puzzle piece | jigsaw piece
pushpin = pushpin | thumbtack
racing car = race car | racing car
radioactive = radiation sign | radioactive sign
railway track = railroad track | railway track
raising hands = raised hands/raised hands
raised fist = fist | raised fist
hand with fingers splayed = open hand | hand
recycling symbol = recycling symbol | recycling sign
red envelope = lucky envelope | lai see
red exclamation mark = exclamation mark | exclamation point
red question mark = question mark
red paper lantern = lantern | paper lantern
rhinoceros = rhino | rhinoceros
ribbon = ribbon | bow tie
rice ball = rice ball | onigiri
ring = ring | diamond ring, engagement ring
ring buoy = lifebuoy | life ring, life preserver
ringed planet = saturn | ringed planet, planet
roasted sweet potato = sweet potato/sweet potatoes | yam
rock = rock | stone, boulder
roll of paper = toilet paper/rolls of toilet paper | roll of paper, toilet roll
roller skate = roller skate | rollerskate
rooster = rooster | cockerel
rugby football = rugby ball
safety vest = safety vest | life vest
satellite antenna = satellite dish | dish antenna
sauropod = sauropod | brontosaurus, diplodocus
scarf = scarf/scarves
seal = seal | sea lion
seat = airplane seat | seat
seedling = seedling | sprout
sewing needle = sewing needle | needle
shallow pan of food = paella | pan of food
shaved ice = shaved ice/cups of shaved ice | snow cone
shinto shrine = shinto shrine | torii gate
ship = ship | steamship, ocean liner
shooting star = shooting star | falling star
shopping bags = shopping bags/shopping bags | pair of shopping bags
shopping cart = shopping cart | shopping trolley
shortcake = slice of cake | shortcake
shorts = shorts/shorts | swim trunks
shower = shower | shower head
shrimp = shrimp/shrimp | prawn
sign of the horns = rock hand | devil horns
skis = ski boot | ski
skull and crossbones = skull and crossbones/skulls and crossbones
sled = sled | sledge, toboggan
soap = soap/bars of soap | bar of soap
socks = sock | pair of socks
spade suit = spade | spade suit, spades suit
spaghetti = spaghetti/plates of spaghetti | pasta
sparkles = sparkles/sparkles | sparkle
speaker high volume = loudspeaker | speaker
speech balloon = speech bubble | speech balloon
spider web = spider web | cobweb, spiderweb
spiral notepad = notepad
spiral shell = seashell | shell
sports medal = medal | sports medal
squid = squid | calamari
stadium = stadium | arena
steaming bowl = noodle soup | ramen, bowl of noodles
straight ruler = ruler
stuffed flatbread = gyro | kebab, pita
sun behind cloud = partly cloudy sky/partly cloudy skies | sun behind a cloud
sunglasses = sunglasses/sunglasses | shades
superhero = superhero/superheroes
supervillain = supervillain | villain
sushi = sushi/pieces of sushi | nigiri
sweat droplets = sweat drop | splash
syringe = syringe | injection
takeout box = takeout box | chinese takeout
tangerine = tangerine | mandarin, clementine
teacup without handle = teacup | tea, cup of tea
telephone receiver = telephone receiver | handset
television = television | tv, tv set
tennis = tennis racket | tennis
thong sandal = flip-flop | thong sandal
thought balloon = thought bubble | thought balloon
thread = spool of thread | thread
thumbs down = thumbs down/thumbs down
thumbs up = thumbs up/thumbs up | thumb
timer clock = timer | kitchen timer
tooth = tooth/teeth
tornado = tornado/tornadoes | twister, whirlwind
trident emblem = trident
triangular flag = triangular flag | pennant
triangular ruler = triangle ruler | set square
tropical drink = tropical drink | mai tai
tropical fish = tropical fish/tropical fish | angelfish
tumbler glass = whiskey | whisky, tumbler glass
two-hump camel = camel
vampire = vampire | dracula
vertical traffic light = traffic light | stoplight
victory hand = peace sign | victory hand
video camera = camcorder | video camera
video game = game controller | gamepad, video game
videocassette = videotape | vhs tape, video cassette
volcano = volcano/volcanoes
wastebasket = trash can | wastebasket, waste bin
watch = watch | wristwatch
water pistol = water gun | water pistol, squirt gun
water wave = wave | ocean wave, tidal wave
wedding = wedding chapel | chapel
white cane = walking cane
wilted flower = wilted rose | wilted flower
wine glass = glass of wine/glasses of wine | wine, wine glass
wolf = wolf/wolves
woman = woman/women | lady
woman dancing = dancer | dancing woman, flamenco dancer
man dancing = dancing man/dancing men | disco dancer
woman with headscarf = woman with a headscarf/women with headscarves | hijab
woman’s boot = boot
woman’s hat = sun hat | straw hat
woman’s sandal = sandal
wood = log | wood, wooden log
worm = worm | earthworm
wrench = wrench | spanner
writing hand = writing hand
x-ray = x-ray | xray
yarn = ball of yarn | yarn
yin yang = yin yang sign | yin and yang
zombie = zombie | undead
atom symbol = atom | atom symbol
astronaut = astronaut | cosmonaut, spaceman
bacon = bacon/slices of bacon | slice of bacon
burrito = burrito | wrap
camping = campsite | campground
coffin = coffin | casket
eagle = eagle | hawk
elf = elf/elves
fairy = fairy | pixie
gorilla = gorilla | ape
hibiscus = hibiscus | tropical flower
jar = jar | glass jar
laptop = laptop | notebook computer
lizard = lizard | gecko
llama = llama | alpaca
magnet = magnet | horseshoe magnet
motorcycle = motorcycle | motorbike
pill = pill | capsule
roller coaster = roller coaster | rollercoaster
saxophone = saxophone | sax
speedboat = speedboat | motorboat
taxi = taxi | cab, taxicab
violin = violin | fiddle
student = graduate | student
artist = artist | painter
boar = boar | wild boar
purse = purse | coin purse
heavy dollar sign = dollar sign
cross mark = cross mark | x mark
check mark = check mark | checkmark, tick
waving hand = waving hand
clapping hands = clapping hands/clapping hands | applause
warning = warning sign
chequered flag = checkered flag | chequered flag, racing flag
chains = chain
sake = sake | bottle of sake
microphone = microphone | mic
"""


def table(text: str) -> dict[str, str]:
    """`CLDR name = line of the object table` -> CLDR name: the line."""
    rows = (line.partition(" = ") for line in text.strip().splitlines())
    return {name: row for name, _, row in rows}


def names_in(text: str) -> set[str]:
    return set(" ".join(text.split()).split("; "))


def annotations(path: Path) -> dict[str, tuple[str, list[str]]]:
    """Characters -> CLDR's short name and keywords."""
    found: dict[str, tuple[str, list[str]]] = {}
    for entry in ElementTree.parse(path).getroot().iter("annotation"):
        name, words = found.get(entry.get("cp", ""), ("", []))
        text = entry.text or ""
        found[entry.get("cp", "")] = (text, words) if entry.get("type") == "tts" else (name, text.split(" | "))
    return found


def candidates(cldr: dict[str, tuple[str, list[str]]]) -> dict[str, str]:
    """CLDR name -> glyph, of every emoji that stands for itself and not for a skin colour or a country."""
    found = {}
    for glyph, entry in emoji.EMOJI_DATA.items():
        plain = glyph.replace("\ufe0f", "")
        if entry["status"] == emoji.STATUS["fully_qualified"] and plain in cldr and cldr[plain][0]:
            found.setdefault(cldr[plain][0], glyph)
    return found


def looks(glyphs: np.ndarray) -> np.ndarray:
    """What is left of glyphs when they are painted in one colour: outline and light.  -> float32 [N, 2, 32, 32]"""
    rows = []
    for glyph in glyphs:
        image = Image.fromarray(glyph, "RGBa").resize((32, 32), Image.Resampling.BOX)
        small = np.asarray(image, dtype=np.float32) / 255
        alpha = small[..., 3]
        luma = small[..., :3] @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
        ink = alpha > 0.5
        low, high = np.percentile(luma[ink], (5, 95)) if ink.any() else (0, 1)
        rows.append(np.stack([alpha, alpha * np.clip((luma - low) / max(high - low, 0.15), 0, 1)]))
    return np.stack(rows)


def distances(glyphs: np.ndarray) -> np.ndarray:
    """Root mean square difference of the looks of each pair.  -> float32 [N, N]"""
    flat = looks(glyphs).reshape(len(glyphs), -1)
    squares = (flat**2).sum(axis=1)
    return np.sqrt(np.maximum(squares[:, None] + squares - 2 * flat @ flat.T, 0) / flat.shape[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("--font", type=Path)
    parser.add_argument("--near", type=int, default=0)
    arguments = parser.parse_args()
    cldr = annotations(arguments.annotations)
    glyph_of = candidates(cldr)
    renamed, faces = table(RENAMED), table(FACES)
    dropped = names_in(DROPPED)
    if unknown := sorted((set(renamed) | set(faces)) - set(glyph_of)):
        print(f"# CLDR has no such names: {', '.join(unknown)}")
    taken = {thing.glyph.removesuffix("\ufe0f") for thing in things()}
    lines = [f"{t.glyph} | {t.name}{_slash(t)} | {', '.join(t.synonyms)}".rstrip() for t in things()]
    # A plain egg is an egg before a fried one is.
    lines = [line.replace("| fried egg | egg", "| fried egg |") for line in lines]
    words = {word for thing in things() for word in (thing.name, thing.plural, *thing.synonyms)} - {"egg"}
    for name, glyph in sorted(glyph_of.items(), key=lambda item: item[0].lower()):
        is_face = name in faces or "face" in name
        if glyph.removesuffix("\ufe0f") in taken or name in dropped or (is_face and name not in faces):
            continue
        if LEFT_OUT.search(name) and name not in renamed and name not in faces:
            continue
        row = faces.get(name) or renamed.get(name) or name
        ours, _, synonyms = (part.strip() for part in row.partition("|"))
        single = ours.partition("/")[0]
        if single in words:
            print(f"# {glyph} {name}: the word {single!r} is taken")
            continue
        others = [word.strip() for word in synonyms.split(",") if word.strip()]
        for word in [word for word in others if word in words]:
            print(f"# {glyph} {name}: the synonym {word!r} is taken")
            others.remove(word)
        words |= {single, *others, ours.partition("/")[2] or plural_of(single), *map(plural_of, others)}
        lines.append(f"{glyph} | {ours} | {', '.join(others)}".rstrip())
    found = parse_things("\n".join(lines), "the new table")
    found = _drawn_and_distinct(found, arguments.font, arguments.near)
    _check(found)
    by_glyph = {line.partition(" | ")[0]: line for line in lines}
    TARGET.write_text(HEADER + "\n".join(by_glyph[thing.glyph] for thing in found) + "\n", encoding="utf-8")
    own = [w for t in found for w in t.synonyms if w not in cldr.get(t.glyph.replace("\ufe0f", ""), ("", []))[1]]
    count = sum(len(thing.synonyms) for thing in found)
    print(f"{TARGET.name}: {len(found)} objects, {count} synonyms, {len(own)} of them not CLDR's")


def _slash(thing: Thing) -> str:
    return "" if thing.plural == plural_of(thing.name) else f"/{thing.plural}"


def _drawn_and_distinct(found: tuple[Thing, ...], font: Path | None, near: int) -> tuple[Thing, ...]:
    """The objects that the font draws and that look like no earlier one."""
    drawn: list[Thing] = []
    pictures = []
    for thing in found:
        try:
            pictures.append(render_glyphs([thing.glyph], font)[0])
            drawn.append(thing)
        except GessoError:
            print(f"# {thing.glyph} {thing.name}: the font does not have it")
    gaps = distances(np.stack(pictures))
    kept: list[int] = []
    for i in range(len(drawn)):
        closest = min(kept, key=lambda j: gaps[i, j], default=None)
        if closest is not None and gaps[i, closest] < TOO_NEAR and i >= len(things()):
            print(f"# {drawn[i].glyph} {drawn[i].name}: looks like {drawn[closest].name} ({gaps[i, closest]:.3f})")
        else:
            kept.append(i)
    pairs = sorted((gaps[i, j], drawn[i].name, drawn[j].name) for i in kept for j in kept if i < j)
    for gap, a, b in pairs[:near]:
        print(f"{gap:.3f} {a} -- {b}")
    return tuple(drawn[i] for i in kept)


def _check(found: tuple[Thing, ...]) -> None:
    """What the tests hold, told while there is someone to mend it."""
    colours = {*BACKGROUNDS, *(word for others in COLOUR_SYNONYMS.values() for word in others)}
    taken = colours | set(NUMBERS.values()) | {word for others in SIZES.values() for word in others}
    owners: dict[str, set[str]] = {}
    for thing in found:
        for word in {thing.name, thing.plural, *thing.synonyms, *map(plural_of, thing.synonyms)}:
            owners.setdefault(word, set()).add(thing.name)
            if not word.isascii() or word != word.lower() or taken & set(re.split(r"[ -]", word)):
                print(f"! {thing.name}: {word!r} is not plain, or holds a word for a colour, a number or a size")
    for word, names in owners.items():
        if len(names) > 1:
            print(f"! {word!r} stands for {sorted(names)}")


if __name__ == "__main__":
    main()
