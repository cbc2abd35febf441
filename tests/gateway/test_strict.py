import base64

import pytest

from gateway.strict import FrameError, frame_size, valid_close_code, valid_key

KEY = base64.b64encode(bytes(range(16))).decode()


def test_the_codes_that_may_be_sent() -> None:
    """RFC 6455, section 7.4.1 and 7.4.2, and IANA's registry for 1012 to 1014."""
    allowed = {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}
    assert {code for code in range(1 << 16) if valid_close_code(code)} == allowed


@pytest.mark.parametrize(
    "key",
    ["", "x", KEY[:-2], KEY + "=", KEY.replace("=", "-"), base64.b64encode(b"x" * 15).decode(), KEY + " " + KEY],
)
def test_a_key_is_one_nonce(key: str) -> None:
    """Bad input 47."""
    assert valid_key(KEY)
    assert not valid_key(key)


def test_a_frame_is_judged_as_soon_as_its_header_is_there() -> None:
    assert frame_size(b"\x81", 0, -1, 10) == (0, 0)
    assert frame_size(b"..\x81\x85", 2, -1, 10) == (4, 5)
    assert frame_size(b"\x81\xfe\x00", 0, -1, 200) == (0, 0)
    assert frame_size(b"\x81\xfe\x00\x7e", 0, -1, 200) == (4, 126)
    assert frame_size(b"\x80\x85", 0, 5, 10) == (2, 5)  # continues a message of five bytes so far
    with pytest.raises(FrameError, match="at most 10"):
        frame_size(b"\x80\x86", 0, 5, 10)
