"""Settings: environment over defaults. Every one is named in docs/reference/settings.md; a test reads both."""

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote, urlsplit

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

REDIS_SCHEMES = ("redis://", "rediss://", "unix://")


def _check_redis_url(url: SecretStr) -> SecretStr:
    if not url.get_secret_value().startswith(REDIS_SCHEMES):
        raise ValueError(f"must begin with {', '.join(REDIS_SCHEMES)}")
    try:
        _ = urlsplit(url.get_secret_value()).port
    except ValueError:  # it would quote a part of the password
        raise ValueError("is no address; percent-encode special characters in it") from None
    return url


def _check_provider_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must begin with https:// or http:// and name a host")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("must hold no password, query or fragment")
    try:
        _ = parts.port
    except ValueError:
        raise ValueError("names a port that is none") from None
    return url.rstrip("/")


def _check_header_value(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not text or not text.isascii() or not text.isprintable():
        raise ValueError("must be printable ASCII and not empty")
    return value


HeaderSecret = Annotated[SecretStr, AfterValidator(_check_header_value)]


class Settings(BaseSettings):
    """What one process runs with.

    The environment name is the field in capitals after `STEELYARD_`, or the alias where one is given: a name that
    programs of the reference use.
    """

    model_config = SettingsConfigDict(
        env_prefix="STEELYARD_",
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    database_url: SecretStr | None = Field(
        None, description="PostgreSQL to use instead of the embedded one."
    )
    redis_url: Annotated[SecretStr, AfterValidator(_check_redis_url)] | None = Field(
        None, description="Redis or Valkey for cache and channel: redis://, rediss:// or unix://."
    )
    queue_redis_host: str | None = Field(
        None,
        validation_alias="QUEUE_REDIS_HOST",
        description="Host of the Redis to use; localhost if another QUEUE_REDIS name is set.",
    )
    queue_redis_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        validation_alias="QUEUE_REDIS_PORT",
        description="Its port; 6379 if another QUEUE_REDIS name is set.",
    )
    queue_redis_password: SecretStr | None = Field(
        None, validation_alias="QUEUE_REDIS_PASSWORD", description="Its password."
    )
    queue_redis_db: int | None = Field(
        None, ge=0, validation_alias="QUEUE_REDIS_DB", description="Its database number."
    )
    data_dir: Path = Field(
        Path(".steelyard"), description="Folder of everything that outlives the process."
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int | None = Field(
        None, ge=1, le=65535, description="Port to listen on; 3000 or the next free one if unset."
    )
    pool_size: int = Field(16, ge=2, le=200, description="Database connections of this process.")
    commit_queue_limit: int = Field(
        10_000, ge=1, description="Money requests that may wait for a commit."
    )
    commit_deadline_ms: int = Field(
        2_500, ge=100, description="Longest a money request waits for its answer."
    )
    body_limit_bytes: int = Field(
        65_536, ge=1_024, description="Largest request body; bulk routes take more."
    )
    bulk_body_limit_bytes: int = Field(
        10_485_760, ge=1_024, description="Largest body of a bulk route."
    )
    request_deadline_ms: int = Field(
        10_000, ge=100, description="Longest a request may take in all."
    )
    reconcile_deadline_ms: int = Field(
        600_000, ge=100, description="Longest a request to prove balances may take in all."
    )
    hold_sweep_interval_ms: int = Field(
        1_000, ge=10, description="How often holds whose time is over are released."
    )
    relay_interval_ms: int = Field(50, ge=5, description="How often the relay reads the journal.")

    live_origins: str | None = Field(
        None, description="Web pages that may connect beside this server's own, by origin."
    )
    live_connections: int = Field(10_000, ge=1, description="Live sessions of this process.")
    live_connections_per_user: int = Field(10, ge=1, description="Live sessions of one user.")
    live_accounts: int = Field(20, ge=1, le=100, description="Accounts that one session shows.")
    live_messages: int = Field(20, ge=1, description="Messages a user may send at once.")
    live_messages_per_s: float = Field(
        5.0, gt=0, description="Messages a user may send a second from then on."
    )
    live_updates_per_s: float = Field(
        10.0, gt=0, description="Balance updates of one account to one session a second."
    )
    live_sweep_interval_ms: int = Field(
        1_000, ge=50, description="How often what is shown is compared with the database."
    )

    t24_api_url: Annotated[str, AfterValidator(_check_provider_url)] | None = Field(
        None, validation_alias="T24_API_URL", description="Where the core bank answers."
    )
    t24_api_key: HeaderSecret | None = Field(
        None, validation_alias="T24_API_KEY", description="Its bearer token, key or password."
    )
    t24_dialect: Literal["bearer", "middleware", "iris"] = Field(
        "bearer", description="How it is spoken to."
    )
    t24_path: str | None = Field(
        None,
        pattern=r"^/[!-~]*$",
        description="Path below its address, with {account}; the dialect's own if unset.",
    )
    t24_user: str | None = Field(
        None,
        pattern=r"^[!-9;-~]+$",
        description="User of HTTP Basic, with T24_API_KEY as the password.",
    )
    t24_credentials: HeaderSecret | None = Field(
        None, description="Header `credentials`: user and password of the core itself."
    )
    t24_company: str | None = Field(
        None, pattern=r"^[A-Za-z0-9]{1,16}$", description="Header `companyId`."
    )
    t24_ca_file: Path | None = Field(
        None, description="PEM file of the certificates to trust instead of the system's."
    )
    t24_requests_per_s: float = Field(
        10.0, gt=0, le=10_000, description="Requests a second it bears, of all processes together."
    )
    t24_in_flight: int = Field(
        10, ge=1, le=1_000, description="Requests that may wait for its answer at once."
    )

    balance_sync_interval: int = Field(
        300_000,
        ge=0,
        le=86_400_000,
        validation_alias="BALANCE_SYNC_INTERVAL",
        description="Milliseconds between two syncs of a user; 0: only when asked for.",
    )
    auth_sync_timeout: int = Field(
        2_000,
        ge=1,
        le=60_000,
        validation_alias="AUTH_SYNC_TIMEOUT",
        description="Milliseconds a login waits for its balance.",
    )
    queue_process_interval: int = Field(
        1_000,
        ge=10,
        le=60_000,
        validation_alias="QUEUE_PROCESS_INTERVAL",
        description="Milliseconds a due sync waits at most for a free worker to look.",
    )

    work: bool = Field(
        True, description="Whether a server also works in the background: syncs, jobs, schedules."
    )
    sync_scheduler_enabled: bool = Field(
        True,
        validation_alias="SYNC_SCHEDULER_ENABLED",
        description="Whether schedules that pull from providers tick; proofs and clean-up always do.",
    )
    job_engine: Literal["procrastinate", "in_process"] = Field(
        "procrastinate", description="What carries jobs to workers."
    )
    job_slots: int = Field(4, ge=1, le=100, description="Jobs that one worker runs at once.")
    job_drain_ms: int = Field(
        20_000, ge=0, le=3_600_000, description="Longest a worker that ends waits for its jobs."
    )

    run_retention_days: int = Field(
        90, ge=7, le=36_500, description="Days that a run is kept after its end."
    )

    jwt_algorithm: Literal["HS256", "ES256", "EdDSA"] = Field(
        "HS256", description="The one algorithm accepted."
    )
    jwt_secret_file: Path | None = Field(
        None, description="File (0600) with the HS256 secret; the data folder's own if unset."
    )
    jwt_public_key_file: Path | None = Field(
        None, description="PEM public key, for ES256 and EdDSA."
    )
    jwt_jwks_url: str | None = Field(
        None, description="Key set to verify tokens with, http(s) or a file."
    )
    jwt_issuer: str | None = Field(None, description="`iss` a token must carry.")
    jwt_audience: str | None = Field(None, description="`aud` a token must carry.")
    jwt_tenant_claim: str = Field("tenant", description="Claim that names the tenant.")
    jwt_role_claim: str = Field("role", description="Claim that names the role.")

    log_format: Literal["console", "json"] = Field("json", description="How log lines are written.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level written."
    )
    sentry_dsn: SecretStr | None = Field(
        None, description="Where errors are reported; nowhere if unset."
    )

    @property
    def redis_address(self) -> SecretStr | None:
        """The Redis to use: STEELYARD_REDIS_URL, else what the QUEUE_REDIS names say if one is set, else none."""
        host, port = self.queue_redis_host, self.queue_redis_port
        password, number = self.queue_redis_password, self.queue_redis_db
        if self.redis_url is not None or not (host or port or password or number is not None):
            return self.redis_url
        sign_in = f":{quote(password.get_secret_value(), safe='')}@" if password else ""
        host = host or "localhost"
        name = f"[{host}]" if ":" in host else host
        return SecretStr(f"redis://{sign_in}{name}:{port or 6379}/{number or 0}")


def environment_name(field: str) -> str:
    """Return the environment name of a field of `Settings`."""
    alias = Settings.model_fields[field].validation_alias
    return alias if isinstance(alias, str) else f"STEELYARD_{field}".upper()


def load_settings() -> Settings:
    """Read settings from the environment.

    Raises:
        pydantic.ValidationError: A value is not acceptable; it names the field.
    """
    return Settings()
