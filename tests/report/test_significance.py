"""Every statistic against a worked example or the package that defines it."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import f1_score, recall_score
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.multitest import multipletests

from merit_modules.evaluation.metrics.attributes import attribute_scores
from merit_modules.evaluation.metrics.classification import (
    classification_scores,
)
from merit_modules.report.significance.bootstrap import Bootstrap, units_of
from merit_modules.report.significance.comparison import Comparison, holm
from merit_modules.report.significance.paired_tests import (
    mcnemar,
    random_subsets,
    subset_t_test,
    wilcoxon,
)
from merit_modules.report.significance.permutation import permute_units
from merit_modules.report.significance.scores import (
    DECISION_SCORES,
    concordance,
    confusions,
    f1_macro,
    mean,
    moments,
    sums,
    uar,
)


def decisions(n=800, n_speakers=20, skill=0.6, seed=0):
    """Labels, predictions and speakers of a classifier with some skill."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    right = rng.uniform(size=n) < skill
    predictions = np.where(right, labels, rng.integers(0, 4, n))
    return labels, predictions, np.arange(n) % n_speakers


# ---- scores -----------------------------------------------------------------


def test_concordance_is_that_of_the_results():
    rng = np.random.default_rng(0)
    x, speakers = rng.uniform(1, 7, 90), np.arange(90) % 9
    y = x + rng.normal(0.5, 1.0, 90)
    table = moments(x, y, speakers)
    assert table.shape == (9, 6)
    expected = attribute_scores(x[:, None], y[:, None], ["v"])["ccc_v"]
    assert concordance(table.sum(axis=0)) == pytest.approx(expected)
    mine = speakers == 4
    expected = attribute_scores(x[mine][:, None], y[mine][:, None], ["v"])
    assert concordance(table)[4] == pytest.approx(expected["ccc_v"])
    same = moments([2.0, 2.0], [2.0, 2.0], [0, 0])
    assert concordance(same).tolist() == [0.0]


def test_scores_are_those_of_the_results():
    labels, predictions, speakers = decisions()
    table = confusions(labels, predictions, speakers, 4)
    whole = classification_scores(predictions, labels, list("abcd"))
    for name, score in DECISION_SCORES.items():
        assert score(table.sum(axis=0)) == pytest.approx(whole[name])
    assert f1_macro(table).shape == (20,)
    assert f1_macro(table)[3] == pytest.approx(
        f1_score(
            labels[speakers == 3], predictions[speakers == 3], average="macro"
        )
    )
    assert uar(table)[3] == pytest.approx(
        recall_score(
            labels[speakers == 3], predictions[speakers == 3], average="macro"
        )
    )


def test_an_absent_class_has_no_f1():
    table = confusions([0, 0, 1], [0, 0, 1], [0, 0, 0], n_classes=4)
    assert f1_macro(table[0]) == uar(table[0]) == 1.0
    whole = classification_scores([0, 0, 2], [0, 0, 1], list("abcd"))
    table = confusions([0, 0, 1], [0, 0, 2], [0, 0, 0], n_classes=4)
    assert f1_macro(table[0]) == pytest.approx(whole["f1_macro"])


# ---- bootstrap --------------------------------------------------------------


def test_interval_of_a_mean_agrees_with_scipy():
    values = np.random.default_rng(1).gamma(2.0, size=200)
    ours = Bootstrap(200, n_resamples=20000, seed=0).interval(
        mean, [sums(values, np.arange(200))]
    )
    theirs = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=20000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.score == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.05 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.05 * width)


def test_a_resample_is_a_test_set_made_of_its_speakers():
    labels, predictions, speakers = decisions(n=120, n_speakers=6)
    boot = Bootstrap(6, n_resamples=5, seed=3)
    table = confusions(labels, predictions, speakers, 4)
    found = boot.scores(f1_macro, [table])
    for counts, score in zip(boot.counts, found):
        rows = np.concatenate(
            [
                np.flatnonzero(speakers == speaker)
                for speaker in range(6)
                for _ in range(int(counts[speaker]))
            ]
        )
        assert score == pytest.approx(
            f1_score(labels[rows], predictions[rows], average="macro")
        )


def test_speakers_that_differ_make_the_interval_wide():
    rng = np.random.default_rng(0)
    speakers = np.arange(2000) % 20
    values = rng.normal(size=20)[speakers] + 0.1 * rng.normal(size=2000)
    by_speaker = Bootstrap(20, seed=0).interval(mean, [sums(values, speakers)])
    by_row = Bootstrap(2000, 2000, seed=0).interval(
        mean, [sums(values, np.arange(2000))]
    )
    assert by_speaker.high - by_speaker.low > 5 * (by_row.high - by_row.low)


