"""Bars, features, walk-forward evaluation, costs and comparison."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pandas as pd
import pytest
from conftest import daily_bars, make_bars
from quantops_strategy.bars import BarsInvalid, BarsUnavailable, fetch_bars, from_csv, parse_bars, to_csv
from quantops_strategy.evaluation import (
    NotEnoughBars,
    Recipe,
    confidence_of_improvement,
    evaluate,
    fit,
    folds,
    net_returns,
    performance,
    training_table,
    walk_forward,
)
from quantops_strategy.features import build_features, build_returns

SMALL = Recipe(train_days=400, test_days=100)


def payload(frame: pd.DataFrame) -> dict:
    rows = [{"date": f"{day:%Y-%m-%d}", **row} for day, row in zip(frame.index, frame.to_dict("records"), strict=True)]
    return {"symbol": "TEST", "source": "test", "simulated": True, "adjusted": True, "bars": rows}


@pytest.fixture
def backend(noise):
    """A backend on the loopback that answers as its symbol says."""
    answers = {
        "/api/v1/bars/TEST": (200, json.dumps(payload(noise.head(100)))),
        "/api/v1/bars/BROKEN": (503, ""),
        "/api/v1/bars/REFUSED": (422, '{"detail": "bad dates"}'),
        "/api/v1/bars/HTML": (200, "<html>"),
    }
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            status, body = answers.get(self.path.partition("?")[0], (404, ""))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", asked
    server.shutdown()
    server.server_close()


def test_bars_come_from_the_backend(backend, noise):
    url, asked = backend
    bars = fetch_bars(url, "TEST", "2010-01-01", "2020-01-01")
    assert asked == ["/api/v1/bars/TEST?start=2010-01-01&end=2020-01-01"]
    pd.testing.assert_frame_equal(bars.frame, noise.head(100), check_freq=False, check_index_type=False)
    assert (bars.simulated, bars.adjusted, bars.source) == (True, True, "test")


@pytest.mark.parametrize(("symbol", "error"), [("NONE", "keeps no bars of NONE"), ("BROKEN", "answered 503")])
def test_what_may_pass_is_worth_a_retry(backend, symbol, error):
    with pytest.raises(BarsUnavailable, match=error):
        fetch_bars(backend[0], symbol, "2010-01-01", "2020-01-01")


@pytest.mark.parametrize(("symbol", "error"), [("REFUSED", "bad dates"), ("HTML", "JSON")])
def test_what_cannot_pass_is_not_retried(backend, symbol, error):
    with pytest.raises(BarsInvalid, match=error):
        fetch_bars(backend[0], symbol, "2010-01-01", "2020-01-01")


def test_backend_away():
    with pytest.raises(BarsUnavailable, match="does not answer"):
        fetch_bars("http://127.0.0.1:9", "TEST", "2010-01-01", "2020-01-01")


@pytest.mark.parametrize(
    ("field", "value"),
    [("close", -1.0), ("close", float("nan")), ("volume", -1), ("high", 1.0), ("low", 1e9), ("open", None)],
)
def test_impossible_bars_are_refused(noise, field, value):
    bad = payload(noise.head(10))
    bad["bars"][3][field] = value
    with pytest.raises(BarsInvalid, match="impossible bars of TEST, the first on 2010-01-07"):
        parse_bars(bad)


def test_a_day_twice_is_refused(noise):
    bad = payload(noise.head(10))
    bad["bars"].append(bad["bars"][0])
    with pytest.raises(BarsInvalid, match="two bars of TEST on 2010-01-04"):
        parse_bars(bad)


@pytest.mark.parametrize("bad", [{}, {"bars": []}, [], {"symbol": "A", "source": "", "simulated": 0, "adjusted": 0}])
def test_other_answers_are_refused(bad):
    with pytest.raises(BarsInvalid):
        parse_bars(bad)


def test_kept_bars_are_the_same_bars(noise):
    again = from_csv(to_csv(noise))
    assert (again.to_numpy() == noise.to_numpy()).all()
    assert daily_bars(again).digest == daily_bars(noise).digest


def test_digest_tells_data_sets_apart(noise):
    other = noise.copy()
    other.iloc[700, 3] += 1e-9
    digests = {daily_bars(noise).digest, daily_bars(other).digest, daily_bars(noise, symbol="OTHER").digest}
    assert len(digests) == 3


@pytest.mark.parametrize("day", [61, 300, 1000])
def test_features_do_not_know_the_future(noise, day):
    changed = noise.copy()
    changed.iloc[day + 1 :] *= 3.7
    before, after = build_features(noise), build_features(changed)
    pd.testing.assert_frame_equal(before.iloc[: day + 1], after.iloc[: day + 1])
    assert not before.iloc[day + 1].equals(after.iloc[day + 1])


def test_features_are_complete_after_the_longest_window(noise):
    features = build_features(noise)
    assert features.iloc[60:].notna().all(axis=None)
    assert np.isfinite(features.iloc[60:].to_numpy()).all()


def test_features_of_a_price_that_never_moves_are_neutral():
    features = build_features(make_bars(np.zeros(100))).iloc[-1]
    assert features["rsi_14"] == 0.5
    assert features["volatility_ratio"] == 1.0
    assert features["volume_z_20"] == 0.0


def test_a_decision_earns_from_the_next_open_to_the_one_after():
    bars = make_bars(np.array([0.0, 0.1, 0.5, -0.2]))
    assert build_returns(bars).to_list()[:2] == pytest.approx([0.5, -0.2])
    assert build_returns(bars).isna().to_list() == [False, False, True, True]


@pytest.mark.parametrize("window", ["expanding", "rolling"])
def test_folds_cover_the_test_days_once_behind_an_embargo(window):
    recipe = Recipe(window=window, train_days=400, test_days=100, embargo_days=7)
    ranges = folds(1437, recipe)
    tested = [day for _, test in ranges for day in range(test.start, test.stop)]
    assert tested == list(range(407, 1437))
    for train, test in ranges:
        assert test.start - train.stop == 7
        assert train.start == (train.stop - 400 if window == "rolling" else 0)


def test_too_few_bars():
    with pytest.raises(NotEnoughBars, match="504 usable days, but the windows need 505"):
        folds(504, SMALL)


def test_an_embargo_shorter_than_the_label_is_refused():
    with pytest.raises(ValueError, match="embargo_days"):
        Recipe(embargo_days=1)


def test_predictions_do_not_know_the_future(momentum):
    known = walk_forward(momentum, SMALL, 5.0)
    changed = momentum.copy()
    changed.iloc[900:] *= np.linspace(1, 9, 600)[:, None]
    seen = walk_forward(changed, SMALL, 5.0)
    before = known.index < momentum.index[900]
    assert (known["probability"][before] == seen["probability"][before]).all()
    assert (known["probability"][~before] != seen["probability"][~before]).any()


def test_costs_reduce_returns_exactly():
    position = pd.Series([1.0, 1.0, 0.0, -1.0, 1.0])
    market = pd.Series([0.01, -0.02, 0.03, 0.01, 0.02])
    daily = net_returns(position, market, cost_bps=10)
    assert daily["turnover"].to_list() == [1, 0, 1, 1, 2]
    assert daily["net"].to_list() == pytest.approx([0.009, -0.02, -0.001, -0.011, 0.018])
    assert (net_returns(position, market, 0)["net"] == daily["gross"]).all()


def test_performance_by_hand():
    daily = net_returns(pd.Series([1.0, 1.0, 0.0, 1.0]), pd.Series([0.1, -0.5, 0.3, 0.2]), cost_bps=0)
    result = performance(daily)
    assert result["max_drawdown"] == pytest.approx(-0.5)
    assert result["annual_return"] == pytest.approx((1.1 * 0.5 * 1.2) ** (252 / 4) - 1)
    assert result["sharpe"] == pytest.approx(np.mean([0.1, -0.5, 0, 0.2]) / np.std([0.1, -0.5, 0, 0.2]) * 252**0.5)
    assert result["hit_rate"] == pytest.approx(2 / 3)
    assert result["annual_turnover"] == pytest.approx(3 * 252 / 4)
    assert result["exposure"] == 0.75


def test_a_loss_on_the_first_day_is_a_drawdown():
    daily = net_returns(pd.Series([1.0, 1.0]), pd.Series([-0.2, 0.1]), cost_bps=0)
    assert performance(daily)["max_drawdown"] == pytest.approx(-0.2)


@pytest.mark.parametrize("model", ["logistic", "gradient_boosting"])
def test_a_known_signal_is_found(momentum, model):
    recipe = Recipe(model=model, train_days=400, test_days=500, inverse_regularization=1.0, max_iter=15)
    metrics = evaluate(walk_forward(momentum, recipe, 5.0), 5.0)
    assert metrics["oos_auc"] > 0.7
    assert metrics["oos_log_loss"] < metrics["oos_log_loss_base_rate"]
    assert metrics["strategy_sharpe"] > metrics["buy_and_hold_sharpe"] + 1
    assert metrics["strategy_annual_turnover"] > 0


def test_noise_is_not_taken_for_a_signal(noise):
    results = walk_forward(noise, SMALL, 5.0)
    metrics = evaluate(results, 5.0)
    assert 0.45 < metrics["oos_auc"] < 0.55
    assert confidence_of_improvement(results["net"].to_numpy(), np.zeros(len(results))) < 0.9


def test_higher_costs_never_help(momentum):
    cheap, dear = (evaluate(walk_forward(momentum, SMALL, bps), bps) for bps in (0.0, 50.0))
    assert dear["strategy_annual_return"] < cheap["strategy_annual_return"]
    assert dear["oos_log_loss"] == cheap["oos_log_loss"]


def test_short_positions_only_when_allowed(momentum):
    both_ways = Recipe(train_days=400, test_days=100, allow_short=True)
    assert set(walk_forward(momentum, SMALL, 5.0)["position"]) == {0, 1}
    assert set(walk_forward(momentum, both_ways, 5.0)["position"]) == {-1, 1}


def test_confidence_is_paired_and_repeatable():
    rng = np.random.default_rng(3)
    shared, edge = rng.normal(0, 0.02, 1000), 0.0005
    assert confidence_of_improvement(shared + edge, shared) == 1.0
    assert confidence_of_improvement(shared, shared) == 0.0
    other = rng.normal(0, 0.02, 1000)
    assert confidence_of_improvement(shared, other) == confidence_of_improvement(shared, other)


def test_a_recipe_survives_its_json():
    recipe = Recipe(model="gradient_boosting", min_edge=0.02)
    assert Recipe.from_json(recipe.to_json()) == recipe
    with pytest.raises(ValueError, match="other features"):
        Recipe.from_json(recipe.to_json().replace("rsi_14", "rsi_21"))
    with pytest.raises(ValueError, match="other settings"):
        Recipe.from_json(recipe.to_json().replace("min_edge", "threshold"))


def test_training_uses_only_days_whose_outcome_is_known(momentum):
    features, returns = training_table(momentum)
    assert (features.index[0], features.index[-1]) == (momentum.index[60], momentum.index[-3])
    assert fit(SMALL, features, returns).predict_proba(features).shape == (len(features), 2)
