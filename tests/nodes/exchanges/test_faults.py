"""Each fault does what it says, on the lines it is meant for, and the same for the same seed."""

import pytest

from fabric.topology import FaultSettings
from nodes.exchanges.faults import Copy, Faults

MS = 1_000_000
PACKETS = [bytes([i % 256]) * 100 + i.to_bytes(4, "big") for i in range(5_000)]


def carried(settings: FaultSettings, roles: str = "AB", seed: int = 1) -> tuple[list[list[Copy]], dict[str, int]]:
    """What each line carries of `PACKETS`, one a millisecond from time 0, and the counters."""
    faults = Faults(settings, roles, seed, 0)
    lines: list[list[Copy]] = [[] for _ in roles]
    for i, packet in enumerate(PACKETS):
        for copy in faults.copies(packet, i * MS):
            lines[copy.line].append(copy)
    return lines, faults.counters


def packets(line: list[Copy]) -> list[bytes]:
    return [copy.packet for copy in line]


def test_without_faults_every_line_carries_every_packet():
    lines, counters = carried(FaultSettings())
    assert packets(lines[0]) == packets(lines[1]) == PACKETS
    assert not any(counters.values())
    assert not any(copy.delay_ns for line in lines for copy in line)


def test_drop_loses_other_packets_on_each_line():
    (a, b), counters = carried(FaultSettings(drop=0.01))
    lost = [set(PACKETS) - set(packets(line)) for line in (a, b)]
    assert [len(line) for line in lost] == [pytest.approx(50, abs=25)] * 2
    assert len(lost[0] & lost[1]) <= 3
    assert counters["dropped"] == len(lost[0]) + len(lost[1])


def test_drop_both_loses_the_same_packets_on_every_line():
    (a, b), counters = carried(FaultSettings(drop_both=0.01, lines="A"))
    assert packets(a) == packets(b)
    assert len(PACKETS) - len(a) == pytest.approx(50, abs=25)
    assert counters["dropped"] == 2 * (len(PACKETS) - len(a))


def test_faults_are_the_same_for_the_same_seed():
    settings = FaultSettings(drop=0.1, duplicate=0.1, reorder=3, corrupt=0.1, drop_both=0.1)
    assert carried(settings) == carried(settings)
    assert carried(settings) != carried(settings, seed=2)


def test_only_the_chosen_lines_have_the_fault():
    lines, _ = carried(FaultSettings(lines="B", drop=0.5), roles="ABAB")
    assert packets(lines[0]) == packets(lines[2]) == PACKETS
    assert len(lines[1]) == pytest.approx(2_500, rel=0.1)
    assert packets(lines[1]) != packets(lines[3])


def test_duplicate_sends_twice():
    (a, _), counters = carried(FaultSettings(duplicate=0.1, lines="A"))
    assert len(a) - len(set(packets(a))) == counters["duplicated"] == pytest.approx(500, rel=0.2)
    assert sorted(set(packets(a)), key=PACKETS.index) == PACKETS


def test_reorder_lets_packets_be_overtaken_by_some_that_follow():
    (a, b), counters = carried(FaultSettings(reorder=3, lines="A"))
    assert {copy.behind for copy in a} == {0, 1, 2, 3}
    assert {copy.behind for copy in b} == {0}
    assert counters["reordered"] == sum(copy.behind > 0 for copy in a) == pytest.approx(3_750, rel=0.1)
    assert packets(a) == PACKETS


def test_corrupt_breaks_bytes_or_cuts():
    (a, b), counters = carried(FaultSettings(corrupt=0.1, lines="A"))
    broken = [(copy.packet, packet) for copy, packet in zip(a, PACKETS, strict=True) if copy.packet != packet]
    assert len(broken) == pytest.approx(counters["corrupted"], abs=3)
    assert len(broken) == pytest.approx(500, rel=0.2)
    cut = [bad for bad, good in broken if len(bad) < len(good)]
    assert len(cut) == pytest.approx(125, rel=0.4)
    assert all(sum(x != y for x, y in zip(bad, good, strict=False)) <= 4 for bad, good in broken)
    assert packets(b) == PACKETS


def test_mute_is_silence_for_its_time():
    (a, b), counters = carried(FaultSettings(lines="B", mute=True, after_ns=1_000 * MS, for_ns=500 * MS))
    assert packets(a) == PACKETS
    assert packets(b) == PACKETS[:1_000] + PACKETS[1_500:]
    assert counters["muted"] == 500


def test_flap_is_silence_every_other_time():
    (a, _), counters = carried(FaultSettings(flap_ns=100 * MS, after_ns=50 * MS))
    assert packets(a) == [packet for i, packet in enumerate(PACKETS) if i < 50 or (i - 50) // 100 % 2]
    assert counters["muted"] == 2 * (len(PACKETS) - len(a))


def test_delay_makes_line_b_later():
    lines, counters = carried(FaultSettings(delay_ns=4 * MS, lines="A"), roles="ABAB")
    assert [{copy.delay_ns for copy in line} for line in lines] == [{0}, {4 * MS}, {0}, {4 * MS}]
    assert counters["delayed"] == 2 * len(PACKETS)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (FaultSettings(), False),
        (FaultSettings(skew_ns=5, restart_ns=5, after_ns=5, for_ns=5, lines="A"), False),
        (FaultSettings(drop=0.1), True),
        (FaultSettings(mute=True), True),
        (FaultSettings(drop_both=0.1), True),
        (FaultSettings(delay_ns=1), True),
        (FaultSettings(flap_ns=1), True),
    ],
)
def test_packets_are_only_looked_at_when_one_can_meet_a_fault(settings, wanted):
    assert Faults.wanted(settings) is wanted