def test_the_mean_over_conditions_is_drawn_jointly():
    labels, predictions, speakers = decisions()
    tables = [
        confusions(labels[part], predictions[part], speakers[part], 4)
        for part in (slice(0, 400), slice(400, 800))
    ]
    boot = Bootstrap(20, n_resamples=100, seed=0)
    found = boot.scores(f1_macro, tables)
    each = [boot.scores(f1_macro, [table]) for table in tables]
    np.testing.assert_allclose(found, np.mean(each, axis=0))


@settings(max_examples=20)
@given(st.randoms(use_true_random=False))
def test_the_order_of_utterances_does_not_matter(random):
    labels, predictions, speakers = decisions(n=60, n_speakers=5)
    order = list(range(60))
    random.shuffle(order)
    found = [
        Bootstrap(5, 200, seed=1).interval(
            f1_macro,
            [confusions(labels[rows], predictions[rows], speakers[rows], 4)],
        )
        for rows in (slice(None), order)
    ]
    assert found[0] == found[1]


def test_the_bootstrap_rejects_as_often_as_it_should():
    rejected = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        gains = rng.normal(size=40)
        found = Bootstrap(40, 500, seed=seed).compare(
            mean,
            [sums(gains, np.arange(40))],
            [sums(np.zeros(40), np.arange(40))],
            40,
        )
        rejected += found.p_value < 0.05
    assert 2 <= rejected <= 24  # 5 % of 200 is 10


# ---- permutation ------------------------------------------------------------


def test_a_permutation_tries_every_swap_of_speakers():
    labels, ours, speakers = decisions(120, 6, skill=0.7)
    _, theirs, _ = decisions(120, 6, skill=0.4)
    a = confusions(labels, ours, speakers, 4)
    b = confusions(labels, theirs, speakers, 4)
    differences = []
    for swapped in itertools.product([False, True], repeat=6):
        swap = np.array(swapped)[:, None, None]
        one, other = np.where(swap, b, a), np.where(swap, a, b)
        differences.append(f1_macro(one.sum(0)) - f1_macro(other.sum(0)))
    observed = differences[0]
    as_much = np.mean(np.array(differences) >= observed - 1e-12)
    found = permute_units(f1_macro, [a], [b], 120)
    assert found.difference == pytest.approx(observed)
    assert found.p_value == pytest.approx(min(1, 2 * as_much))
    assert (found.n, found.n_units) == (120, 6)
    # Two conditions: one swap for both. Speakers of other folds: no swap.
    twice = permute_units(f1_macro, [a, a], [b, b], 240)
    assert twice.p_value == found.p_value
    gap = np.zeros((2, 4, 4))
    wider = permute_units(
        f1_macro, [np.vstack([a, gap])], [np.vstack([b, gap])], 120
    )
    assert (wider.p_value, wider.n_units) == (found.p_value, 6)


def test_a_permutation_agrees_with_a_t_test_of_many_speakers():
    rng = np.random.default_rng(0)
    gains, units = rng.normal(0.3, 1.0, 60), np.arange(60)
    found = permute_units(
        mean, [sums(gains, units)], [sums(np.zeros(60), units)], 60
    )
    expected = stats.ttest_1samp(gains, 0).pvalue
    assert found.p_value == pytest.approx(expected, abs=0.01)


def test_with_few_speakers_a_permutation_is_valid_where_the_bootstrap_is_not():
    units = np.arange(6)
    rejected = {"bootstrap": 0, "permutation": 0}
    for seed in range(150):
        gains = np.random.default_rng(seed).normal(size=6)
        pair = [sums(gains, units)], [sums(np.zeros(6), units)]
        for found in (
            Bootstrap(6, 400, seed=seed).compare(mean, *pair, 6),
            permute_units(mean, *pair, 6),
        ):
            rejected[found.test] += found.p_value < 0.05
    assert rejected["permutation"] <= 15 < rejected["bootstrap"]


# ---- the same, and not the same ---------------------------------------------


def all_tests(system, baseline, labels, speakers):
    """Every test of decisions, on the predictions of two systems."""
    units = random_subsets(len(labels), 40, seed=0)
    yield subset_t_test(
        f1_macro,
        confusions(labels, system, units, 4),
        confusions(labels, baseline, units, 4),
        len(labels),
    )
    yield Bootstrap(20, 2000, seed=0).compare(
        f1_macro,
        [confusions(labels, system, speakers, 4)],
        [confusions(labels, baseline, speakers, 4)],
        len(labels),
    )
    yield permute_units(
        f1_macro,
        [confusions(labels, system, speakers, 4)],
        [confusions(labels, baseline, speakers, 4)],
        len(labels),
    )
    yield mcnemar(labels, system, baseline)
    yield wilcoxon(
        (system == labels).astype(float), (baseline == labels).astype(float)
    )


