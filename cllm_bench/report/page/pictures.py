"""Figures as pictures, for the report's page and for files of their own.

A picture is drawn in the light colours. In a page each of them becomes a class, so that the page's
style sheet chooses light or dark. Methods differ by shape as well as by colour.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args
from xml.etree import ElementTree

from cllm_bench.core.printable import clipped, printable
from cllm_bench.report import numbers
from cllm_bench.report.columns import Line, is_baseline, method
from cllm_bench.report.page.time_use import TimeUse

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Format = Literal["svg", "png"]
FORMATS: tuple[Format, ...] = get_args(Format)

MARK = "drawn by cllm-bench plot"  # what tells a file of this module from others

# By name, for light paper. The coloured ones are those of Okabe and Ito, darkened where they had
# less than 3:1 against white.
COLOURS = {
    "ink": "#1b1b1b",
    "soft": "#595959",
    "rule": "#d9d9d9",
    "band": "#bfbfbf",
    "paper": "#fffffe",
    "blue": "#0072b2",
    "vermilion": "#d55e00",
    "green": "#008a63",
    "purple": "#a8508a",
    "amber": "#9a6a00",
}
_HUES = ("blue", "vermilion", "green", "purple", "amber")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", "--", ":", "-.")

_WIDTH = 360.0  # of every picture, in points: one to one on a phone
_LABEL = 42  # characters of a method's label
_NAMED = 8  # methods whose figures a description tells
_MOST_POSITIONS = 32
_LONGEST = 32  # accept lengths shown one by one


@dataclass(frozen=True)
class Picture:
    """A picture that can be drawn, and the same in words.

    Attributes:
        kind: Which of a task's pictures it is.
        name: Unique among the pictures of a report: of letters, digits and hyphens.
        title: What is shown.
        description: What is to be seen, for whoever does not see it.
        caption: What marks and bands mean, and how it was measured; may be empty.
        draw: Draws it.
    """

    kind: str
    name: str
    title: str
    description: str
    caption: str
    draw: Callable[[], Figure]


class _Style(NamedTuple):
    """How a method looks in all pictures of a report."""

    hue: str
    marker: str
    dashes: str
    filled: bool


class _Segment(NamedTuple):
    """A part of a bar: its title, colour and hatching."""

    title: str
    hue: str
    hatch: str


@dataclass(frozen=True)
class _Scene:
    """What the pictures of one task are drawn from.

    Attributes:
        name: What the pictures' names begin with.
        task: Its label, fit to be shown.
        lines: Of the task's table.
        uses: Where the time goes, by run and method.
        styles: How methods look, by run and method.
    """

    name: str
    task: str
    lines: tuple[Line, ...]
    uses: Mapping[tuple[str, str], TimeUse]
    styles: Mapping[tuple[str, str], _Style]

    def style(self, line: Line) -> _Style:
        """Return how a line's method looks."""
        return self.styles[_key(line)]

    def label(self, line: Line) -> str:
        """Return the name of a line's method, with that of its run where there are several."""
        several = len({each.run for each in self.lines}) > 1
        name = f"{line.run_kind} {line.run} · {method(line)}" if several else method(line)
        return clipped(printable(name), _LABEL)


_PREFILL = _Segment("prefill", "blue", "")
_PASSES = _Segment("passes of the verifying model", "vermilion", "//")
_DRAFT = _Segment("passes of a draft model or heads", "green", "..")
_REST = _Segment("rest", "purple", "xx")
_DECODE = _Segment("decoding, its parts not measured", "amber", "--")


def pictures(
    task: str, lines: Sequence[Line], uses: Mapping[tuple[str, str], TimeUse], name: str
) -> list[Picture]:
    """Return all pictures of one task for which something was measured.

    Args:
        task: Its label.
        lines: Of the task's table.
        uses: Where the time goes, by run and method.
        name: What the pictures' names begin with: letters, digits and hyphens.
    """
    scene = _Scene(name, _name(task), tuple(lines), uses, _styles(lines))
    found = (each(scene) for each in (_speedups, _quality, _acceptance, _accept_lengths, _time))
    return [each for each in found if each is not None]


