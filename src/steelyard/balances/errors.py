"""What can go wrong in opening accounts."""

from steelyard.core.errors import SteelyardError
from steelyard.core.ids import AccountId


class AccountExists(SteelyardError):
    """The reference is taken by an account with other facts."""

    code = "account_exists"

    def __init__(self, *, account: AccountId) -> None:
        self.account = account
        super().__init__(
            f"account {account} has this reference already, for another user or currency; nothing was changed"
        )

    def fields(self) -> dict[str, object]:
        return {"account": str(self.account)}
