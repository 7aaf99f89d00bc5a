"""Whatever a core bank does, the client answers with a typed error in time, believes nothing and tells no secret."""

import asyncio
import logging
import socket
import ssl
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from steelyard.providers.contract import ProviderContext, Target, TargetAccount
from steelyard.providers.errors import (
    ErrorScope,
    ProviderError,
    ProviderMalformed,
    ProviderNotFound,
    ProviderRateLimited,
    ProviderReauth,
    ProviderRefusedRequest,
    ProviderRevoked,
    ProviderTransient,
    ProviderUnclassified,
)
from steelyard.providers.load import ProviderUnusable, load_plugin
from steelyard.providers.t24.client import open_client
from steelyard.providers.t24.simulator.bank import BankOptions
from steelyard.providers.t24.simulator.faults import BAD_VALUES, Fault
from steelyard.runtime.clock import SystemClock
from steelyard.runtime.settings import Settings
from steelyard.testing.clock import FrozenClock
from steelyard.testing.provider_contract import fetch_all
from tests.e2e.providers.bank_kit import (
    DIALECTS,
    GBP,
    KEY,
    OVERDRAWN,
    UNKNOWN,
    YEN,
    Scene,
    opened,
    settings_of,
    target_of,
)

ONE = target_of(OVERDRAWN)
GRACE_S = 1.0
RAISED: dict[Fault, tuple[type[ProviderError], str]] = {
    Fault.RESET: (ProviderTransient, "cut_off"),
    Fault.HANG: (ProviderTransient, "deadline"),
    Fault.DRIBBLE: (ProviderTransient, "deadline"),
    Fault.TRUNCATE: (ProviderTransient, "cut_off"),
    Fault.CUT_JSON: (ProviderMalformed, "json"),
    Fault.WRONG_TYPE: (ProviderMalformed, "content_type"),
    Fault.COMPRESSED: (ProviderMalformed, "compressed"),
    Fault.TOO_LARGE: (ProviderMalformed, "too_large"),
    Fault.EMPTY: (ProviderMalformed, "empty"),
    Fault.HTML_PAGE: (ProviderTransient, "status_502"),
    Fault.REDIRECT: (ProviderMalformed, "status_302"),
    Fault.STATUS_500: (ProviderTransient, "status_500"),
    Fault.STATUS_503: (ProviderTransient, "status_503"),
    Fault.STATUS_418: (ProviderUnclassified, "status_418"),
    Fault.RATE_LIMIT: (ProviderRateLimited, "status_429"),
    Fault.UNAUTHORISED: (ProviderReauth, "status_401"),
    Fault.FORBIDDEN: (ProviderRevoked, "status_403"),
    Fault.MAINTENANCE: (ProviderTransient, "status_503"),
    Fault.TWICE: (ProviderMalformed, "json"),
}
TOLD: dict[Fault, tuple[type[ProviderError], str]] = {
    Fault.REFUSED: (ProviderRefusedRequest, "business"),
    Fault.NOT_A_NUMBER: (ProviderMalformed, "amount_text"),
    Fault.NEGATIVE_ZERO: (ProviderMalformed, "amount_negative_zero"),
    Fault.EXPONENT: (ProviderMalformed, "amount_text"),
    Fault.SEPARATORS: (ProviderMalformed, "amount_text"),
    Fault.EXTRA_DIGITS: (ProviderMalformed, "amount_digits"),
    Fault.HUGE: (ProviderMalformed, "amount_text"),
    Fault.NO_VALUE: (ProviderMalformed, "no_balance"),
    Fault.OTHER_CURRENCY: (ProviderMalformed, "currency"),
    Fault.OTHER_ACCOUNT: (ProviderMalformed, "other_account"),
}


def test_every_fault_of_the_simulator_is_expected_below() -> None:
    assert RAISED.keys() | TOLD.keys() == set(Fault) - {Fault.SLOW}
    assert TOLD.keys() | {Fault.TWICE} >= BAD_VALUES