def svg(picture: Picture) -> str:
    """Return a picture as an SVG element for a page: classes for colours, no style, no script."""
    root = _drawn(picture)
    root.attrib.pop("width", None)
    root.attrib.pop("height", None)
    _rewrite(root, picture.name, _as_class)
    _describe(root, picture)
    return ElementTree.tostring(root, encoding="unicode")


def file_content(picture: Picture, kind: Format) -> bytes:
    """Return the content of a file that holds a picture with its title, on white paper."""
    if kind == "svg":
        root = _drawn(picture, titled=True)
        _rewrite(root, picture.name, _as_attribute)
        _describe(root, picture)
        text = ElementTree.tostring(root, encoding="unicode")
        return f"<!-- {MARK} -->\n{text}\n".encode()
    stream = io.BytesIO()
    _save(picture, stream, "png", titled=True)
    return stream.getvalue()


# --- the pictures ------------------------------------------------------------------------------


def _speedups(scene: _Scene) -> Picture | None:
    shown = [line for line in scene.lines if line.summary.speedup is not None]
    if len(shown) < 2:
        return None
    baseline = shown[0].manifest.baseline
    floor = next((found for line in scene.lines if (found := _again_interval(line))), None)
    texts = [_speed_text(line) for line in shown]
    band = ""
    if floor:
        low, high = floor
        band = (
            f"Grey band: 95% interval of the baseline measured a second time (A/A), "
            f"{numbers.fixed(low, 3)} to {numbers.fixed(high, 3)}; differences inside it mean "
            "nothing. "
        )

    def draw() -> Figure:
        figure, axes = _rows(len(shown), below=38)
        right = max(max(_high(line), line.summary.speedup or 0) for line in shown)
        axes.set_xlim(0, 1.08 * max(right, 1.2))
        if floor:
            axes.axvspan(*floor, color=COLOURS["band"], linewidth=1.5, zorder=0)
        axes.axvline(1, color=COLOURS["ink"], linewidth=0.8, zorder=1)
        for i, line in enumerate(shown):
            style, value = scene.style(line), line.summary.speedup or 0.0
            hue = COLOURS[style.hue]
            if line.summary.speedup_ci and not is_baseline(line):
                axes.plot(line.summary.speedup_ci, (i, i), color=hue, linewidth=2, zorder=2)
            axes.plot([value], [i], **_mark(style), zorder=3)
            _over(axes, i, scene.label(line), texts[i])
        _grid(axes, "x")
        axes.set_xlabel(f"speed of decoding relative to {_name(baseline)} (×)")
        return figure

    return Picture(
        kind="speedup",
        name=f"{scene.name}-speedup",
        title=f"Speedup on {scene.task}",
        description=_list([f"{scene.label(x)} {t}" for x, t in zip(shown, texts, strict=True)]),
        caption=f"{band}Bars: 95% intervals over questions. Vertical line: the baseline's speed.",
        draw=draw,
    )


