"""The page can be read: each text stands out from what is behind it, in the light and in the dark (WCAG 2.2, 1.4.3)."""

import re

import pytest
from ibkr_backend.charts import STANDALONE_STYLE
from test_backend_settings import APP

ENOUGH = 4.5
CSS = (APP / "ibkr_backend/static/page.css").read_text()
LIGHT, DARK = (
    dict(re.findall(r"--([\w-]+):\s*(#\w+)", block)) for block in re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
)
SCHEMES = {"light": LIGHT, "dark": LIGHT | DARK}
# What has no background of its own stands on the page or on a card.
GROUNDS = ("page", "card")


def luminance(colour: str) -> float:
    """Relative luminance, from 0 to 1, of #rgb or #rrggbb."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    shares = [int(digits[n : n + 2], 16) / 255 for n in (0, 2, 4)]
    red, green, blue = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, from 1 to 21."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def pairs() -> dict[tuple[str, str], str]:
    """Names of each text's colour and of what it stands on, with the selector that says so first."""
    found: dict[tuple[str, str], str] = {}
    for selector, declarations in re.findall(r"([^{}]+)\{([^{}]*)\}", CSS):
        text = re.search(r"(?<![\w-])(?:color|fill):\s*var\(--([\w-]+)\)", declarations)
        ground = re.search(r"background:\s*var\(--([\w-]+)\)", declarations)
        if text and not selector.strip().startswith(("path", ".area", ".spot")):
            for name in [ground[1]] if ground else GROUNDS:
                found.setdefault((text[1], name), selector.strip())
    return found


def test_contrast_is_counted_as_the_standard_does() -> None:
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#fff") == pytest.approx(4.48, abs=0.005)
    assert set(LIGHT) >= set(DARK) and len(DARK) > 15
    # Body, notes, links, buttons, states, badges: none is overlooked.
    assert {("text", "page"), ("soft", "card"), ("link", "page"), ("on-link", "link"), ("bad", "bad-bg")} <= set(
        pairs()
    )
    assert {("loud-text", "loud"), ("paper-text", "paper"), ("live-text", "live"), ("warn", "warn-bg")} <= set(pairs())


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("pair", pairs(), ids=" on ".join)
def test_text_stands_out(pair: tuple[str, str], scheme: str) -> None:
    text, ground = (SCHEMES[scheme][name] for name in pair)
    assert contrast(text, ground) >= ENOUGH, f"{pairs()[pair]}: {text} on {ground}"


@pytest.mark.parametrize("dark", [False, True])
def test_words_of_a_chart_in_the_bucket_stand_out(dark: bool) -> None:
    light, _, other = STANDALONE_STYLE.partition("@media")
    style = other if dark else light
    [ground] = re.findall(r"svg\{background:(#\w+)", style)
    words = re.findall(r"\.(?:axis|head)\{fill:(#\w+)", style)
    assert len(words) == 2
    for text in words:
        assert contrast(text, ground) >= ENOUGH
