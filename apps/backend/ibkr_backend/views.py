"""What is shown of a symbol: chart and positions, the same for the page and for the picture in the bucket."""

from sqlalchemy.orm import Session

from ibkr_backend.charts import Chart, Point, Position, price_chart
from ibkr_backend.database import answering_source, kept_bars, signals_of

# Trading days shown, all of them for None.
RANGES: dict[str, int | None] = {"6m": 126, "1y": 252, "5y": 1260, "10y": 2520, "all": None}
WORDS = {1: "long", 0: "flat", -1: "short"}


def symbol_chart(
    session: Session, symbol: str, days: int | None, *, width: int = 960, height: int = 360, standalone: bool = False
) -> Chart | None:
    """Draw the newest ``days`` of a symbol with its signals; None where no bar is kept."""
    source = answering_source(session, symbol)
    bars = kept_bars(session, symbol, source) if source else []
    shown = bars[-days:] if days else bars
    if not shown:
        return None
    first, last = shown[0], shown[-1]
    found = signals_of(session, symbol, source, first.date, last.date)  # type: ignore[arg-type]
    positions = [Position(each.date, each.position, each.kind == "live") for each in found]
    mark = " (SIMULATED)" if source == "simulated" else ""
    title = f"{symbol}{mark}, daily close, {first.date} to {last.date}"
    change = last.close / first.close - 1
    description = (
        f"From {first.close:,.2f} to {last.close:,.2f}, {change:+.1%}; lowest {min(bar.close for bar in shown):,.2f}, "
        f"highest {max(bar.close for bar in shown):,.2f}. {_said(found)}"
    )
    return price_chart(
        [Point(bar.date, bar.close) for bar in shown],
        positions,
        title=title,
        description=description,
        width=width,
        height=height,
        standalone=standalone,
        name="wide" if width > 600 else "narrow",
    )


def _said(signals: list) -> str:  # type: ignore[type-arg]
    live = [each for each in signals if each.kind == "live"]
    if not live:
        return "No live signal in this range."
    newest = live[-1]
    return f"Newest signal: {WORDS[newest.position]} at the close of {newest.date}, by version {newest.model_version}."