def _quality(scene: _Scene) -> Picture | None:
    shown = [
        line
        for line in scene.lines
        if line.summary.speedup is not None
        and line.summary.score is not None
        and not _is_again(line)
    ]
    if len(shown) < 2:
        return None
    best = shown[0].summary.best_score
    scale = 100 if best == 1 else 1
    metric = _name(shown[0].summary.metric) + (" (%)" if best == 1 else "")
    lower = " (lower is better)" if best == 0 else ""

    def draw() -> Figure:
        figure, axes = _panel(scene, shown)
        for line in shown:
            s, style = line.summary, scene.style(line)
            x, y = s.speedup or 0.0, scale * (s.score or 0.0)
            hue = COLOURS[style.hue]
            if s.speedup_ci and not is_baseline(line):
                axes.plot(s.speedup_ci, (y, y), color=hue, linewidth=1.2)
            if s.score_ci:
                axes.plot((x, x), [scale * v for v in s.score_ci], color=hue, linewidth=1.2)
            axes.plot([x], [y], **_mark(style), zorder=3)
        axes.axvline(1, color=COLOURS["ink"], linewidth=0.8, zorder=0)
        axes.set_xlim(left=0)
        if best == 1:
            axes.set_ylim(max(0, axes.get_ylim()[0]), min(102, axes.get_ylim()[1]))
        _grid(axes, "both")
        axes.set_xlabel(f"speed of decoding relative to {_name(shown[0].manifest.baseline)} (×)")
        axes.set_ylabel(f"{metric}{lower}")
        return figure

    told = [
        f"{scene.label(line)}: {numbers.score(line.summary.score, line.summary.score_ci, best)} at "
        f"{numbers.ratio(line.summary.speedup, line.summary.speedup_ci, show=False)}"
        for line in shown
    ]
    return Picture(
        kind="score",
        name=f"{scene.name}-score",
        title=f"Speed against score on {scene.task}",
        description=_list(told),
        caption="Bars: 95% intervals. Right is faster, "
        + ("down is better." if best == 0 else "up is better."),
        draw=draw,
    )


def _acceptance(scene: _Scene) -> Picture | None:
    shown = [line for line in scene.lines if line.summary.acceptance_by_position]
    if not shown:
        return None

    def draw() -> Figure:
        figure, axes = _panel(scene, shown)
        for line in shown:
            shares = (line.summary.acceptance_by_position or ())[:_MOST_POSITIONS]
            _curve(axes, range(1, len(shares) + 1), shares, scene.style(line))
        _grid(axes, "y")
        _whole_numbers(axes)
        axes.set_ylim(0, 102)
        axes.set_xlabel("position of the drafted token in its pass")
        axes.set_ylabel("accepted (% of passes)")
        return figure

    told = [
        f"{scene.label(line)}: "
        + ", ".join(f"{100 * x:.0f}%" for x in (line.summary.acceptance_by_position or ())[:6])
        + (" …" if len(line.summary.acceptance_by_position or ()) > 6 else "")
        for line in shown
    ]
    return Picture(
        kind="acceptance",
        name=f"{scene.name}-acceptance",
        title=f"Acceptance by position on {scene.task}",
        description=_list(told, intro="Share of drafted tokens accepted from position 1 on. "),
        caption="Of the passes that drafted a token at a position, the share that accepted it and "
        "all before it.",
        draw=draw,
    )


def _accept_lengths(scene: _Scene) -> Picture | None:
    found = {_key(line): _shares(line) for line in scene.lines}
    shown = [line for line in scene.lines if len(found[_key(line)]) > 1]
    if not shown:
        return None
    longest = max(max(found[_key(line)]) for line in shown)
    capped = max(longest, 2) >= _LONGEST

    def draw() -> Figure:
        figure, axes = _panel(scene, shown)
        for line in shown:
            shares = found[_key(line)]
            lengths = range(1, max(shares) + 1)
            _curve(axes, lengths, [shares.get(n, 0.0) for n in lengths], scene.style(line))
        _grid(axes, "y")
        _whole_numbers(axes)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("accept length (tokens settled by a pass)")
        axes.set_ylabel("passes (%)")
        return figure

    told = [
        f"{scene.label(line)}: {numbers.plain(line.summary.mean_accept_length)} tokens on average, "
        f"{numbers.share(found[_key(line)].get(1, 0.0))} of the passes settle one"
        for line in shown
    ]
    return Picture(
        kind="accept-lengths",
        name=f"{scene.name}-accept-lengths",
        title=f"Passes by accept length on {scene.task}",
        description=_list(told),
        caption="All repeats; the prefill is left out."
        + (f" The last point is {_LONGEST} tokens or more." if capped else ""),
        draw=draw,
    )


