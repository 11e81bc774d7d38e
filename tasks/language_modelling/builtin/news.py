"""The subjects of the built-in text in the style of business news.

It has the form of the Penn Treebank's preparation: lower case, no punctuation, `N` for every number
and `<unk>` for rare words.
"""

from __future__ import annotations

from .grammar import Part, Topic

_MONEY = "$ N (million|billion)"
_SHARE = "(N cents a share|$ N a share)"

_EARNINGS = Topic(
    "{firm}",
    {"firm": "company", "kind": "form", "make": "product", "who": "boss", "post": "role"},
    (
        Part(
            None,
            (
                "{firm} {kind} said (its |)(net income|profit|earnings) (rose|fell|jumped|dropped) "
                f"N N in {{period}} to {_MONEY} or {_SHARE}",
                f"{{firm}} {{kind}} (reported|posted) a (loss|profit) of {_MONEY} for {{period}} "
                "and (blamed|cited) {cause}",
            ),
            (
                f"(sales|revenue) of {{make}} (rose|fell|climbed|slipped) N N to {_MONEY} from "
                f"{_MONEY} a year earlier",
                "{who} the company 's {post} said (demand|orders|prices) for {make} (improved|"
                "weakened) in {period}",
                "the company (makes|sells|distributes) {make} and {product}",
                f"{{watcher}} had (expected|forecast) (earnings|results) of about {_SHARE} because "
                "of {cause}",
                f"in {{period}} a year ago {{firm}} (earned|lost) {_MONEY} or {_SHARE}",
                "its {unit} unit had (an operating|a pretax) (loss|profit) of "
                f"{_MONEY} (after|partly because of) {{cause}}",
                "{who} said the company (does n't expect|expects|is counting on) {cause} (next "
                "year|to continue|in the current quarter)",
                "in (new york stock exchange|over-the-counter|american stock exchange) (composite "
                "|)trading {weekday} {firm} (closed at|rose to|fell to) $ N (up|down) N cents",
                "{watcher} (were|are) {feeling} about (the results|the company 's {unit} business)",
            ),
            (5, 7),
        ),
    ),
)

_TAKEOVER = Topic(
    "{firm}",
    {"firm": "company", "kind": "form", "prey": "company", "who": "boss", "post": "role"},
    (
        Part(
            None,
            (
                "{firm} {kind} (agreed|offered|plans) to (buy|acquire) {prey} (inc.|co.|corp.) for "
                f"{_MONEY} in (cash|stock|cash and notes)",
                "{prey} said it (rejected|will consider|is studying) (a|an unsolicited) bid of $ N "
                "a share from {firm} {kind}",
            ),
            (
                "{who} {post} of {firm} said the (offer|bid|merger) would (help|strengthen) its "
                "{unit} business",
                f"{{prey}} (makes|sells) {{product}} and had (sales|revenue) of {_MONEY} last year",
                "the (transaction|purchase|merger) is subject to approval by {agency} and by "
                "(holders|lenders|directors)",
                "{firm} (already |)(owns|controls) N N of {prey} and would (borrow|sell assets of) "
                f"{_MONEY} for the rest",
                "{watcher} (were|said they were) {feeling} and (called|considered) the price "
                "(high|fair|too low|<unk>)",
                "mr. <unk> a (lawyer|spokesman|<unk>) for {prey} (could n't be reached|declined to "
                "comment) {weekday}",
                "shares of {prey} (jumped|rose|fell) $ N to $ N in (heavy|light) trading {weekday}",
                "the (company|concern) said it would (sell|close|keep) the {unit} unit because of "
                "{cause}",
                "{agency} has asked for more (time|facts|documents) (about|on) the (bid|sale)",
                "a rival (offer|group) led by {boss} (may|could|is expected to) (emerge|appear) by "
                "{weekday}",
            ),
            (5, 7),
        ),
    ),
)

_PERSON = Topic(
    "{who}",
    {
        "who": "boss",
        "firm": "company",
        "kind": "form",
        "post": "role",
        "older": "boss",
        "division": "unit",
    },
    (
        Part(
            None,
            (
                "{who} N years old was (named|elected|appointed) {post} of {firm} {kind}",
                "{firm} {kind} said {older} (resigned|retired|stepped down) as {post} and that "
                "{who} will (succeed him|take over)",
            ),
            (
                "{who} (had been|was formerly|has been) {role} of (the {division} unit|{company} "
                "{form})",
                "{older} N (will remain|remains|stays) a (director|consultant) (until {weekday}|of "
                "the {division} unit)",
                "the (change|appointment|departure) (follows|comes after) {cause} and a loss of "
                f"{_MONEY} in the {{division}} business",
                "{watcher} (were|are) {feeling} (about|over) the (choice|news|timing)",
                "{who} said the company must (sell|cut|build) (more |)(costs|plants|{product}) and "
                "(avoid|survive) {cause}",
                "(the board|a committee) (met|voted) {weekday} in {city} (for N hours|after a "
                "dispute with {older})",
                "{firm} based in {city} (has|employs) N (people|workers) and makes {product}",
                "a (spokesman|<unk>) said {older} (was n't|was) (asked|forced) to leave",
                "{who} (joined|came to) {firm} in N (from|after N years with) {company} {form}",
            ),
            (5, 7),
        ),
    ),
)

