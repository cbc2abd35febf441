"""The slow, obvious twin of `fabric.digest`: a running pair of words for each topic, in Python's whole numbers."""

from collections.abc import Iterable

from fabric.records import NULL

FACTORS = 0x2545F4914F6CDD1D, 0x1B873593CC9E2D51
SHIFTS = 29, 32


def wrapped(value: int) -> int:
    """As a signed 64-bit word."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def chained(messages: Iterable[tuple[list[int], list[bool]]]) -> tuple[int, int]:
    """The words of a topic that said these: of each the columns that count, and which of them are text."""
    words = [0, 0]
    for values, texts in messages:
        for lane in (0, 1):
            word = words[lane]
            for value, is_text in zip(values, texts, strict=True):
                said = NULL if is_text and value == 0 else value
                word = wrapped((word ^ said) * FACTORS[lane])
                word ^= word >> SHIFTS[lane]
            words[lane] = wrapped(word + 1)
    return words[0], words[1]