def _time(scene: _Scene) -> Picture | None:
    shown = [line for line in scene.lines if _key(line) in scene.uses]
    if not shown:
        return None
    parts = {_key(line): _segments(scene.uses[_key(line)]) for line in shown}
    used = list(dict.fromkeys(segment for own in parts.values() for segment, _ in own))

    def draw() -> Figure:
        from matplotlib.patches import Rectangle

        legend = 16 * len(used)
        figure, axes = _rows(len(shown), below=40 + legend)
        for i, line in enumerate(shown):
            left = 0.0
            for segment, seconds in parts[_key(line)]:
                axes.barh(i, 1000 * seconds, 0.42, left, **_hatched(segment))
                left += 1000 * seconds
            _over(axes, i, scene.label(line), f"{numbers.significant(left)} ms")
        _grid(axes, "x")
        axes.set_xlim(left=0)
        axes.set_xlabel("milliseconds of a reply, on average")
        height = figure.get_figheight() * 72
        for i, segment in enumerate(used):
            y = (legend - 16 * i - 13) / height
            box = Rectangle((14 / _WIDTH, y), 14 / _WIDTH, 9 / height, **_hatched(segment))
            figure.add_artist(box)
            figure.text(36 / _WIDTH, y, segment.title, color=COLOURS["ink"], va="bottom")
        return figure

    told = [
        f"{scene.label(line)}: "
        + ", ".join(f"{s.title} {numbers.significant(1000 * v)} ms" for s, v in parts[_key(line)])
        for line in shown
    ]
    return Picture(
        kind="time",
        name=f"{scene.name}-time",
        title=f"Where the time goes on {scene.task}",
        description=_list(told),
        caption="Prefill and decoding are measured. Passes are counted, and multiplied by what a "
        "pass of each shape takes alone; the rest is what that leaves of the decoding, and 0 where "
        "passes in the run were faster than alone.",
        draw=draw,
    )


# --- what they show ----------------------------------------------------------------------------


def _again_interval(line: Line) -> tuple[float, float] | None:
    """Return the interval of a line that is its run's baseline, measured a second time (A/A)."""
    return line.summary.speedup_ci if _is_again(line) else None


def _is_again(line: Line) -> bool:
    cell = line.manifest.cell(line.summary.method)
    return cell is not None and cell.again


def _key(line: Line) -> tuple[str, str]:
    return line.run, line.summary.method


def _name(text: str) -> str:
    return clipped(printable(text), _LABEL)


def _speed_text(line: Line) -> str:
    if is_baseline(line):
        return "1×"
    return numbers.ratio(line.summary.speedup, line.summary.speedup_ci)


def _high(line: Line) -> float:
    return line.summary.speedup_ci[1] if line.summary.speedup_ci else 0.0


def _shares(line: Line) -> dict[int, float]:
    """Return the share of passes by accept length, the longest together."""
    counts = {int(k): v for k, v in (line.summary.accept_length_histogram or {}).items()}
    total = sum(counts.values())
    found: dict[int, float] = {}
    for length, count in counts.items():
        capped = min(length, _LONGEST)
        found[capped] = found.get(capped, 0.0) + count / total
    return found


def _segments(use: TimeUse) -> list[tuple[_Segment, float]]:
    """Return the parts of a bar, in seconds; together they are the measured total."""
    if use.passes is None or use.draft is None:
        return [(_PREFILL, use.prefill), (_DECODE, use.decode)]
    estimated = use.passes + use.draft
    scale = min(1.0, use.decode / estimated) if estimated else 0.0
    parts = [(_PREFILL, use.prefill), (_PASSES, scale * use.passes)]
    if use.draft:
        parts.append((_DRAFT, scale * use.draft))
    return [*parts, (_REST, max(0.0, use.decode - estimated))]


def _list(told: Sequence[str], intro: str = "") -> str:
    more = len(told) - _NAMED
    rest = f"; and {more} more in the table" if more > 0 else ""
    return f"{intro}{'; '.join(told[:_NAMED])}{rest}."


# --- how they look -----------------------------------------------------------------------------


