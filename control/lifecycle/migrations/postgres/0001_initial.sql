-- Times are microseconds since 1970 UTC. Addresses are blobs of 4 or 16 bytes.

CREATE TABLE meta (
    name  TEXT COLLATE "C" PRIMARY KEY,
    value TEXT NOT NULL
);

INSERT INTO meta VALUES ('store_id', replace(gen_random_uuid()::text, '-', ''));

-- One row. Every commit takes its sequences here, so that they have no gaps and the order of the
-- commits; ids are never used twice, even when nothing is left of what had them.
CREATE TABLE counter (
    id           BIGINT PRIMARY KEY CHECK (id = 1),
    seq          BIGINT NOT NULL,
    next_account BIGINT NOT NULL,
    next_pool    BIGINT NOT NULL,
    next_tunnel  BIGINT NOT NULL
);

INSERT INTO counter VALUES (1, 0, 1, 1, 1);

-- The last commit of each writer and what became of it: a commit whose answer was lost is not
-- repeated.
CREATE TABLE writer (
    id      BYTEA PRIMARY KEY CHECK (length(id) = 16),
    mark    BYTEA NOT NULL,
    outcome BYTEA NOT NULL,
    at      BIGINT NOT NULL
);

CREATE TABLE account (
    id         BIGINT PRIMARY KEY,
    name       TEXT COLLATE "C" NOT NULL,
    status     TEXT NOT NULL CHECK (status IN ('active', 'suspended')),
    created_at BIGINT NOT NULL,
    changed_at BIGINT NOT NULL
);

CREATE UNIQUE INDEX account_name ON account (name);

CREATE TABLE account_prefix (
    account BIGINT NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    ordinal BIGINT NOT NULL,
    prefix  BYTEA NOT NULL CHECK (length(prefix) = 16),
    len     BIGINT NOT NULL CHECK (len BETWEEN 0 AND 128),
    PRIMARY KEY (account, ordinal)
);

CREATE UNIQUE INDEX account_prefix_once ON account_prefix (prefix, len);

-- Encrypted under the key file (src/secret.rs).
CREATE TABLE credential (
    account BIGINT PRIMARY KEY REFERENCES account (id) ON DELETE CASCADE,
    sealed  BYTEA NOT NULL
);

CREATE TABLE pool (
    id                 BIGINT PRIMARY KEY,
    name               TEXT COLLATE "C" NOT NULL,
    delegated_len      BIGINT CHECK (delegated_len BETWEEN 48 AND 64), -- NULL: address pairs
    prefix             BYTEA NOT NULL CHECK (length(prefix) = 16),
    len                BIGINT NOT NULL CHECK (len BETWEEN 0 AND 128),
    quarantine_seconds BIGINT NOT NULL
);

CREATE UNIQUE INDEX pool_name ON pool (name);

-- holder is the account until the tunnel is a tombstone, and NULL then: the tombstone says who it was
-- (account) even when the account is gone.
CREATE TABLE tunnel (
    id               BIGINT PRIMARY KEY,
    account          BIGINT NOT NULL,
    holder           BIGINT REFERENCES account (id),
    service          TEXT NOT NULL,
    lease            BIGINT NOT NULL,
    stem             TEXT COLLATE "C" NOT NULL,
    unit             BIGINT NOT NULL,
    profile          TEXT NOT NULL CHECK (profile IN ('link', 'host', 'network')),
    local            BYTEA NOT NULL CHECK (length(local) = 4),
    remote           BYTEA NOT NULL CHECK (length(remote) = 4),
    local_port       BIGINT,                                -- NULL: protocol 41
    remote_port      BIGINT,                                -- NULL: learnt
    any_source       BIGINT NOT NULL CHECK (any_source IN (0, 1)),
    client6          BYTEA CHECK (length(client6) = 16),
    server6          BYTEA CHECK (length(server6) = 16),
    mtu              BIGINT NOT NULL,
    state            TEXT NOT NULL CHECK
        (state IN ('pending', 'active', 'orphaned', 'releasing', 'tombstone')),
    state_at         BIGINT NOT NULL,
    created_at       BIGINT NOT NULL,
    revision         BIGINT NOT NULL,
    quarantine_until BIGINT,                                -- of tombstones
    CHECK ((state = 'tombstone') = (holder IS NULL)),
    CHECK ((state = 'tombstone') = (quarantine_until IS NOT NULL)),
    CHECK ((client6 IS NULL) = (server6 IS NULL))
);

CREATE UNIQUE INDEX tunnel_slot ON tunnel (stem, unit) WHERE state <> 'tombstone';
CREATE UNIQUE INDEX tunnel_pair41 ON tunnel (local, remote)
    WHERE state <> 'tombstone' AND local_port IS NULL;
CREATE UNIQUE INDEX tunnel_udp_port ON tunnel (local, local_port)
    WHERE state <> 'tombstone' AND local_port IS NOT NULL;
CREATE UNIQUE INDEX tunnel_client6 ON tunnel (client6)
    WHERE state <> 'tombstone' AND client6 IS NOT NULL;
CREATE UNIQUE INDEX tunnel_server6 ON tunnel (server6)
    WHERE state <> 'tombstone' AND server6 IS NOT NULL;
CREATE INDEX tunnel_holder ON tunnel (holder) WHERE holder IS NOT NULL;
CREATE INDEX tunnel_tombstone ON tunnel (state_at) WHERE state = 'tombstone';

CREATE TABLE tunnel_prefix (
    tunnel  BIGINT NOT NULL REFERENCES tunnel (id) ON DELETE CASCADE,
    ordinal BIGINT NOT NULL,
    prefix  BYTEA NOT NULL CHECK (length(prefix) = 16),
    len     BIGINT NOT NULL CHECK (len BETWEEN 0 AND 128),
    live    BIGINT NOT NULL CHECK (live IN (0, 1)),
    PRIMARY KEY (tunnel, ordinal)
);

CREATE UNIQUE INDEX tunnel_prefix_once ON tunnel_prefix (prefix, len) WHERE live = 1;

CREATE TABLE tunnel_history (
    seq        BIGINT PRIMARY KEY,
    tunnel     BIGINT NOT NULL,
    account    BIGINT NOT NULL,
    at         BIGINT NOT NULL,
    from_state TEXT,
    to_state   TEXT NOT NULL,
    cause      TEXT NOT NULL,
    remote     BYTEA NOT NULL CHECK (length(remote) = 4)
);

CREATE INDEX tunnel_history_tunnel ON tunnel_history (tunnel, seq);

CREATE TABLE change_log (
    seq    BIGINT PRIMARY KEY,
    at     BIGINT NOT NULL,
    change TEXT NOT NULL,
    object BIGINT NOT NULL
);

CREATE TABLE relay (
    name     TEXT COLLATE "C" PRIMARY KEY,
    last_seq BIGINT NOT NULL,
    at       BIGINT NOT NULL
);
