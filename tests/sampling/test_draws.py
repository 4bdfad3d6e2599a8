"""Laws of the draws: words, the order of examples, masks of a design."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dropreg as dr
from dropreg._utils._draws import examples_of_rows, random_words

seeds = st.integers(0, 2**64 - 1)
chunk_numbers = st.integers(0, 2**40)
small = st.integers(1, 40)
rates = st.floats(0.02, 0.98)


@given(seeds, chunk_numbers, st.integers(0, 3), st.integers(0, 200), st.integers(0, 200))
def test_words_are_a_prefix_of_more_words(seed: int, chunk: int, stream: int, count: int, more: int) -> None:
    words = random_words(seed, chunk, stream, count)
    assert words.dtype == np.uint32
    assert len(words) == count
    np.testing.assert_array_equal(words, random_words(seed, chunk, stream, count + more)[:count])


@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 2**63]), st.integers(0, 5), st.integers(0, 1)), min_size=2, unique=True)
)
def test_words_differ_by_seed_chunk_and_stream_whatever_the_order(keys: list[tuple[int, int, int]]) -> None:
    drawn = {key: random_words(*key, 100).tolist() for key in keys}
    assert len({tuple(words) for words in drawn.values()}) == len(keys)
    for key in reversed(keys):
        assert random_words(*key, 100).tolist() == drawn[key]


@pytest.mark.parametrize(("seed", "chunk", "stream"), [(0, 0, 0), (7, 0, 1), (2**64 - 1, 3, 0)])
def test_words_are_uniform(seed: int, chunk: int, stream: int) -> None:
    words = random_words(seed, chunk, stream, 2**16)
    bits = np.unpackbits(words.view(np.uint8)).reshape(len(words), 32)
    np.testing.assert_allclose(bits.mean(axis=0), 0.5, atol=5 * 0.5 / np.sqrt(len(words)))
    correlations = np.corrcoef(bits.T) - np.eye(32)
    assert np.abs(correlations).max() < 6 / np.sqrt(len(words))


def test_words_do_not_change_between_versions() -> None:
    """Records of earlier versions are read by drawing their masks again."""
    assert random_words(0, 0, 0, 3).tolist() == [149215387, 49592932, 2628306354]
    assert random_words(1, 2, 1, 3).tolist() == [2592942375, 2470896546, 1156975250]


@given(seeds, st.integers(0, 500), st.integers(0, 200), small)
def test_rows_use_examples_equally_often(seed: int, first: int, count: int, n_examples: int) -> None:
    examples = examples_of_rows(seed, 0, first + count, n_examples)
    counts = np.bincount(examples, minlength=n_examples)
    assert len(counts) == n_examples
    assert counts.max() - counts.min() <= 1
    np.testing.assert_array_equal(examples_of_rows(seed, first, count, n_examples), examples[first:])


@given(seeds, small)
def test_every_epoch_is_a_permutation(seed: int, n_examples: int) -> None:
    epochs = examples_of_rows(seed, 0, 4 * n_examples, n_examples).reshape(4, n_examples)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.arange(n_examples)[None].repeat(4, axis=0))


@given(seeds)
def test_every_epoch_has_an_order_of_its_own(seed: int) -> None:
    epochs = examples_of_rows(seed, 0, 400, 100).reshape(4, 100)
    assert len({tuple(order) for order in epochs.tolist()}) == 4
    assert not np.array_equal(epochs[0], np.arange(100))
    assert not np.array_equal(epochs[0], examples_of_rows(seed ^ 1, 0, 100, 100))


def test_order_of_examples_is_uniform() -> None:
    """Over many seeds every example is equally often first, and last."""
    orders = np.array([examples_of_rows(seed, 0, 5, 5) for seed in range(5000)])
    for place in (0, 4):
        np.testing.assert_allclose(np.bincount(orders[:, place]) / 5000, 0.2, atol=6 * np.sqrt(0.16 / 5000))


@given(seeds, chunk_numbers, rates)
def test_one_rate_is_realized(seed: int, chunk: int, rate: float) -> None:
    masks = dr.designs.Bernoulli(rate).draw(seed, chunk, 500, 20)
    assert masks.dtype == np.bool_
    assert masks.shape == (500, 20)
    assert 1 - masks.mean() == pytest.approx(rate, abs=7 * np.sqrt(rate * (1 - rate) / masks.size))


@given(seeds, st.lists(rates, min_size=1, max_size=10))
def test_rates_of_ones_own_are_realized(seed: int, rate: list[float]) -> None:
    design = dr.designs.Bernoulli(tuple(rate))
    masks = design.draw(seed, 0, 4000, len(rate))
    expected = np.array(rate)
    assert (np.abs(1 - masks.mean(axis=0) - expected) <= 7 * np.sqrt(expected * (1 - expected) / 4000)).all()
    np.testing.assert_allclose(design.keep_probabilities(len(rate)), 1 - expected)


@pytest.mark.parametrize("rate", [1e-12, 2**-33, 1 - 2**-33, 1 - 1e-12, np.nextafter(1, 0)])
def test_extreme_rates_do_not_wrap(rate: float) -> None:
    assert (dr.designs.Bernoulli(rate).draw(0, 0, 100, 10) == (rate < 0.5)).all()


@given(seeds, chunk_numbers, rates, st.integers(0, 60), st.integers(0, 60), small)
def test_fewer_rows_are_a_prefix_of_more(
    seed: int, chunk: int, rate: float, rows: int, more: int, n_elements: int
) -> None:
    design = dr.designs.Bernoulli(rate)
    np.testing.assert_array_equal(
        design.draw(seed, chunk, rows, n_elements), design.draw(seed, chunk, rows + more, n_elements)[:rows]
    )


@given(seeds, st.lists(st.integers(0, 10**6), min_size=2, max_size=6, unique=True))
def test_chunks_differ_whatever_the_order_of_calls(seed: int, numbers: list[int]) -> None:
    design = dr.designs.Bernoulli(0.5)
    drawn = {number: design.draw(seed, number, 20, 8) for number in numbers}
    assert len({masks.tobytes() for masks in drawn.values()}) == len(numbers)
    for number in reversed(numbers):
        np.testing.assert_array_equal(design.draw(seed, number, 20, 8), drawn[number])


def test_elements_and_rows_are_independent() -> None:
    masks = dr.designs.Bernoulli(0.3).draw(5, 0, 20_000, 12)
    between_elements = np.corrcoef(masks.T) - np.eye(12)
    assert np.abs(between_elements).max() < 6 / np.sqrt(20_000)
    between_rows = np.corrcoef(masks[:-1].ravel(), masks[1:].ravel())[0, 1]
    assert abs(between_rows) < 6 / np.sqrt(masks.size)


@given(rates, rates)
def test_a_larger_rate_drops_what_a_smaller_one_drops(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert (dr.designs.Bernoulli(low).draw(0, 0, 50, 8) >= dr.designs.Bernoulli(high).draw(0, 0, 50, 8)).all()
