"""Means, spreads and differences, against numbers by hand."""

import math

import pytest

from tools.grid.statistics import Sample, paired


def test_a_sample_s_deviation_divides_by_one_less_than_its_values():
    sample = Sample.of([1.0, 2.0, 4.0])  # mean 7/3; squares 16/9, 1/9, 25/9
    assert sample.mean == pytest.approx(7 / 3)
    assert sample.deviation == pytest.approx(math.sqrt(42 / 9 / 2))
    assert sample.error == pytest.approx(math.sqrt(42 / 9 / 2 / 3))


def test_one_value_tells_no_error():
    sample = Sample.of([3.0])
    assert (sample.mean, sample.deviation, sample.error, sample.is_clear) == (3.0, None, None, False)


def test_no_values_are_no_sample():
    assert Sample.of([]) is None and paired({1: 1.0}, {2: 1.0}) is None


def test_a_difference_is_of_the_seeds_that_both_have():
    sample = paired({1: 10.0, 2: 12.0, 3: 99.0}, {2: 11.0, 1: 8.0, 4: 0.0})  # 2 and 1
    assert (sample.mean, sample.count) == (1.5, 2)
    assert sample.error == pytest.approx(0.5)


@pytest.mark.parametrize(("mean", "is_clear"), [(4.2, False), (4.4, True), (-4.4, True)])
def test_three_seeds_need_4_3_standard_errors(mean, is_clear):
    assert Sample(mean, math.sqrt(3), 3).is_clear is is_clear


def test_equal_differences_are_not_taken_for_certain():
    assert not Sample.of([2.0, 2.0]).is_clear
