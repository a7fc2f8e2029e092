"""Price charts as SVG, drawn here: the same for the page and for the bucket, without a plotting library."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from html import escape

# Beyond this ratio of the highest to the lowest price, equal distances mean equal ratios.
LOG_SCALE_FROM = 3.0
MOST_POINTS = 520
# A picture in the bucket has no page around it that says how it looks.
STANDALONE_STYLE = """
svg{background:#fff;font:13px system-ui,sans-serif}
.grid{stroke:#e2e6ec}.axis{fill:#556274}.line{fill:none;stroke:#1453b8;stroke-width:1.6;stroke-linejoin:round}
.area{fill:#1453b8;opacity:.08}.long{fill:#146c3f}.short{fill:#a81b1b}.flat{fill:#dfe3e9}
.live{stroke:#fff;stroke-width:1.5}.head{fill:#16202e;font-weight:600}
@media(prefers-color-scheme:dark){svg{background:#171e28}.grid{stroke:#2a3441}.axis{fill:#9dabbd}.line{stroke:#85b5ff}
.area{fill:#85b5ff}.long{fill:#6fdda0}.short{fill:#ff9c9c}.flat{fill:#2a3441}.live{stroke:#171e28}.head{fill:#e7ecf3}}
"""


@dataclass(frozen=True)
class Point:
    """A day's close."""

    date: date
    close: float


@dataclass(frozen=True)
class Position:
    """What a model said at a day's close: -1, 0 or 1; ``live`` if it had not seen the outcome."""

    date: date
    position: int
    live: bool


@dataclass(frozen=True)
class Chart:
    """A drawn chart: the SVG, and where its points stand, as shares of its width and height, for a cursor."""

    svg: str
    dates: list[str]
    closes: list[float]
    xs: list[float]
    ys: list[float]


def thinned(points: Sequence[Point]) -> list[Point]:
    """Leave out points evenly, never the last, until the line has no more than `MOST_POINTS`."""
    step = math.ceil(len(points) / MOST_POINTS)
    return list(points[::-1][::step][::-1]) if step > 1 else list(points)


def price_ticks(low: float, high: float, log_scale: bool) -> list[float]:
    """Return round prices between two."""
    if log_scale:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [step * 10.0**decade for decade in decades for step in (1, 2, 5)]
    else:
        raw = (high - low) / 4 or high / 4 or 1.0
        decade = 10.0 ** math.floor(math.log10(raw))
        step = next(each * decade for each in (1, 2, 2.5, 5, 10) if each * decade >= raw)
        found = [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return [price for price in found if low <= price <= high]


def day_ticks(points: Sequence[Point], most: int) -> list[tuple[int, str]]:
    """Return the index and name of the first day of each month or year, at most ``most`` of them."""
    months = (points[-1].date.year - points[0].date.year) * 12 + points[-1].date.month - points[0].date.month
    step = next(each for each in (1, 2, 3, 6, 12, 24, 60, 120, 1200) if months / each <= most)
    found = []
    for n in range(1, len(points)):
        day, before = points[n].date, points[n - 1].date
        if (day.year, day.month) != (before.year, before.month):
            month = day.year * 12 + day.month - 1
            if month // step != (before.year * 12 + before.month - 1) // step:
                found.append((n, str(day.year) if step >= 12 or day.month == 1 else f"{day:%b}"))
    return found


def price_chart(
    all_points: Sequence[Point],
    positions: Sequence[Position],
    *,
    title: str,
    description: str,
    width: int = 960,
    height: int = 360,
    standalone: bool = False,
    name: str = "chart",
) -> Chart:
    """Draw closes as a line, and positions as a strip below it, with a mark on the line for each live one.

    Args:
        all_points: Days, ascending, at least one.
        positions: Any days, ascending; those out of range are left out, and a live one goes before another of its day.
        title: What is shown, for people who see and who do not.
        description: The same in a sentence with the figures.
        width: In pixels, of the drawing's own coordinates.
        height: In pixels.
        standalone: A file of its own, with its style and its title in the picture.
        name: Prefix of the ids in it.
    """
    points = thinned(all_points)
    low, high = min(p.close for p in points), max(p.close for p in points)
    margin = (high - low) * 0.06 or high * 0.02
    log_scale = low > 0 and high / low > LOG_SCALE_FROM
    low, high = (low / 1.06, high * 1.06) if log_scale else (low - margin, high + margin)
    left, right, top, bottom = 8.0, width - 62.0, 34.0 if standalone else 10.0, height - 48.0

    def x(n: float) -> float:
        return left + (right - left) * (n / (len(points) - 1) if len(points) > 1 else 0.5)

    def y(price: float) -> float:
        share = math.log(price / low) / math.log(high / low) if log_scale else (price - low) / (high - low)
        return bottom - (bottom - top) * share

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-labelledby="{name}-title {name}-desc">',
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(description)}</desc>',
    ]
    if standalone:
        parts.append(f"<style>{STANDALONE_STYLE}</style>")
        parts.append(f'<text class="head" x="{left}" y="22">{escape(title)}</text>')
    for price in price_ticks(low, high, log_scale):
        parts.append(f'<path class="grid" d="M{left} {y(price):.1f}H{right}"/>')
        parts.append(f'<text class="axis" x="{right + 8}" y="{y(price) + 4:.1f}">{price:g}</text>')
    for n, label in day_ticks(points, 10 if width > 600 else 5):
        parts.append(f'<text class="axis" x="{x(n):.1f}" y="{height - 8}" text-anchor="middle">{label}</text>')
    line = "L".join(f"{x(n):.1f} {y(p.close):.1f}" for n, p in enumerate(points))
    parts.append(f'<path class="area" d="M{line}L{x(len(points) - 1):.1f} {bottom}L{x(0):.1f} {bottom}Z"/>')
    parts.append(f'<path class="line" d="M{line}"/>')
    parts += _strip(all_points, positions, left, right, bottom + 8)
    place = {p.date: (n, p.close) for n, p in enumerate(points)}
    for signal in positions:
        if signal.live and signal.date in place:
            n, close = place[signal.date]
            parts.append(_mark(x(n), y(close), signal))
    parts.append("</svg>")
    return Chart(
        "".join(parts),
        [p.date.isoformat() for p in points],
        [round(p.close, 4) for p in points],
        [round(x(n) / width, 4) for n in range(len(points))],
        [round(y(p.close) / height, 4) for p in points],
    )


def _strip(points: Sequence[Point], positions: Sequence[Position], left: float, right: float, top: float) -> list[str]:
    """Draw runs of equal positions as bars of a strip."""
    held = {each.date: each for each in sorted(positions, key=lambda each: each.live)}
    scale = (right - left) / len(points)
    runs: list[list[int]] = []
    for n, point in enumerate(points):
        if point.date not in held:
            continue
        position = int(held[point.date].position)
        if runs and runs[-1][0] == position and runs[-1][2] == n:
            runs[-1][2] = n + 1
        else:
            runs.append([position, n, n + 1])
    kinds = {1: "long", 0: "flat", -1: "short"}
    paths: dict[str, str] = {}
    for position, begin, end in runs:
        kind = kinds[position]
        paths[kind] = (
            paths.get(kind, "")
            + f"M{left + begin * scale:.1f} {top}h{(end - begin) * scale:.1f}v7h{-(end - begin) * scale:.1f}z"
        )
    return [f'<path class="{kind}" d="{path}"/>' for kind, path in sorted(paths.items())]


def _mark(x: float, y: float, signal: Position) -> str:
    words = {1: "long", 0: "flat", -1: "short"}[signal.position]
    shape = {1: "M{x:.1f} {y:.1f}m0 6l-7 12h14z", -1: "M{x:.1f} {y:.1f}m0 -6l-7 -12h14z"}.get(
        signal.position, "M{x:.1f} {y:.1f}m-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z"
    )
    kind = "axis" if signal.position == 0 else words
    return f'<path class="live {kind}" d="{shape.format(x=x, y=y)}"><title>{signal.date}: {words}</title></path>'