async def raised_by(scene: Scene, target: Target = ONE, *, deadline_s: float = 5) -> Any:
    """The error of one request, which must come in time."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    with pytest.raises(ProviderError) as caught:
        await scene.client.fetch_balances(target, deadline_s=deadline_s)
    assert loop.time() - began_s <= deadline_s + GRACE_S
    return caught.value


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_every_fault_of_the_answer_ends_as_its_error(dialect: str) -> None:
    async with opened(dialect) as scene:
        for fault, (kind, reason) in RAISED.items():
            scene.fail(fault, wait_s=0.05)
            is_endless = fault in (Fault.HANG, Fault.DRIBBLE)
            error = await raised_by(scene, deadline_s=0.3 if is_endless else 5)
            assert (type(error), error.reason) == (kind, reason), fault
            assert error.scope is ErrorScope.PROVIDER
            assert scene.bank.counts.faults[fault] == 1  # sent once: nothing was repeated
        scene.bank.faults.clear()
        assert (await fetch_all(scene.client, ONE)).problems == ()


async def test_a_slow_answer_is_the_right_one_or_late() -> None:
    async with opened() as scene:
        scene.fail(Fault.SLOW, wait_s=0.2)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        assert (await fetch_all(scene.client, ONE)).problems == ()
        assert loop.time() - began_s >= 0.2
        scene.fail(Fault.SLOW, wait_s=30)
        assert (await raised_by(scene, deadline_s=0.1)).reason == "deadline"


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_every_fault_of_the_values_is_the_accounts_problem(dialect: str) -> None:
    async with opened(dialect) as scene:
        for fault, (kind, reason) in TOLD.items():
            if fault is Fault.OTHER_ACCOUNT and dialect != "iris":
                continue  # only there an answer names its account
            scene.fail(fault)
            told = await fetch_all(scene.client, ONE)
            assert told.readings == ()
            (problem,) = told.problems
            assert (type(problem.error), problem.error.reason) == (kind, reason), fault
            assert problem.error.scope is ErrorScope.ACCOUNT


async def test_one_bad_account_spoils_no_other() -> None:
    for dialect in DIALECTS[:2]:
        async with opened(dialect) as scene:
            scene.fail(Fault.SEPARATORS, accounts=frozenset({OVERDRAWN.number}))
            told = await fetch_all(scene.client, target_of(OVERDRAWN, YEN))
            assert [one.account.number for one in told.problems] == [OVERDRAWN.number]
            assert [one.account.number for one in told.readings] == [YEN.number]


async def test_bytes_that_keep_coming_do_not_move_the_deadline() -> None:
    async with opened("iris") as scene:
        scene.fail(Fault.DRIBBLE, wait_s=0.01)
        for deadline_s in (0.1, 0.4):
            error = await raised_by(scene, deadline_s=deadline_s)
            assert error.reason == "deadline"


async def test_a_connection_that_is_never_accepted_ends_at_the_deadline() -> None:
    with socket.socket() as closed_door:
        closed_door.bind(("127.0.0.1", 0))
        closed_door.listen(0)
        address = closed_door.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)
        context = ProviderContext(
            settings_of(f"http://127.0.0.1:{address[1]}", "bearer"), SystemClock()
        )
        try:
            async with open_client(context) as client:
                with pytest.raises(ProviderTransient, match="deadline"):
                    await client.fetch_balances(ONE, deadline_s=0.3)
        finally:
            for one in waiting:
                one.close()


async def test_waiting_for_a_free_connection_ends_at_the_deadline() -> None:
    async with opened(t24_in_flight=2) as scene:
        scene.fail(Fault.HANG)
        first = [
            asyncio.create_task(scene.client.fetch_balances(ONE, deadline_s=60)) for _ in range(2)
        ]
        async with asyncio.timeout(10):
            while scene.bank.counts.requests < 2:  # noqa: ASYNC110 - the bank tells nobody
                await asyncio.sleep(0.005)
        for _ in range(3):
            assert (await raised_by(scene, deadline_s=0.1)).reason == "deadline"
        assert scene.bank.counts.in_flight_max == 2
        assert scene.bank.counts.requests == 2
        for call in first:
            call.cancel()
        await asyncio.gather(*first, return_exceptions=True)


async def test_a_bank_that_is_away_and_back_is_asked_again() -> None:
    async with opened() as scene:
        await fetch_all(scene.client, ONE)
        await scene.refuse()
        assert (await raised_by(scene)).reason == "unreachable"
        await scene.heal()
        assert (await fetch_all(scene.client, ONE)).problems == ()


async def test_a_redirect_is_never_followed_and_no_cookie_is_kept() -> None:
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not reader.at_eof():
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break  # the client has hung up
            await reader.readexactly(2)  # {}
            seen.append(head)
            place = b"Location: /account/1/balance\r\n" if len(seen) == 1 else b""
            writer.write(
                (b"HTTP/1.1 307 x\r\n" if place else b"HTTP/1.1 200 OK\r\n")
                + b"Set-Cookie: a=b; Path=/\r\nContent-Type: application/json\r\n"
                + place
                + b'Content-Length: 15\r\n\r\n{"balance":"1"}'
            )
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    context = ProviderContext(settings_of(f"http://127.0.0.1:{port}", "bearer"), SystemClock())
    async with open_client(context) as client:
        with pytest.raises(ProviderMalformed, match="status_307"):
            await client.fetch_balances(ONE, deadline_s=2)
        assert len(seen) == 1
        for _ in range(2):
            (reading,) = (await client.fetch_balances(ONE, deadline_s=2)).readings
            assert reading.balances[0].money.minor == 100
    assert len(seen) == 3
    assert not [head for head in seen if b"cookie" in head.lower()]
    server.close()


async def test_nothing_of_the_environment_changes_where_requests_go(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login other password other\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with opened() as scene:
        assert (await fetch_all(scene.client, ONE)).problems == ()


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1 that nobody signed, as a file and as a server's."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    trusted, secret = folder / "trusted.pem", folder / "key.pem"
    trusted.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(trusted, secret)
    return trusted, server


async def test_only_a_trusted_certificate_is_spoken_to(tmp_path: Path) -> None:
    trusted, tls = certificate(tmp_path)
    async with opened(tls=tls) as scene:
        assert (await raised_by(scene, deadline_s=5)).reason == "certificate"
        assert scene.bank.counts.requests == 0
    async with opened(tls=tls, t24_ca_file=trusted) as scene:
        assert (await fetch_all(scene.client, ONE)).problems == ()


async def test_a_handshake_that_hangs_ends_in_time_and_leaves_no_socket() -> None:
    async with opened() as scene:
        assert scene.server is not None
        url = scene.server.url.replace("http:", "https:")  # a bank that waits for plain text
        context = ProviderContext(settings_of(url, "bearer"), SystemClock())
        async with open_client(context) as client:
            error = await raised_by(replace(scene, client=client), deadline_s=0.3)
            assert error.reason == "deadline"


async def test_logs_hold_no_credential_and_no_account_number(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    for dialect in DIALECTS:
        async with opened(dialect) as scene:
            await fetch_all(scene.client, target_of(OVERDRAWN, YEN))
            for fault in (Fault.RESET, Fault.UNAUTHORISED, Fault.HTML_PAGE):
                scene.fail(fault)
                assert OVERDRAWN.number not in repr(await raised_by(scene))
            scene.fail(Fault.NOT_A_NUMBER)
            told = await fetch_all(scene.client, ONE)
            assert OVERDRAWN.number not in repr(told)
    assert KEY not in caplog.text
    assert OVERDRAWN.number not in caplog.text
    assert "700001" not in caplog.text


async def test_an_account_the_bank_does_not_know_is_told_apart_from_a_wrong_address() -> None:
    alone = Target((UNKNOWN,))
    for dialect in DIALECTS:
        async with opened(dialect) as scene:
            (problem,) = (await scene.client.fetch_balances(alone, deadline_s=2)).problems
            assert isinstance(problem.error, ProviderNotFound)
        async with opened(dialect, t24_path="/elsewhere/{account}") as scene:
            error = await raised_by(scene)
            assert isinstance(error, ProviderNotFound)
            assert error.scope is ErrorScope.PROVIDER


@pytest.mark.parametrize("number", ["", "..", "1/2", "1?x=1", "1 2", "٣", "1" * 40, "1\r\n", "%2e"])
async def test_a_number_that_is_no_account_is_told_without_a_request(number: str) -> None:
    bad = TargetAccount(number, GBP)
    async with opened() as scene:
        told = await fetch_all(scene.client, Target((bad, *ONE.accounts)))
        assert [one.account for one in told.problems] == [bad]
        assert isinstance(told.problems[0].error, ProviderRefusedRequest)
        assert [one.account.number for one in told.readings] == [OVERDRAWN.number]
        assert scene.bank.counts.requests == 1
        with pytest.raises(ProviderRefusedRequest, match="no_account"):
            await scene.client.fetch_balances(Target(()), deadline_s=1)


async def test_a_deadline_that_is_over_sends_nothing() -> None:
    async with opened() as scene:
        for deadline_s in (0.0, -1.0):
            with pytest.raises(ProviderTransient, match="deadline"):
                await scene.client.fetch_balances(ONE, deadline_s=deadline_s)
        assert scene.bank.counts.requests == 0


async def test_the_wrong_key_is_told_as_such() -> None:
    for dialect in DIALECTS:
        async with opened(dialect, options=BankOptions(key="another")) as scene:
            assert isinstance(await raised_by(scene), ProviderReauth)


async def test_retry_after_is_handed_on() -> None:
    closed = (time(0, 0), time(23, 59, 59, 999_999))
    async with opened(options=BankOptions(key=KEY, maintenance=closed)) as scene:
        assert (await raised_by(scene)).retry_after_s == 60
        scene.fail(Fault.RATE_LIMIT, wait_s=7)
        assert (await raised_by(scene)).retry_after_s == 7


async def test_a_balance_is_as_old_as_its_request() -> None:
    clock = FrozenClock()
    asked_at = clock.now()

    def think(request: httpx2.Request) -> httpx2.Response:
        clock.move(timedelta(seconds=90))
        return httpx2.Response(200, json={"balance": "1.00"})

    context = ProviderContext(settings_of("http://bank.invalid", "bearer"), clock)
    async with open_client(context, transport=httpx2.MockTransport(think)) as client:
        (reading,) = (await client.fetch_balances(ONE, deadline_s=2)).readings
    assert reading.balances[0].as_of == asked_at


@pytest.mark.parametrize("missing", ["T24_API_URL", "T24_API_KEY"])
async def test_t24_cannot_be_opened_without_its_settings(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("T24_API_URL", "http://127.0.0.1:9/base/")
    monkeypatch.setenv("T24_API_KEY", KEY)
    assert Settings().t24_api_url == "http://127.0.0.1:9/base"
    monkeypatch.delenv(missing)
    plugin = load_plugin("t24")
    with pytest.raises(ProviderUnusable, match="must be set"):
        async with plugin.open(ProviderContext(Settings(), SystemClock())):
            pass


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("T24_API_URL", "ftp://bank"),
        ("T24_API_URL", "https://"),
        ("T24_API_URL", "https://user:secret@bank"),
        ("T24_API_URL", "https://bank/?key=secret"),
        ("T24_API_URL", "https://bank:secret"),
        ("T24_API_KEY", "line\nsecret"),
        ("T24_API_KEY", ""),
        ("STEELYARD_T24_USER", "with:colon"),
        ("STEELYARD_T24_PATH", "no-slash"),
        ("STEELYARD_T24_DIALECT", "ofs"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_without_telling_it(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError) as caught:
        Settings()
    assert "secret" not in str(caught.value)


async def test_a_file_of_certificates_that_is_none_stops_the_start(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.pem", tmp_path):
        context = ProviderContext(
            settings_of("https://bank.invalid", "bearer", t24_ca_file=path), SystemClock()
        )
        with pytest.raises(ProviderUnusable, match="STEELYARD_T24_CA_FILE"):
            async with open_client(context):
                pass
