from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from correlator.joins.attribution import (
    ATTENTION,
    DENSE,
    DUMMY,
    PADDING,
    READ_COST,
    SAMPLING,
    Measured,
    Owners,
    Shares,
    allocate,
    share,
)

amounts = st.integers(0, 10**15)
weights_ = st.lists(st.integers(0, 10**9), min_size=1, max_size=40)
segments = st.lists(st.tuples(amounts, weights_), min_size=1, max_size=12)
Member = tuple[int, int, int]
members = st.lists(st.tuples(st.integers(1, 4096), st.integers(0, 200_000), st.integers(0, 8)), min_size=1, max_size=9)


def ints(values: list[int]) -> np.ndarray:
    return np.array(values, np.int64)


def share_out(batch: list[Member], kind: int, kernel_ns: int, identities: list[int] | None = None) -> Shares:
    count = len(batch)
    owners = Owners(
        ints([0, count]),
        ints(identities or list(range(count))),
        *(ints([m[i] for m in batch]) for i in range(3)),
        np.zeros(count, np.int8),
    )
    one = ints([0])
    measured = Measured(
        one, one, ints([kind]), ints([kernel_ns]), ints([kernel_ns // 2]), ints([7]), np.zeros(1, np.int8)
    )
    return next(share(owners, measured))


@given(segments)
def test_parts_sum_to_each_total_exactly(given_: list[tuple[int, list[int]]]) -> None:
    offsets = np.concatenate([[0], np.cumsum([len(w) for _, w in given_])]).astype(np.int64)
    parts = allocate(ints([t for t, _ in given_]), ints([x for _, w in given_ for x in w]), offsets)
    for i, (total, weights) in enumerate(given_):
        mine = parts[offsets[i] : offsets[i + 1]]
        assert mine.sum() == (total if sum(weights) else 0)
        assert (mine >= 0).all()
        assert all(part == 0 for part, weight in zip(mine, weights, strict=True) if weight == 0)


@given(st.integers(0, 10**12), weights_)
def test_each_part_is_within_one_of_its_exact_quota(total: int, weights: list[int]) -> None:
    parts = allocate(ints([total]), ints(weights), ints([0, len(weights)]))
    whole = sum(weights)
    for part, weight in zip(parts.tolist(), weights, strict=True):
        assert whole == 0 or abs(part * whole - total * weight) < whole


def test_the_largest_remainders_get_the_nanoseconds_left_over_and_ties_go_to_the_first() -> None:
    assert allocate(ints([10]), ints([3, 3, 3]), ints([0, 3])).tolist() == [4, 3, 3]
    assert allocate(ints([10]), ints([1, 5, 3]), ints([0, 3])).tolist() == [1, 6, 3]  # 1.1, 5.6, 3.3


def test_weights_too_large_for_products_in_64_bits_are_shared_exactly() -> None:
    huge = 2**61
    assert allocate(ints([10**15 + 1]), ints([huge, huge, 0]), ints([0, 3])).tolist() == [5 * 10**14 + 1, 5 * 10**14, 0]


@given(members, st.sampled_from([DENSE, ATTENTION, SAMPLING]), st.integers(0, 10**9))
def test_shares_of_a_step_conserve_kernel_time_busy_time_and_energy(batch: list[Member], kind: int, time: int) -> None:
    shares = share_out(batch, kind, time)
    assert (shares.share_ns.sum(), shares.busy_ns.sum(), shares.energy_nj.sum()) == (time, time // 2, 7)


@given(members, st.sampled_from([DENSE, ATTENTION]), st.integers(0, 10**9))
def test_equal_members_get_equal_shares_within_a_nanosecond(batch: list[Member], kind: int, time: int) -> None:
    shares = share_out([*batch, batch[0]], kind, time).share_ns
    assert abs(int(shares[0] - shares[-1])) <= 1


@given(members, st.integers(0, 10**9))
def test_who_sampled_nothing_pays_nothing_for_sampling(batch: list[Member], time: int) -> None:
    shares = share_out([*batch, (5, 5, 0), (1, 9, 1)], SAMPLING, time).share_ns
    assert shares[-2] == 0


@given(members, st.sampled_from([DENSE, ATTENTION, SAMPLING]), st.integers(0, 10**9))
def test_steps_shared_together_or_alone_get_the_same_shares(batch: list[Member], kind: int, time: int) -> None:
    alone = share_out(batch, kind, time).share_ns
    count = len(batch)
    columns = [ints([m[i] for m in batch] * 2) for i in range(3)]
    owners = Owners(ints([0, count, 2 * count]), ints([*range(count)] * 2), *columns, np.zeros(2 * count, np.int8))
    measured = Measured(
        ints([1, 0]), ints([0, 0]), ints([kind] * 2), ints([time] * 2), ints([0, 0]), ints([0, 0]), np.zeros(2, np.int8)
    )
    both = next(share(owners, measured))
    assert both.share_ns[:count].tolist() == both.share_ns[count:].tolist() == alone.tolist()


@given(members, st.integers(0, 10**8))
def test_twice_the_time_is_twice_the_shares_within_a_nanosecond(batch: list[Member], time: int) -> None:
    once, twice = share_out(batch, DENSE, time).share_ns, share_out(batch, DENSE, 2 * time).share_ns
    assert (np.abs(twice - 2 * once) <= 2).all()


@given(members, st.integers(0, 10**9))
def test_two_requests_joined_pay_what_both_paid(batch: list[Member], time: int) -> None:
    apart = share_out([*batch, (10, 0, 1), (7, 3, 1)], DENSE, time).share_ns
    joined = share_out([*batch, (17, 0, 2)], DENSE, time).share_ns
    assert abs(int(apart[-2:].sum() - joined[-1])) <= 2


def test_padded_rows_pay_for_dense_work_and_never_for_attention() -> None:
    batch, names = [(24, 0, 0), (1, 100, 1), (1, 100, 1)], [PADDING, 0, 1]
    assert share_out(batch, DENSE, 2600, names).share_ns.tolist() == [2400, 100, 100]
    assert share_out(batch, ATTENTION, 2600, names).share_ns.tolist() == [0, 1300, 1300]


def test_a_dummy_step_pays_for_itself() -> None:
    for kind in (DENSE, ATTENTION, SAMPLING):
        assert share_out([(1, 0, 0)], kind, 977, [DUMMY]).share_ns.tolist() == [977]


def test_attention_weighs_a_decode_by_its_context_and_a_prefill_by_its_products() -> None:
    decode, prefill = 2 * READ_COST * 1001, 2048 * (2048 + 1)
    shares = share_out([(1, 1000, 1), (2048, 0, 1)], ATTENTION, decode + prefill).share_ns
    assert shares.tolist() == [decode, prefill]


def test_a_class_without_weights_falls_back_to_tokens_and_says_so() -> None:
    shares = share_out([(3, 0, 0), (1, 0, 0)], SAMPLING, 400)
    assert shares.share_ns.tolist() == [300, 100]
    assert not shares.by_class.any()


@settings(max_examples=20, deadline=None)
@given(st.lists(members, min_size=1, max_size=30), st.integers(1, 10**7), st.integers(1, 50))
def test_cutting_the_work_into_pieces_changes_nothing(steps: list[list[Member]], time: int, rows: int) -> None:
    from correlator.joins import attribution

    offsets = np.concatenate([[0], np.cumsum([len(s) for s in steps])]).astype(np.int64)
    flat = [m for s in steps for m in s]
    owners = Owners(
        offsets, np.arange(len(flat)), *(ints([m[i] for m in flat]) for i in range(3)), np.zeros(len(flat), np.int8)
    )
    every = np.arange(len(steps), dtype=np.int64)
    measured = Measured(
        every, every, every % 3, every * 0 + time, every * 0 + time, every * 0, np.zeros(len(steps), np.int8)
    )
    whole = next(share(owners, measured)).share_ns.tolist()
    before, attribution._ROWS_AT_ONCE = attribution._ROWS_AT_ONCE, rows
    try:
        pieces = list(share(owners, measured))
    finally:
        attribution._ROWS_AT_ONCE = before
    assert [x for p in pieces for x in p.share_ns.tolist()] == whole
    assert [x for p in pieces for x in p.measured.tolist()] == np.repeat(every, np.diff(offsets)).tolist()
