-- Version 1: records with revisions, and the account of changes.
CREATE TABLE records (
    bucket   TEXT NOT NULL,
    key      TEXT NOT NULL,
    value    BLOB NOT NULL,
    revision INTEGER NOT NULL,
    PRIMARY KEY (bucket, key)
) WITHOUT ROWID;

-- One row: the last revision given out, so that a deleted record's revision is never used again.
CREATE TABLE revision (last INTEGER NOT NULL);
INSERT INTO revision (last) VALUES (0);

CREATE TABLE audit (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    at         TEXT NOT NULL,
    actor      TEXT NOT NULL,
    action     TEXT NOT NULL,
    target     TEXT NOT NULL,
    origin     TEXT NOT NULL,
    status     INTEGER NOT NULL,
    code       TEXT NOT NULL,
    request_id TEXT NOT NULL
);
