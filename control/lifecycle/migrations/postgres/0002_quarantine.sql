-- Prefixes that were delegated and taken back: nobody gets one before its time is over. That of a
-- tunnel's addresses is in the tunnel's tombstone.
CREATE TABLE quarantine (
    prefix  BYTEA NOT NULL CHECK (length(prefix) = 16),
    len     BIGINT NOT NULL CHECK (len BETWEEN 0 AND 128),
    ends_at BIGINT NOT NULL,
    PRIMARY KEY (prefix, len)
);

CREATE INDEX quarantine_ends_at ON quarantine (ends_at);