def _styles(lines: Sequence[Line]) -> dict[tuple[str, str], _Style]:
    """Return a look for every method: the baselines in ink, the others each with shape and hue."""
    found: dict[tuple[str, str], _Style] = {}
    number = 0
    for line in lines:
        if is_baseline(line):
            found[_key(line)] = _Style("ink", "o", "-", filled=True)
        elif _is_again(line):
            found[_key(line)] = _Style("ink", "o", "--", filled=False)
        else:
            found[_key(line)] = _Style(
                _HUES[number % len(_HUES)],
                _MARKERS[1:][number % (len(_MARKERS) - 1)],
                _DASHES[number % len(_DASHES)],
                filled=True,
            )
            number += 1
    return found


def _mark(style: _Style) -> dict[str, Any]:
    hue = COLOURS[style.hue]
    return {
        "color": hue,
        "marker": style.marker,
        "markersize": 7,
        "markerfacecolor": hue if style.filled else COLOURS["paper"],
        "linestyle": "none",
    }


def _hatched(segment: _Segment) -> dict[str, Any]:
    return {
        "facecolor": COLOURS[segment.hue],
        "hatch": segment.hatch,
        "edgecolor": COLOURS["paper"],
        "linewidth": 0.6,
    }


def _figure(height: float, *, left: float, right: float, below: float) -> tuple[Figure, Axes]:
    """Return a figure with one set of axes; all lengths are in points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH / 72, height / 72))
    axes = figure.add_axes(
        (
            left / _WIDTH,
            below / height,
            (_WIDTH - left - right) / _WIDTH,
            (height - below - 6) / height,
        )
    )
    axes.set_facecolor("none")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(COLOURS["soft"])
    axes.tick_params(colors=COLOURS["soft"], labelcolor=COLOURS["ink"], length=3)
    axes.xaxis.label.set_color(COLOURS["ink"])
    axes.yaxis.label.set_color(COLOURS["ink"])
    return figure, axes


def _rows(count: int, *, below: float) -> tuple[Figure, Axes]:
    """Return axes with a line for each method, its label above it, the first on top."""
    figure, axes = _figure(33.0 * count + below + 10, left=12, right=12, below=below)
    axes.set_ylim(count - 0.5, -0.75)
    axes.set_yticks([])
    return figure, axes


def _over(axes: Axes, row: int, label: str, value: str) -> None:
    """Write a method's label and its value above its line."""
    place = axes.get_yaxis_transform()
    common: dict[str, Any] = {
        "transform": place,
        "va": "bottom",
        "color": COLOURS["ink"],
        "zorder": 4,
    }
    axes.text(0, row - 0.26, label, ha="left", **common)
    axes.text(1, row - 0.26, value, ha="right", **common)


def _panel(scene: _Scene, lines: Sequence[Line]) -> tuple[Figure, Axes]:
    """Return axes with room for both scales, and a legend below them."""
    from matplotlib.lines import Line2D

    legend = 16.0 * len(lines)
    figure, axes = _figure(226 + legend, left=48, right=10, below=42 + legend)
    height = figure.get_figheight() * 72
    for i, line in enumerate(lines):
        y = (legend - 16 * i - 8) / height
        style = scene.style(line)
        ends = [14 / _WIDTH, 36 / _WIDTH]
        look: dict[str, Any] = {"color": COLOURS[style.hue], "linestyle": style.dashes}
        figure.add_artist(Line2D(ends, [y, y], linewidth=1.5, **look))
        figure.add_artist(Line2D([25 / _WIDTH], [y], **_mark(style)))
        where = (42 / _WIDTH, y)
        figure.text(*where, scene.label(line), color=COLOURS["ink"], va="center_baseline")
    return figure, axes


def _curve(axes: Axes, x: Sequence[int], shares: Sequence[float], style: _Style) -> None:
    look = {**_mark(style), "linestyle": style.dashes, "markersize": 4.5, "linewidth": 1.5}
    axes.plot(x, [100 * share for share in shares], **look)


def _grid(axes: Axes, which: Literal["x", "y", "both"]) -> None:
    axes.grid(axis=which, color=COLOURS["rule"], linewidth=0.7)
    axes.set_axisbelow(True)


def _whole_numbers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))


# --- from matplotlib to a page -----------------------------------------------------------------

