-- A store's lineage: the epoch that it was made with, and one more each time an operator accepted the store as it was,
-- after a backup was put back, say. The newest is the current one. Before it stand also those that came to be in a copy which
-- this store was put in the place of: accepting it settles them, too.
CREATE TABLE epochs (
    number   INTEGER PRIMARY KEY,
    epoch    BLOB    NOT NULL UNIQUE CHECK (length(epoch) = 16),
    -- The newest revision when it began.
    revision INTEGER NOT NULL
) STRICT;

CREATE TABLE accounts (
    number     INTEGER PRIMARY KEY,
    id         BLOB    NOT NULL UNIQUE CHECK (length(id) = 16),
    name       TEXT    NOT NULL UNIQUE,
    suspended  INTEGER NOT NULL CHECK (suspended IN (0, 1)),
    -- All times are milliseconds since the Unix epoch.
    created_at INTEGER NOT NULL,
    created_by TEXT    NOT NULL
) STRICT;

CREATE TABLE keys (
    number      INTEGER PRIMARY KEY,
    id          BLOB    NOT NULL UNIQUE CHECK (length(id) = 16),
    -- BLAKE3 of the secret. Unique for ever: rows are never deleted.
    digest      BLOB    NOT NULL UNIQUE CHECK (length(digest) = 32),
    account     BLOB    NOT NULL REFERENCES accounts (id),
    name        TEXT    NOT NULL,
    environment TEXT    NOT NULL CHECK (environment IN ('production', 'sandbox')),
    hint        TEXT    NOT NULL,
    -- 'full', or names sorted and separated by one space.
    permissions TEXT    NOT NULL,
    ip_enabled  INTEGER NOT NULL CHECK (ip_enabled IN (0, 1)),
    -- Addresses and ranges separated by one space.
    ip_allowed  TEXT    NOT NULL,
    created_at  INTEGER NOT NULL,
    created_by  TEXT    NOT NULL,
    expires_at  INTEGER,
    state       TEXT    NOT NULL CHECK (state IN ('active', 'paused', 'revoked')),
    revoked_at  INTEGER,
    replaces    BLOB    CHECK (length(replaces) = 16),
    replaced_by BLOB    CHECK (length(replaced_by) = 16),
    -- Of the newest change that a decision depends on.
    revision    INTEGER NOT NULL
) STRICT;

CREATE INDEX keys_by_account ON keys (account, id);

CREATE TRIGGER keys_stay BEFORE DELETE ON keys
BEGIN
    SELECT RAISE(ABORT, 'keys are never deleted: a revoked one stays as a tombstone');
END;

CREATE TRIGGER keys_keep_what_they_are BEFORE UPDATE OF id, digest, account, environment, permissions ON keys
BEGIN
    SELECT RAISE(ABORT, 'id, digest, account, environment and permissions of a key never change');
END;

CREATE TRIGGER keys_stay_revoked BEFORE UPDATE ON keys WHEN old.state = 'revoked'
BEGIN
    SELECT RAISE(ABORT, 'a revoked key never changes');
END;

-- What each revision touched. The newest revision of the store is the newest of this table.
CREATE TABLE changes (
    revision INTEGER PRIMARY KEY,
    kind     TEXT    NOT NULL CHECK (kind IN ('key', 'account')),
    subject  BLOB    NOT NULL,
    -- Tells this revision from the one of the same number that another copy of the store took.
    stamp    BLOB    NOT NULL DEFAULT (randomblob(8)) CHECK (length(stamp) = 8)
) STRICT;

CREATE TRIGGER changes_have_no_gap BEFORE INSERT ON changes
WHEN new.revision <> 1 + (SELECT coalesce(max(revision), 0) FROM changes)
BEGIN
    SELECT RAISE(ABORT, 'a revision is the newest one and one');
END;

-- One hash chain for each account, and one of the operator, whose `chain` is empty.
CREATE TABLE audit (
    chain      BLOB    NOT NULL CHECK (length(chain) IN (0, 16)),
    seq        INTEGER NOT NULL,
    at         INTEGER NOT NULL,
    actor_kind TEXT    NOT NULL,
    actor      TEXT    NOT NULL,
    source     TEXT    NOT NULL,
    action     TEXT    NOT NULL,
    subject    TEXT,
    -- The code of the refusal; null if what was tried was done.
    refused    TEXT,
    -- JSON, to be hashed exactly as it is written here.
    before     TEXT,
    after      TEXT,
    previous   BLOB    NOT NULL CHECK (length(previous) = 32),
    hash       BLOB    NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (chain, seq)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER audit_has_no_gap BEFORE INSERT ON audit
WHEN new.seq <> 1 + (SELECT coalesce(max(seq), 0) FROM audit WHERE chain = new.chain)
BEGIN
    SELECT RAISE(ABORT, 'a line of the audit log comes behind the last one');
END;

CREATE TRIGGER audit_never_changes BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'lines of the audit log never change');
END;

CREATE TRIGGER audit_stays BEFORE DELETE ON audit
BEGIN
    SELECT RAISE(ABORT, 'lines of the audit log are never deleted');
END;

-- Running nodes. Not part of the truth: a change here takes no revision.
CREATE TABLE nodes (
    id         TEXT    PRIMARY KEY,
    name       TEXT    NOT NULL,
    version    TEXT    NOT NULL,
    started_at INTEGER NOT NULL,
    last_seen  INTEGER NOT NULL,
    revision   INTEGER NOT NULL,
    -- Null: never.
    lease_ends INTEGER,
    -- The epoch of what it has in service, be it of this store or not; null while it has nothing.
    epoch      BLOB    CHECK (length(epoch) = 16)
) STRICT, WITHOUT ROWID;
