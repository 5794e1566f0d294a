"""Packing: exact inverse, the documented size, and refusals."""

import pytest
import torch

from quantbooth.quant.format import BITS, pack, packed_width, unpack


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 36, 63, 144, 1001])
def test_unpack_is_the_inverse_of_pack(bits: int, n: int) -> None:
    generator = torch.Generator().manual_seed(bits * 1000 + n)
    codes = torch.randint(0, 2**bits, (5, n), dtype=torch.uint8, generator=generator)
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (5, packed_width(bits, n))
    assert torch.equal(unpack(packed, bits, n), codes)


@pytest.mark.parametrize("bits", BITS)
def test_every_bit_of_a_byte_is_used(bits: int) -> None:
    for n in range(1, 200):
        spare = 8 * packed_width(bits, n) - n * bits
        assert 0 <= spare < (8 if bits != 3 else 16)
        assert n % 8 or spare == 0


def test_the_layout_is_the_documented_one() -> None:
    assert pack(torch.tensor([[1, 2, 3, 4]], dtype=torch.uint8), 4).tolist() == [[1 | 3 << 4, 2 | 4 << 4]]
    assert pack(torch.tensor([[1, 2, 3, 0, 1]], dtype=torch.uint8), 2).tolist() == [[1 | 3 << 2 | 1 << 4, 2]]
    eight = torch.arange(8, dtype=torch.uint8)[None]
    assert pack(eight, 3).tolist() == [[0 | 2 << 2 | 0 << 4 | 2 << 6, 1 | 3 << 2 | 1 << 4 | 3 << 6, 0b11110000]]
    assert torch.equal(pack(eight, 8), eight)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_refuses_codes_out_of_range(bits: int) -> None:
    codes = torch.zeros(2, 4, dtype=torch.uint8)
    codes[1, 3] = 2**bits
    with pytest.raises(ValueError, match=rf"codes of {bits} bits must be in \[0, {2**bits - 1}\], got {2**bits}"):
        pack(codes, bits)


@pytest.mark.usefixtures("unchecked")
def test_refuses_codes_of_another_type_or_shape() -> None:
    with pytest.raises(ValueError, match=r"uint8 matrix \[out, n\], got torch.int64"):
        pack(torch.zeros(2, 4, dtype=torch.int64), 4)
    with pytest.raises(ValueError, match=r"of shape \(8,\)"):
        pack(torch.zeros(8, dtype=torch.uint8), 4)


@pytest.mark.parametrize("bits", BITS)
def test_refuses_rows_of_the_wrong_length(bits: int) -> None:
    packed = pack(torch.zeros(2, 16, dtype=torch.uint8), bits)
    with pytest.raises(ValueError, match=rf"32 codes of {bits} bits must fill uint8 \[out, {4 * bits}\]"):
        unpack(packed, bits, 32)