_MARKET = Topic(
    "{issue}",
    {"issue": "paper", "day": "weekday", "why": "cause", "town": "city", "voice": "boss"},
    (
        Part(
            None,
            (
                "{issue} (rose|fell|surged|plunged|edged higher) {day} (on fears of|on hopes of|"
                "because of) {why}",
                "(prices of|trading in) {issue} (was|were) (mixed|quiet|heavy|nervous) {day} as "
                "{watcher} (waited for|worried about) {agency}",
            ),
            (
                "the (index|average) (gained|lost|added) N points to N in (active|light|moderate) "
                "trading",
                "{voice} {role} at {company} {form} in {town} said {watcher} "
                "(are|remain) {feeling}",
                "{paper} and {paper} (also |)(advanced|declined|were little changed)",
                "in {city} the (dollar|market) (closed|was quoted) at N (yen|marks|points) (up|"
                "down) from N late {weekday}",
                "(some|many) {watcher} (sold|bought) {paper} after {agency} (reported|announced) "
                "{cause}",
                "volume in {city} was N million (shares|contracts) (compared with|against) N "
                "million {weekday}",
                "there is n't (any|much) (buying|selling) (said|added) {voice}",
                "{agency} (is expected|plans) to (sell|auction|report on) {paper} {weekday}",
                "it was (the biggest|the smallest|a <unk>) (gain|loss|swing) since {why} in N",
                "the yield on {paper} (rose|fell) to N N from N N",
            ),
            (5, 7),
        ),
    ),
)

_PLANT = Topic(
    "{firm}",
    {"firm": "company", "kind": "form", "make": "product", "site": "city", "who": "boss"},
    (
        Part(
            None,
            (
                "{firm} {kind} said it will (close|expand|sell|build) a plant in {site} that "
                "(makes|will make) {make}",
                "workers at a {firm} {kind} plant in {site} (voted|agreed|refused) to (end|begin|"
                "continue) a strike over (wages|pensions|safety|<unk>)",
            ),
            (
                "about N (workers|jobs|employees) (are|will be) affected (said|according to) {who}",
                f"the (plan|project|move) in {{site}} will cost {_MONEY} and (take|last) N (months|"
                "years)",
                "{firm} has (lost|gained) (market share|customers) in {make} because of {cause}",
                "the union (said|believes) {firm} (could n't|did n't|wo n't) (keep its "
                "promise|pay for {cause})",
                "{who} who runs the {unit} unit (called|said) the (talks|results) were (<unk>|"
                "difficult|constructive)",
                "the plant (opened|was built) in N and (turns|turned) out N {make} a (day|week)",
                "(production|output) of {product} (will move|moved) to {city} by {weekday}",
                "{agency} (has ordered|ordered|is reviewing) (changes|tests|repairs) at (the "
                "plant|another plant in {city})",
                "{watcher} (were|are) {feeling} and (cut|raised) their estimates by " + _SHARE,
            ),
            (5, 7),
        ),
    ),
)

_COURT = Topic(
    "{firm}",
    {
        "firm": "company",
        "kind": "form",
        "body": "agency",
        "make": "product",
        "who": "boss",
        "foe": "company",
    },
    (
        Part(
            None,
            (
                "{body} (accused|charged|sued) {firm} {kind} (of|over) (fixing prices of|false "
                "claims about|dumping) {make}",
                "{foe} {form} (sued|filed suit against) {firm} {kind} over a (patent|contract|"
                "license) for {make}",
            ),
            (
                f"the (suit|complaint) (seeks|asks for) damages of {_MONEY} and (an order|a ban)",
                "{who} a lawyer for {firm} (denied|rejected|would n't discuss) the (charges|"
                "allegations)",
                "{firm} (sold|shipped) N {make} (before|after) {cause} (hit|hurt) its {unit} "
                "business",
                "a (hearing|trial) is (set|scheduled) for {weekday} in {city}",
                "{watcher} (were|are) {feeling} about a (settlement|verdict)",
                "the (judge|court) (ruled|said) {weekday} that {foe} (had|had no) (right|reason) "
                "to (complain|sue)",
                "under the (agreement|settlement) {firm} (will|would) pay "
                f"{_MONEY} (without admitting|but denies) any (wrongdoing|<unk>)",
                "mr. <unk> of {city} (testified|said) that {product} were (unsafe|dear|<unk>)",
                "{firm} shares (slid|fell|rose) N cents to $ N {weekday}",
            ),
            (5, 7),
        ),
    ),
)

NEWS = (_EARNINGS, _TAKEOVER, _PERSON, _MARKET, _PLANT, _COURT)
