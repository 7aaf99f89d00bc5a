"""Reads the fields of a user and its accounts, under the names of the reference or in snake_case."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from steelyard.access.users import NewUser, check_new_user
from steelyard.core.errors import InvalidInput
from steelyard.core.ids import UserId
from steelyard.core.money import Currency
from steelyard.runtime.currencies import find_currency
from steelyard.sync.enrolment import CONTEXTS, GivenAccount, GivenUser, ItemRefused, Refusal

USER_FIELDS: Final = {
    "id": "id",
    "userid": "id",
    "username": "username",
    "context": "context",
    "isactive": "is_active",
    "customernumber": "customer_number",
    "displayname": "display_name",
}
"""Names as `plain` makes them, and what they mean."""
ACCOUNT_FIELDS: Final = {
    "accountnumber": "number",
    "accounttype": "account_type",
    "currency": "currency",
    "isprimary": "is_primary",
    "balance": "balance",
    "balanceasof": "balance_as_of",
    "isjoint": "is_joint",
}
ACCOUNTS_MAX: Final = 1_000
NUMBER_CHARACTERS_MAX: Final = 64
TYPE_CHARACTERS_MAX: Final = 40

_IN_OBJECTS: Final = {
    **USER_FIELDS,
    "accounts": "accounts",
    "accountnumber": "number",
    "currency": "currency",
}
_IN_ACCOUNTS: Final = {**ACCOUNT_FIELDS, "isactive": "is_active"}
_TRUE: Final = frozenset("true t yes y 1".split())
_FALSE: Final = frozenset("false f no n 0".split())

Fields = Mapping[str, object]
"""Values by meaning; None or an empty text: nothing is said."""


def plain(name: str) -> str:
    """Return a field's name without what tells `accountNumber` from `account_number`."""
    return name.strip().lower().replace("_", "")


def user_of(line: int, fields: Fields, accounts: tuple[GivenAccount, ...]) -> GivenUser:
    """Read the fields of a user. With both `id` and `username`, the first is the id and the second the name shown.

    Raises:
        ItemRefused: A field is missing or not acceptable.
    """
    told_id, username = _word(fields, "id"), _word(fields, "username")
    chosen = told_id if told_id is not None else username
    if chosen is None:
        raise ItemRefused("id", Refusal.MISSING_FIELD, "neither an id nor a username is given")
    name = _word(fields, "display_name")
    if name is None and told_id is not None:
        name = username
    try:
        check_new_user(NewUser(UserId(chosen), name))
    except InvalidInput as error:
        named = "id" if error.field in ("user_id", "id") else error.field
        raise ItemRefused(named, Refusal.INVALID_VALUE, error.problem) from None
    context = _word(fields, "context")
    if context is not None and context not in CONTEXTS:
        raise ItemRefused(
            "context", Refusal.INVALID_VALUE, f"{context[:40]!r} is not MOBILE_BANKING or WALLET"
        )
    return GivenUser(
        line,
        UserId(chosen),
        context,
        _truth(fields, "is_active"),
        _number(fields, "customer_number"),
        name,
        accounts,
    )


def account_of(fields: Fields) -> GivenAccount | None:
    """Read the fields of an account; None where no number is given.

    Raises:
        ItemRefused: A field is not acceptable, or something is said of an account without a number.
    """
    number = _number(fields, "number")
    if number is None:
        for name in ("account_type", "is_primary", "balance", "balance_as_of", "is_joint"):
            if fields.get(name) not in (None, ""):
                raise ItemRefused(
                    "accountNumber", Refusal.MISSING_FIELD, f"{name} is given without a number"
                )
        return None
    kind = _word(fields, "account_type")
    if kind is not None and not (len(kind) <= TYPE_CHARACTERS_MAX and kind.isprintable()):
        raise ItemRefused(
            "accountType",
            Refusal.INVALID_VALUE,
            f"it is not 1 to {TYPE_CHARACTERS_MAX} printable characters",
        )
    return GivenAccount(
        number,
        _currency(fields),
        kind,
        _truth(fields, "is_primary"),
        _truth(fields, "is_active"),
        _amount(fields),
        _moment(fields),
        bool(_truth(fields, "is_joint")),
    )


