-- Prefixes that were delegated and taken back: nobody gets one before its time is over. That of a
-- tunnel's addresses is in the tunnel's tombstone.
CREATE TABLE quarantine (
    prefix  BLOB NOT NULL CHECK (length(prefix) = 16),
    len     INTEGER NOT NULL CHECK (len BETWEEN 0 AND 128),
    ends_at INTEGER NOT NULL,
    PRIMARY KEY (prefix, len)
) STRICT, WITHOUT ROWID;

CREATE INDEX quarantine_ends_at ON quarantine (ends_at);
