"""The packed form of signed integers: lossless, without gaps, lowest bit first."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from study.errors import StudyError
from study.layers.quantised import largest, pack, packed_bytes, unpack


@st.composite
def bits_and_values(draw):
    bits = draw(st.integers(2, 8))
    q = largest(bits)
    return bits, draw(st.lists(st.integers(-q, q), max_size=40))


@given(bits_and_values())
def test_unpacking_undoes_packing(case):
    bits, values = case
    packed = pack(torch.tensor(values, dtype=torch.int64), bits)
    assert packed.dtype == torch.uint8
    assert len(packed) == packed_bytes(len(values), bits) == (len(values) * bits + 7) // 8
    assert unpack(packed, bits, len(values)).tolist() == values


def test_three_values_of_three_bits_by_hand():
    # -3, 0, 3 are 0, 3, 6: bits 000 110 011, lowest first, in two bytes 00011001 1.
    assert pack(torch.tensor([-3, 0, 3]), 3).tolist() == [0b10011000, 0b1]


@pytest.mark.parametrize(("value", "bits"), [(2, 2), (-128, 8), (-8, 4)])
def test_a_value_that_does_not_fit_is_refused(value, bits):
    with pytest.raises(StudyError, match=f"values of {bits} bits must lie from .* but one is"):
        pack(torch.tensor([0, value]), bits)