def user_of_object(line: int, value: object) -> GivenUser:
    """Read a user from a JSON object, as the reference has it: with `accounts`, or the deprecated `accountNumber`.

    Raises:
        ItemRefused: A field is missing, unknown or not acceptable.
    """
    fields = named_fields(value, _IN_OBJECTS, place="")
    told = fields.get("accounts")
    if told is not None and not isinstance(told, list):
        raise ItemRefused("accounts", Refusal.INVALID_VALUE, "it is not a list")
    if told is not None and len(told) > ACCOUNTS_MAX:
        raise ItemRefused(
            "accounts", Refusal.TOO_MANY_ACCOUNTS, f"there are more than {ACCOUNTS_MAX}"
        )
    accounts: list[GivenAccount] = []
    for at, one in enumerate(told or []):
        try:
            account = account_of(named_fields(one, _IN_ACCOUNTS, place=f"accounts[{at}]."))
        except ItemRefused as refused:
            name = refused.field.removeprefix(f"accounts[{at}].")
            raise ItemRefused(f"accounts[{at}].{name}", refused.code, refused.reason) from None
        if account is None:
            raise ItemRefused(
                f"accounts[{at}].accountNumber", Refusal.MISSING_FIELD, "no number is given"
            )
        accounts.append(account)
    if not accounts and (sole := account_of({**fields, "is_active": None})) is not None:
        accounts = [GivenAccount(sole.number, sole.currency, is_primary=True)]
    elif not any(one.is_primary is not None for one in accounts):
        accounts = _flagged(accounts, _number(fields, "number"))
    return user_of(line, fields, tuple(accounts))


def named_fields(value: object, names: Mapping[str, str], *, place: str) -> dict[str, object]:
    """Return a JSON object's fields by what they mean.

    Raises:
        ItemRefused: It is no object, or a field is unknown or given under two names.
    """
    if not isinstance(value, dict):
        raise ItemRefused(place.rstrip(".") or "line", Refusal.INVALID_VALUE, "it is not an object")
    found: dict[str, object] = {}
    for name, given in value.items():
        meaning = names.get(plain(name))
        if meaning is None:
            raise ItemRefused(
                f"{place}{name[:40]}", Refusal.UNKNOWN_FIELD, "there is no such field"
            )
        if meaning in found:
            raise ItemRefused(f"{place}{name[:40]}", Refusal.DUPLICATE, "it is given twice")
        found[meaning] = given
    return found


def _flagged(accounts: list[GivenAccount], primary: str | None) -> list[GivenAccount]:
    """Where no account says whether it is the primary one, the deprecated number does."""
    if primary is None or all(one.number != primary for one in accounts):
        return accounts
    return [replace(one, is_primary=one.number == primary) for one in accounts]


def _word(fields: Fields, name: str) -> str | None:
    given = fields.get(name)
    if given is None or given == "":
        return None
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    if not isinstance(given, str):
        raise ItemRefused(_shown(name), Refusal.INVALID_VALUE, "it is not text")
    return given.strip() or None


def _number(fields: Fields, name: str) -> str | None:
    number = _word(fields, name)
    if number is not None and not (
        len(number) <= NUMBER_CHARACTERS_MAX and number.isascii() and number.isprintable()
    ):
        raise ItemRefused(
            _shown(name),
            Refusal.INVALID_VALUE,
            f"it is not 1 to {NUMBER_CHARACTERS_MAX} printable ASCII characters",
        )
    return number


def _truth(fields: Fields, name: str) -> bool | None:
    given = fields.get(name)
    if given is None or isinstance(given, bool):
        return given
    if isinstance(given, str):
        word = given.strip().lower()
        if not word:
            return None
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
    raise ItemRefused(_shown(name), Refusal.INVALID_VALUE, "it is not true or false")


def _currency(fields: Fields) -> Currency | None:
    code = _word(fields, "currency")
    if code is None:
        return None
    try:
        return find_currency(code)
    except InvalidInput as error:
        raise ItemRefused("currency", Refusal.UNKNOWN_CURRENCY, error.problem) from None


def _amount(fields: Fields) -> str | None:
    given = fields.get("balance")
    if isinstance(given, Decimal):
        return f"{given:f}" if -1000 < given.adjusted() < 1000 else "too long a number"
    return _word(fields, "balance")


def _moment(fields: Fields) -> datetime | None:
    given = _word(fields, "balance_as_of")
    if given is None:
        return None
    try:
        moment = datetime.fromisoformat(given)
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise ItemRefused(
        "balanceAsOf",
        Refusal.INVALID_VALUE,
        f"{given[:40]!r} is not a moment with a zone, such as 2026-11-21T12:00:00Z",
    )


def _shown(name: str) -> str:
    """Return the name a field has in the reference."""
    if name == "number":
        return "accountNumber"
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)