_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
_NAMES = {colour: name for name, colour in COLOURS.items()}
_KEPT_STYLE = re.compile(
    r"fill|fill-opacity|stroke|stroke-(width|linecap|linejoin|opacity|dasharray|dashoffset)|opacity"
    r"|text-anchor|font-size|font-weight"
)


def _save(picture: Picture, stream: io.BytesIO, kind: Format, *, titled: bool) -> None:
    import matplotlib

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": picture.name,
        "text.parse_math": False,
        "font.size": 11,
        "font.family": ["DejaVu Sans"],
        "hatch.linewidth": 0.8,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # The page's reader has fonts of his own; here a missing sign only makes a width a guess.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        figure = picture.draw()
        if titled:
            figure.text(
                12 / _WIDTH,
                1 + 4 / (72 * figure.get_figheight()),
                picture.title,
                fontsize=12,
                va="bottom",
                color=COLOURS["ink"],
            )
        box: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.08} if titled else {}
        paper = COLOURS["paper"] if titled else "none"
        note = {"Date": None} if kind == "svg" else {"Software": MARK}
        figure.savefig(stream, format=kind, dpi=220, facecolor=paper, metadata=note, **box)


def _drawn(picture: Picture, *, titled: bool = False) -> ElementTree.Element:
    stream = io.BytesIO()
    _save(picture, stream, "svg", titled=titled)
    ElementTree.register_namespace("", _SVG)
    return ElementTree.fromstring(stream.getvalue())


def _as_class(attributes: dict[str, str], key: str, name: str) -> None:
    attributes["class"] = f"{attributes.get('class', '')} {key}-{name}".strip()


def _as_attribute(attributes: dict[str, str], key: str, name: str) -> None:
    attributes[key] = COLOURS[name]


def _rewrite(
    root: ElementTree.Element, prefix: str, colour: Callable[[dict[str, str], str, str], None]
) -> None:
    """Turn styles into attributes, and keep only the ids that are referred to, made unique."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    text = ElementTree.tostring(root, encoding="unicode")
    used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text))
    referred = {name for pair in used for name in pair if name}
    for element in root.iter():
        attributes = element.attrib
        _restyle(attributes, colour)
        if attributes.get("id") in referred:
            attributes["id"] = f"{prefix}-{attributes['id']}"
        else:
            attributes.pop("id", None)
        if _LINK in attributes:
            attributes["href"] = f"#{prefix}-{attributes.pop(_LINK)[1:]}"
        for key, value in attributes.items():
            attributes[key] = value.replace("url(#", f"url(#{prefix}-")
    root.set("stroke-linejoin", "round")
    root.set("font-family", "system-ui, 'DejaVu Sans', sans-serif")


def _restyle(
    attributes: dict[str, str], colour: Callable[[dict[str, str], str, str], None]
) -> None:
    items = (item.partition(":") for item in attributes.pop("style", "").split(";"))
    styled = {key.strip(): value.strip() for key, _, value in items if value}
    font = styled.pop("font", "")
    if size := re.search(r"([\d.]+)px", font):
        styled["font-size"] = size[1]
    for key in ("fill", "stroke"):
        if key in attributes:
            styled.setdefault(key, attributes.pop(key))
    for key, value in styled.items():
        if not _KEPT_STYLE.fullmatch(key):
            continue
        if key in ("fill", "stroke") and value.lower() in _NAMES:
            colour(attributes, key, _NAMES[value.lower()])
        else:
            attributes[key] = value.removesuffix("px")


def _describe(root: ElementTree.Element, picture: Picture) -> None:
    """Give a picture its title and description, as screen readers tell them."""
    for place, key, text in ((0, "title", picture.title), (1, "desc", picture.description)):
        element = ElementTree.Element(f"{{{_SVG}}}{key}", id=f"{picture.name}-{key}")
        element.text = text
        root.insert(place, element)
    root.set("role", "img")
    root.set("aria-labelledby", f"{picture.name}-title")
    root.set("aria-describedby", f"{picture.name}-desc")
