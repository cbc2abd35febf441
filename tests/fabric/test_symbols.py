import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.errors import SymbolsFullError
from fabric.symbols import SymbolTable

NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=16)


def test_a_new_table_knows_the_empty_symbol_as_0() -> None:
    table = SymbolTable(4)
    assert (len(table), table.find(""), table.name(0), table.names()) == (1, 0, "", [""])


def test_ids_are_given_in_the_order_of_meeting_and_kept() -> None:
    table = SymbolTable(8)
    assert [table.intern(name) for name in ("AAPL", "BRK.B", "AAPL", "A")] == [1, 2, 1, 3]
    assert table.names() == ["", "AAPL", "BRK.B", "A"]


def test_a_name_that_was_not_met_is_not_learnt_by_looking() -> None:
    table = SymbolTable(8)
    assert table.find("AAPL") == -1
    assert len(table) == 1


@pytest.mark.parametrize("name", ["12345678", "123456789", "1234567890123456"])
def test_names_up_to_sixteen_bytes_fit(name: str) -> None:
    table = SymbolTable(4)
    assert table.name(table.intern(name)) == name


@pytest.mark.parametrize("name", ["12345678901234567", "é" * 9])
def test_a_longer_name_is_never_found(name: str) -> None:
    table = SymbolTable(4)
    table.intern("1234567890123456")
    assert table.find(name) == -1


def test_a_name_that_is_too_long_is_refused_and_counted() -> None:
    table = SymbolTable(4)
    with pytest.raises(SymbolsFullError, match="12345678901234567"):
        table.intern("12345678901234567")
    assert (len(table), table.refused) == (1, 1)


def test_a_full_table_refuses_new_names_and_still_knows_the_old() -> None:
    table = SymbolTable(3)
    table.intern("A")
    table.intern("B")
    with pytest.raises(SymbolsFullError, match="holds 3 names"):
        table.intern("C")
    assert (table.refused, table.intern("A"), table.find("C")) == (1, 1, -1)


@given(st.lists(NAMES, max_size=60), NAMES)
def test_the_table_is_a_dict_from_name_to_number(names: list[str], other: str) -> None:
    table = SymbolTable(64)
    twin = {"": 0}
    for name in names:
        assert table.intern(name) == twin.setdefault(name, len(twin))
    assert table.names() == list(twin)
    assert table.find(other) == twin.get(other, -1)


def test_names_that_share_their_first_or_last_bytes_are_told_apart() -> None:
    table = SymbolTable(5_001)
    names = [f"PREFIX{i:04d}SUFFIX" for i in range(5_000)]
    assert [table.intern(name) for name in names] == list(range(1, 5_001))
    assert [table.find(name) for name in names] == list(range(1, 5_001))