def test_identical_systems_do_not_differ():
    labels, predictions, speakers = decisions()
    for found in all_tests(predictions, predictions, labels, speakers):
        assert found.difference == 0
        assert found.p_value == 1, found.test
        if found.low is not None:
            assert found.low == found.high == 0


def test_a_planted_difference_is_found():
    labels, baseline, speakers = decisions()
    rng = np.random.default_rng(2)
    system = np.where(rng.uniform(size=800) < 0.3, labels, baseline)
    for found in all_tests(system, baseline, labels, speakers):
        assert found.difference > 0
        assert found.p_value < 0.01, found.test
        if found.low is not None:
            assert 0 < found.low < found.difference < found.high
    for found in all_tests(baseline, system, labels, speakers):
        assert found.difference < 0 and found.p_value < 0.01


# ---- one by one -------------------------------------------------------------


def test_subsets_are_random_even_and_repeatable():
    units = random_subsets(103, 40, seed=5)
    assert set(np.bincount(units)) == {2, 3}
    assert (units == random_subsets(103, 40, seed=5)).all()
    assert (units != random_subsets(103, 40, seed=6)).any()
    with pytest.raises(ValueError, match="at least 40 .* got 39"):
        random_subsets(39, 40)


def test_subset_test_is_a_t_test_over_the_subsets():
    rng = np.random.default_rng(0)
    system, baseline = rng.normal(size=(2, 400))
    units = random_subsets(400)
    ours, theirs = (
        np.array([values[units == unit].mean() for unit in range(40)])
        for values in (system, baseline)
    )
    tables = sums(system, units), sums(baseline, units)
    found = subset_t_test(mean, *tables, 400)
    assert found.p_value == pytest.approx(stats.ttest_rel(ours, theirs).pvalue)
    found = subset_t_test(mean, *tables, 400, is_paired=False)
    assert found.p_value == pytest.approx(stats.ttest_ind(ours, theirs).pvalue)


def test_mcnemar_exact_and_with_chi_square():
    # Agresti's ratings of a prime minister: 150 and 86 changed their mind.
    labels = np.ones(1600, dtype=int)
    first = np.r_[np.ones(794), np.ones(150), np.zeros(86), np.zeros(570)]
    second = np.r_[np.ones(794), np.zeros(150), np.ones(86), np.zeros(570)]
    found = mcnemar(labels, first.astype(int), second.astype(int))
    assert found.n_units == 236
    assert found.p_value == pytest.approx(
        stats.chi2.sf((150 - 86 - 1) ** 2 / 236, df=1)
    )
    assert found.p_value == pytest.approx(
        their_mcnemar([[794, 150], [86, 570]], exact=False).pvalue
    )
    # Ten against two: twice the binomial tail of 12 tosses.
    found = mcnemar([1] * 12, [1] * 10 + [0] * 2, [0] * 10 + [1] * 2)
    tail = sum(stats.binom.pmf(k, 12, 0.5) for k in (0, 1, 2))
    assert found.p_value == pytest.approx(2 * tail)


def test_wilcoxon_is_scipy_s():
    system, baseline = np.random.default_rng(0).normal(size=(2, 50))
    found = wilcoxon(system, baseline)
    assert found.p_value == stats.wilcoxon(system, baseline).pvalue
    assert found.difference == pytest.approx((system - baseline).mean())
    with pytest.raises(ValueError, match="system: expected finite"):
        wilcoxon([1.0, np.nan], [1.0, 2.0])


@pytest.mark.slow
def test_holm_worked_example():
    family = [
        Comparison("t", 0.0, p, 9, 9) for p in (0.01, 0.02, 0.03, 0.005, 1.0)
    ]
    adjusted = [round(c.p_value, 6) for c in holm(family)]
    # 0.005 * 5, 0.01 * 4, 0.02 * 3, 0.03 * 2 but not below the one before.
    assert adjusted == [0.04, 0.06, 0.06, 0.025, 1.0]
    assert holm([]) == []


@settings(max_examples=20)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_that_of_statsmodels(p_values):
    found = holm([Comparison("t", 0.0, p, 9, 9) for p in p_values])
    _, expected, _, _ = multipletests(p_values, method="holm")
    assert [c.p_value for c in found] == pytest.approx(expected)


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="predictions: expected 2 values"):
        confusions([0, 1], [0], [0, 0], 2)
    with pytest.raises(ValueError, match="labels: expected classes from 0 to"):
        confusions([0, 2], [0, 0], [0, 0], 2)
    with pytest.raises(ValueError, match="values: expected shape"):
        sums([], [])
    with pytest.raises(ValueError, match="at least one unit"):
        Bootstrap(0)
    assert units_of(["b", "a", "b"]).tolist() == [1, 0, 1]
