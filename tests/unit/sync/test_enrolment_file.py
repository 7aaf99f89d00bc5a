"""Files of users: what is read of them, and what is said of every line that cannot be."""

import json

import pytest

from steelyard.core.errors import InvalidInput
from steelyard.runtime.currencies import find_currency
from steelyard.sync.enrolment import GivenAccount, GivenUser, Refusal, RefusedItem
from steelyard.sync.enrolment_file import LINE_BYTES_MAX, Format, read_users

ZMW = find_currency("ZMW")
HEADER = "username,context,isActive,customerNumber,accountNumber,accountType,currency,isPrimary,accountIsActive"


def read_csv(*lines: str, header: str = HEADER) -> list[GivenUser | RefusedItem]:
    """Read lines under a header."""
    return list(read_users([f"{line}\n".encode() for line in (header, *lines)], Format.CSV))


def read_json(*values: object) -> list[GivenUser | RefusedItem]:
    """Read objects, one a line; a text as it is."""
    lines = [one if isinstance(one, str) else json.dumps(one) for one in values]
    return list(read_users([line.encode() for line in lines], Format.JSONL))


def refusal(items: list[GivenUser | RefusedItem]) -> tuple[int, str, Refusal]:
    """Where and why the only item was refused."""
    [item] = items
    assert isinstance(item, RefusedItem), item
    return item.line, item.field, item.code


def test_a_line_of_csv_is_a_user_with_one_account() -> None:
    [item] = read_csv("ann,MOBILE_BANKING,yes,500001,1001,SAVINGS,ZMW,TRUE,0")
    account = GivenAccount("1001", ZMW, "SAVINGS", is_primary=True, is_active=False)
    assert item == GivenUser(2, "ann", "MOBILE_BANKING", True, "500001", None, (account,))  # type: ignore[arg-type]


def test_both_ways_of_writing_names_and_formats_say_the_same() -> None:
    account = {
        "accountNumber": "1001",
        "accountType": "SAVINGS",
        "currency": "ZMW",
        "isPrimary": True,
    }
    snake = {
        "account_number": 1001,
        "account_type": "SAVINGS",
        "currency": "ZMW",
        "is_primary": True,
    }
    camel = {"username": "ann", "isActive": True, "customerNumber": "7", "accounts": [account]}
    other = {"user_id": "ann", "is_active": True, "customer_number": 7, "accounts": [snake]}
    header = "user_id,is_active,customer_number,account_number,account_type,currency,is_primary"
    [one, two] = read_json(camel, other)
    [three] = read_csv("ann,true,7,1001,SAVINGS,ZMW,true", header=header)
    assert isinstance(one, GivenUser)
    assert isinstance(two, GivenUser)
    assert isinstance(three, GivenUser)
    assert (one.id, one.is_active, one.customer_number, one.accounts) == (
        two.id,
        two.is_active,
        two.customer_number,
        two.accounts,
    )
    assert (three.id, three.accounts) == (one.id, one.accounts)


def test_the_deprecated_number_is_an_account_where_none_is_listed_else_the_flag() -> None:
    sole, flagged, stale = read_json(
        {"username": "a", "accountNumber": "1", "currency": "ZMW"},
        {
            "username": "b",
            "accountNumber": "2",
            "accounts": [{"accountNumber": "1"}, {"accountNumber": "2"}],
        },
        {"username": "c", "accountNumber": "9", "accounts": [{"accountNumber": "1"}]},
    )
    assert isinstance(sole, GivenUser)
    assert sole.accounts == (GivenAccount("1", ZMW, is_primary=True),)
    assert isinstance(flagged, GivenUser)
    assert [one.is_primary for one in flagged.accounts] == [False, True]
    assert isinstance(stale, GivenUser)
    assert [one.number for one in stale.accounts] == ["1"]


def test_a_bom_line_ends_of_windows_quotes_and_empty_lines_are_read() -> None:
    lines = [b"\xef\xbb\xbfusername,customerNumber,accountNumber,currency\r\n", b"\r\n"]
    lines += [b'"ann, the first",7,1001,ZMW\r\n', b"\n", b'"o""hara",,,\r\n']
    items = list(read_users(lines, Format.CSV))
    assert [(one.line, one.id) for one in items if isinstance(one, GivenUser)] == [
        (3, "ann, the first"),
        (5, 'o"hara'),
    ]


