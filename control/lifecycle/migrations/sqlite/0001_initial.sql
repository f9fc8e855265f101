-- Times are microseconds since 1970 UTC. Addresses are blobs of 4 or 16 bytes.

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO meta VALUES ('store_id', lower(hex(randomblob(16))));

-- One row. Every commit takes its sequences here, so that they have no gaps and the order of the
-- commits; ids are never used twice, even when nothing is left of what had them.
CREATE TABLE counter (
    id           INTEGER PRIMARY KEY CHECK (id = 1),
    seq          INTEGER NOT NULL,
    next_account INTEGER NOT NULL,
    next_pool    INTEGER NOT NULL,
    next_tunnel  INTEGER NOT NULL
) STRICT;

INSERT INTO counter VALUES (1, 0, 1, 1, 1);

-- The last commit of each writer and what became of it: a commit whose answer was lost is not
-- repeated.
CREATE TABLE writer (
    id      BLOB PRIMARY KEY CHECK (length(id) = 16),
    mark    BLOB NOT NULL,
    outcome BLOB NOT NULL,
    at      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE account (
    id         INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    status     TEXT NOT NULL CHECK (status IN ('active', 'suspended')),
    created_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX account_name ON account (name);

CREATE TABLE account_prefix (
    account INTEGER NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    ordinal INTEGER NOT NULL,
    prefix  BLOB NOT NULL CHECK (length(prefix) = 16),
    len     INTEGER NOT NULL CHECK (len BETWEEN 0 AND 128),
    PRIMARY KEY (account, ordinal)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX account_prefix_once ON account_prefix (prefix, len);

-- Encrypted under the key file (src/secret.rs).
CREATE TABLE credential (
    account INTEGER PRIMARY KEY REFERENCES account (id) ON DELETE CASCADE,
    sealed  BLOB NOT NULL
) STRICT;

CREATE TABLE pool (
    id                 INTEGER PRIMARY KEY,
    name               TEXT NOT NULL,
    delegated_len      INTEGER CHECK (delegated_len BETWEEN 48 AND 64), -- NULL: address pairs
    prefix             BLOB NOT NULL CHECK (length(prefix) = 16),
    len                INTEGER NOT NULL CHECK (len BETWEEN 0 AND 128),
    quarantine_seconds INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX pool_name ON pool (name);

-- holder is the account until the tunnel is a tombstone, and NULL then: the tombstone says who it was
-- (account) even when the account is gone.
CREATE TABLE tunnel (
    id               INTEGER PRIMARY KEY,
    account          INTEGER NOT NULL,
    holder           INTEGER REFERENCES account (id),
    service          TEXT NOT NULL,
    lease            INTEGER NOT NULL,
    stem             TEXT NOT NULL,
    unit             INTEGER NOT NULL,
    profile          TEXT NOT NULL CHECK (profile IN ('link', 'host', 'network')),
    local            BLOB NOT NULL CHECK (length(local) = 4),
    remote           BLOB NOT NULL CHECK (length(remote) = 4),
    local_port       INTEGER,                                -- NULL: protocol 41
    remote_port      INTEGER,                                -- NULL: learnt
    any_source       INTEGER NOT NULL CHECK (any_source IN (0, 1)),
    client6          BLOB CHECK (length(client6) = 16),
    server6          BLOB CHECK (length(server6) = 16),
    mtu              INTEGER NOT NULL,
    state            TEXT NOT NULL CHECK
        (state IN ('pending', 'active', 'orphaned', 'releasing', 'tombstone')),
    state_at         INTEGER NOT NULL,
    created_at       INTEGER NOT NULL,
    revision         INTEGER NOT NULL,
    quarantine_until INTEGER,                                -- of tombstones
    CHECK ((state = 'tombstone') = (holder IS NULL)),
    CHECK ((state = 'tombstone') = (quarantine_until IS NOT NULL)),
    CHECK ((client6 IS NULL) = (server6 IS NULL))
) STRICT;

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
    tunnel  INTEGER NOT NULL REFERENCES tunnel (id) ON DELETE CASCADE,
    ordinal INTEGER NOT NULL,
    prefix  BLOB NOT NULL CHECK (length(prefix) = 16),
    len     INTEGER NOT NULL CHECK (len BETWEEN 0 AND 128),
    live    INTEGER NOT NULL CHECK (live IN (0, 1)),
    PRIMARY KEY (tunnel, ordinal)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX tunnel_prefix_once ON tunnel_prefix (prefix, len) WHERE live = 1;

CREATE TABLE tunnel_history (
    seq        INTEGER PRIMARY KEY,
    tunnel     INTEGER NOT NULL,
    account    INTEGER NOT NULL,
    at         INTEGER NOT NULL,
    from_state TEXT,
    to_state   TEXT NOT NULL,
    cause      TEXT NOT NULL,
    remote     BLOB NOT NULL CHECK (length(remote) = 4)
) STRICT;

CREATE INDEX tunnel_history_tunnel ON tunnel_history (tunnel, seq);

CREATE TABLE change_log (
    seq    INTEGER PRIMARY KEY,
    at     INTEGER NOT NULL,
    change TEXT NOT NULL,
    object INTEGER NOT NULL
) STRICT;

CREATE TABLE relay (
    name     TEXT PRIMARY KEY,
    last_seq INTEGER NOT NULL,
    at       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
