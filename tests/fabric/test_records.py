import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric import records
from fabric.records import CHANNELS, DTYPES, EVENT, NBBO, NULL, QUOTE, TRADE, WIDTH


@pytest.mark.parametrize("kind", DTYPES)
def test_every_kind_is_one_width_with_the_same_header(kind: int) -> None:
    dtype = DTYPES[kind]
    assert dtype.itemsize == WIDTH * 8
    assert dtype.names is not None
    assert EVENT.names is not None
    assert dtype.names[:11] == EVENT.names[:11]
    assert {dtype[name] for name in dtype.names} == {np.dtype("<i8")}


def test_every_channel_but_alerts_has_a_record() -> None:
    assert set(CHANNELS.values()) - set(DTYPES) == {records.KIND_ALERT}
    assert set(records.VENUE_CHANNELS) <= set(CHANNELS)
    assert set(records.STATE_CHANNELS) <= set(CHANNELS)


def test_empty_rows_are_undefined_but_for_who_they_are() -> None:
    rows = records.empty(2, QUOTE, records.KIND_QUOTE)
    assert rows["kind"].tolist() == [records.KIND_QUOTE] * 2
    assert rows["symbol"].tolist() == rows["venue"].tolist() == [0, 0]
    assert QUOTE.names is not None
    assert all((rows[name] == NULL).all() for name in QUOTE.names if name not in ("kind", "symbol", "venue"))


def test_no_rows_are_rows_too() -> None:
    rows = records.empty(0, TRADE)
    assert (rows.shape, rows.dtype, records.columns(rows).shape) == ((0,), TRADE, (0, WIDTH))


def test_columns_share_the_memory_of_rows() -> None:
    rows = records.empty(3, NBBO)
    assert NBBO.names is not None
    records.columns(rows)[1, NBBO.names.index("bid_px")] = 42
    assert rows["bid_px"].tolist() == [NULL, 42, NULL]


def test_a_row_of_one_kind_viewed_as_another_keeps_its_header() -> None:
    rows = records.empty(1, QUOTE, records.KIND_QUOTE)
    rows["exchange_seq"] = 9
    assert rows.view(EVENT)["exchange_seq"].item() == 9


def test_text_is_packed_with_its_first_character_lowest() -> None:
    assert records.pack("T1") == 0x3154
    assert records.pack("") == 0
    assert records.unpack(0x3154) == "T1"
    assert records.unpack(0) == records.unpack(NULL) == ""


@given(st.text(st.characters(min_codepoint=1, max_codepoint=127), max_size=8))
def test_packed_text_comes_back(text: str) -> None:
    packed = records.pack(text)
    assert packed != NULL
    assert -(2**63) <= packed < 2**63
    assert records.unpack(packed) == text


@pytest.mark.parametrize("text", ["ninechars", "é"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"8 ASCII characters|ascii"):
        records.pack(text)


def test_venue_masks_have_one_bit_a_letter() -> None:
    assert records.venue_mask("A") == 1
    assert records.venue_mask("ZA") == (1 << 25) | 1
    assert records.venue_letters(records.venue_mask("QNV")) == "NQV"
    assert records.venue_mask("VV") == records.venue_mask("V")
    assert records.venue_letters(0) == ""