@pytest.mark.parametrize(
    ("line", "field", "code"),
    [
        ("ann,PHONE,true,,1,,ZMW,,", "context", Refusal.INVALID_VALUE),
        ("ann,,perhaps,,1,,ZMW,,", "isActive", Refusal.INVALID_VALUE),
        ("ann,,,,1,,ZMK,,", "currency", Refusal.UNKNOWN_CURRENCY),
        ("ann,,,,1,,zmw,,", "currency", Refusal.UNKNOWN_CURRENCY),
        ("ann,,,,,SAVINGS,,,", "accountNumber", Refusal.MISSING_FIELD),
        ("ann,,,,1٣,,ZMW,,", "accountNumber", Refusal.INVALID_VALUE),
        (f"ann,,,,{'1' * 65},,ZMW,,", "accountNumber", Refusal.INVALID_VALUE),
        (f"ann,,,,1,{'x' * 41},ZMW,,", "accountType", Refusal.INVALID_VALUE),
        (",MOBILE_BANKING,true,,1,,ZMW,,", "id", Refusal.MISSING_FIELD),
        (f"{'x' * 129},,,,1,,ZMW,,", "id", Refusal.INVALID_VALUE),
        ("key:1,,,,1,,ZMW,,", "id", Refusal.INVALID_VALUE),
        ("ann,,", "line", Refusal.UNREADABLE_LINE),
        ("ann,,,,1,,ZMW,,,,,", "line", Refusal.UNREADABLE_LINE),
        ('ann,,,,"1,,ZMW,,', "line", Refusal.UNREADABLE_LINE),
        ("an\x00n,,,,1,,ZMW,,", "line", Refusal.UNREADABLE_LINE),
        ("an\x1b[2Jn,,,,1,,ZMW,,", "line", Refusal.UNREADABLE_LINE),
        ("an\u202en,,,,1,,ZMW,,", "line", Refusal.UNREADABLE_LINE),
        (f"ann,,,,1,{'x' * LINE_BYTES_MAX},ZMW,,", "line", Refusal.LINE_TOO_LONG),
    ],
)
def test_a_line_that_cannot_be_taken_says_where_and_why(
    line: str, field: str, code: Refusal
) -> None:
    assert refusal(read_csv(line)) == (2, field, code)


@pytest.mark.parametrize(
    ("value", "field", "code"),
    [
        ("{", "line", Refusal.UNREADABLE_LINE),
        ('{"username":"a","username":"b"}', "line", Refusal.UNREADABLE_LINE),
        ('{"username":"a\\u0000b"}', "line", Refusal.UNREADABLE_LINE),
        ('{"username":"a\\ud800b"}', "line", Refusal.UNREADABLE_LINE),
        ("[" * 100_000, "line", Refusal.UNREADABLE_LINE),
        ("[]", "line", Refusal.INVALID_VALUE),
        ({"username": "a", "password": "x"}, "password", Refusal.UNKNOWN_FIELD),
        ({"username": "a", "isActive": 1}, "isActive", Refusal.INVALID_VALUE),
        ({"username": ["a"]}, "username", Refusal.INVALID_VALUE),
        ({"username": "a", "user_id": "a", "userId": "b"}, "userId", Refusal.DUPLICATE),
        ({"username": "a", "accounts": {}}, "accounts", Refusal.INVALID_VALUE),
        ({"username": "a", "accounts": [{}]}, "accounts[0].accountNumber", Refusal.MISSING_FIELD),
        (
            {"username": "a", "accounts": [{"accountNumber": "1"}, {"accountNumber": True}]},
            "accounts[1].accountNumber",
            Refusal.INVALID_VALUE,
        ),
        (
            {"username": "a", "accounts": [{"accountNumber": "1", "currency": "XAU"}]},
            "accounts[0].currency",
            Refusal.UNKNOWN_CURRENCY,
        ),
        (
            {"username": "a", "accounts": [{"accountNumber": str(i)} for i in range(1_001)]},
            "accounts",
            Refusal.TOO_MANY_ACCOUNTS,
        ),
    ],
)
def test_an_object_that_cannot_be_taken_says_where_and_why(
    value: object, field: str, code: Refusal
) -> None:
    assert refusal(read_json(value)) == (1, field, code)


def test_what_is_not_utf_8_is_refused_with_its_place() -> None:
    lines = [HEADER.encode(), "zoë,,,,1,,ZMW,,".encode("latin-1"), b"ann,,,,2,,ZMW,,"]
    [bad, good] = read_users(lines, Format.CSV)
    assert isinstance(bad, RefusedItem)
    assert (bad.line, bad.reason) == (2, "byte 3 is not UTF-8")
    assert isinstance(good, GivenUser)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"\n\n", "it is empty"),
        (b"\x1f\x8b\x08\x00", "gunzip"),
        (b"PK\x03\x04", "save it as CSV"),
        ("username".encode("utf-16"), "UTF-16"),
        (b"user,name\n", "there is no column 'user'"),
        (b"username;context\n", "separated by commas"),
        (b"username,user_name\n", "twice"),
        (b"context,accountNumber\n", "one is id or username"),
        (b'"username\n', "quotes"),
    ],
)
def test_a_file_that_is_none_is_refused_whole(content: bytes, said: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        list(read_users(content.splitlines(keepends=True), Format.CSV))
    assert said in str(refused.value)


def test_a_refusal_tells_no_account_number() -> None:
    [item] = read_csv("ann,,,,4929123412341234,,ZMK,,")
    assert "4929" not in repr(item)
    assert "4929" not in repr(GivenAccount("4929123412341234"))
