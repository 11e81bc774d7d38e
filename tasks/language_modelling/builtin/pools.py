"""Words and names of the built-in texts.

Names are put together from parts: where one is that of somebody or something, it is by chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def _joined(firsts: str, seconds: str, between: str = "") -> tuple[str, ...]:
    """Return every combination of two lists of words."""
    return tuple(f"{a}{between}{b}" for a in firsts.split() for b in seconds.split())


def _listed(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


_STEMS = (
    "Al Ban Bel Bram Car Cor Dal Dun Ed Fal Fen Gar Hal Har Kel Lan Lin Mar Mel Mor Nor Oak "
    "Pen Ral Sel Stan Tam Ul Wen Win"
)
_FIRST_NAMES = (
    "Adam Agnes Albert Anna Arthur Clara Daniel David Edith Ellen Emil Emma Eric Frank Frida "
    "George Grace Hannah Henry Hugo Ida Irene Jacob James Jane John Julia Karl Laura Leo Lucy "
    "Martha Martin Mary Oscar Paul Peter Rosa Ruth Samuel Sara Simon Thomas Vera Victor Walter"
)
_LAST_STEMS = "Ack Ash Bar Black Cald Cole Fair Gold Green Hart Holl Lock Mill Rich Ross Thorn Wat"
_SURNAMES = _joined(_LAST_STEMS, "er ley man son well")
_COMPANIES = " ".join(_joined(_STEMS.lower(), "co dyne mark tec"))
_TRADES = (
    "airlines bancorp chemical dairies electric foods gas insurance mills motors oil paper "
    "pharmaceuticals railways savings shipping software steel stores telephone textiles"
)

POOLS: Mapping[str, Sequence[str]] = {
    "place": _joined(_STEMS, "bridge burn bury dale field ford ham mouth stead ton wick worth"),
    "river": _joined(_STEMS, "a e ne der low ver"),
    "county": _joined("Arden Corve Helm Lorn Marsh Rowan Sorrel Vale", "shire land mark"),
    "person": _joined(_FIRST_NAMES, " ".join(_SURNAMES), " "),
    "year": tuple(str(year) for year in range(1720, 1990)),
    "recent": tuple(str(year) for year in range(1990, 2021)),
    "count": tuple(str(n) for n in (*range(3, 20), *range(20, 100, 5))),
    "hundreds": tuple(str(n) for n in range(150, 1000, 10)),
    "thousands": tuple(f"{a},{b}00" for a in range(1, 30) for b in range(1, 10)),
    "month": _listed(
        "January, February, March, April, May, June, July, August, September, October, November, "
        "December"
    ),
    "season": _listed("spring, summer, autumn, winter"),
    "side": _listed("north, south, east, west, northern edge, southern edge, far side, upper part"),
    "direction": _listed("north, south, east, west, north-east, south-west"),
    "material": _listed(
        "stone, brick, oak, iron, steel, granite, timber, slate, limestone, sandstone, concrete"
    ),
    "goods": _listed(
        "wool, grain, salt, timber, coal, cheese, leather, fish, cider, linen, tin, glass, paper, "
        "honey, apples, barley, copper, clay, sugar, tea"
    ),
    "craft": _listed(
        "weaving, fishing, farming, mining, brewing, pottery, shipbuilding, milling, printing, "
        "glassmaking, trade, forestry, tanning, quarrying, market gardening"
    ),
    "building": _listed(
        "church, town hall, school, mill, library, market hall, museum, hospital, chapel, station, "
        "theatre, inn, lighthouse, bakery, bath house, corn exchange, granary, observatory"
    ),
    "landscape": _listed(
        "low hills, open moor, wet meadows, old woodland, a broad valley, chalk cliffs, a marsh, "
        "steep slopes, orchards, pasture, sand dunes, a narrow gorge, rocky ground, heath"
    ),
    "tree": _listed("beech, birch, oak, pine, willow, alder, ash, elm, larch, poplar, rowan, yew"),
    "animal": _listed(
        "foxes, otters, hares, deer, bats, beavers, hedgehogs, squirrels, badgers, voles, toads, "
        "snakes, wild cats, martens, newts"
    ),
    "fish": _listed("trout, salmon, eels, pike, perch, carp, bream, sturgeon, grayling, lampreys"),
    "food": _listed(
        "seeds, berries, insects, worms, small fish, snails, beetles, spiders, grass, buds, "
        "nuts, frogs, moths, roots, crabs, mussels"
    ),
    "colour": _listed(
        "white, black, grey, brown, yellow, red, green, blue, rust-coloured, pale, olive, golden, "
        "dark, silver, cream, violet"
    ),
    "body": _listed("head, breast, back, throat, wings, tail, crown, belly, cheeks, legs, bill"),
    "bird": _listed(
        "warbler, finch, plover, heron, thrush, gull, owl, kite, wren, lark, bunting, sandpiper, "
        "swallow, duck, tern, pipit, crane, magpie, falcon, rail"
    ),
    "habitat": _listed(
        "reed beds, pine forests, rocky shores, gardens, river banks, salt marshes, high moors, "
        "dry grassland, mixed woods, mudflats, mountain lakes, hedges, old quarries, islands"
    ),
    "event": _listed(
        "a fire, a flood, a long drought, the great storm, an earthquake, a landslide, the war, "
        "a strike, a hard winter, an epidemic, a failed harvest, a change of owner, a dispute "
        "over land, the opening of the railway, the fall in prices, an explosion"
    ),
    "subject": _listed(
        "fishermen, harbours, mountains, portraits, still lifes, markets, horses, winter scenes, "
        "children, gardens, old streets, ruins, storms at sea, dancers, workers, saints"
    ),
    "medium": _listed("oil, watercolour, charcoal, pastel, ink, bronze, tempera, clay, woodcut"),
    "quality": _listed(
        "light, colour, patience, humour, clear lines, restraint, detail, sense of space, warmth, "
        "simplicity, bold shapes, quiet mood, strong contrasts, honesty, fine brushwork"
    ),
    "office": _listed(
        "mayor, council, bishop, owner, county, engineer, guild, army, railway company, harbour "
        "board, parish, city, governor, local trust"
    ),
    "weather": _listed(
        "fog, heavy rain, high winds, ice, snow, thunderstorms, calm seas, poor visibility, a gale"
    ),
    "cargo": _listed(
        "coal, passengers, mail, grain, soldiers, timber, cotton, cattle, oranges, machinery, "
        "cement, wine, iron ore, settlers, fresh water"
    ),
    # The news, in lower case.
    "company": _joined(_COMPANIES, _TRADES, " "),
    "form": _listed("corp., inc., co., group, holdings"),
    "boss": _joined("mr. mrs.", " ".join(_SURNAMES).lower(), " "),
    "role": _listed(
        "chairman, president, vice president, chief executive officer, treasurer, director, "
        "general counsel, chief financial officer, senior economist, head of research, spokesman"
    ),
    "city": _listed(
        "new york, chicago, london, tokyo, boston, dallas, denver, paris, toronto, houston, "
        "atlanta, detroit, frankfurt, los angeles, hong kong, seattle, cleveland, zurich"
    ),
    "weekday": _listed("monday, tuesday, wednesday, thursday, friday"),
    "period": _listed(
        "the third quarter, the first half, the year, the nine months, the latest quarter, "
        "the fiscal year, the second quarter, the first nine months, the month"
    ),
    "product": _listed(
        "trucks, computers, tires, aircraft engines, soft drinks, medical equipment, newsprint, "
        "natural gas, copper wire, cameras, cereals, furniture, disk drives, detergents, "
        "television sets, plastics, elevators, fertilizer, semiconductors, auto parts"
    ),
    "unit": _listed(
        "consumer products, financial services, european, oil and gas, defense, publishing, "
        "real estate, broadcasting, restaurant, specialty chemicals, leasing, packaging"
    ),
    "cause": _listed(
        "higher interest rates, a strong dollar, lower oil prices, weak demand, rising costs, "
        "a strike, the hurricane, new competition, a tax credit, poor weather, higher wages, "
        "a drop in orders, a one-time charge, better margins, strong exports, a price war"
    ),
    "watcher": _listed(
        "analysts, traders, economists, investors, dealers, some shareholders, industry "
        "executives, government officials, fund managers, brokers, union leaders"
    ),
    "feeling": _listed(
        "surprised, disappointed, cautious, optimistic, worried, pleased, skeptical, not alarmed, "
        "divided, relieved, confident"
    ),
    "paper": _listed(
        "treasury bonds, blue-chip stocks, junk bonds, municipal bonds, gold futures, oil stocks, "
        "bank shares, technology stocks, u.s. notes, mortgage securities, wheat futures"
    ),
    "agency": _listed(
        "the commerce department, the federal reserve, congress, the justice department, the "
        "bankruptcy court, the state of <unk>, the securities commission, the treasury, the "
        "labor department, a federal judge, the senate"
    ),
}
