-- The index of what the repository's signed metadata says. Rebuilt whenever timestamp.json changes; nothing here is
-- the only copy of anything.
CREATE TABLE repository (
    id                INTEGER PRIMARY KEY CHECK (id = 1),
    -- SHA-256 of the timestamp.json that the index was made from, in hex.
    timestamp_sha256  TEXT NOT NULL,
    timestamp_version INTEGER NOT NULL,
    -- Seconds since 1970, as all times here.
    expires           INTEGER NOT NULL
) STRICT;

CREATE TABLE devices (
    codename TEXT PRIMARY KEY,
    vendor   TEXT NOT NULL,
    expires  INTEGER NOT NULL
) STRICT;

CREATE TABLE builds (
    codename TEXT NOT NULL REFERENCES devices (codename),
    channel  TEXT NOT NULL,
    build    TEXT NOT NULL,
    version  TEXT NOT NULL,
    made     INTEGER NOT NULL,
    PRIMARY KEY (codename, channel, build)
) STRICT, WITHOUT ROWID;

CREATE TABLE packages (
    path       TEXT PRIMARY KEY,
    codename   TEXT NOT NULL,
    channel    TEXT NOT NULL,
    build      TEXT NOT NULL,
    -- The build that the package starts from; NULL for a full package.
    from_build TEXT,
    kind       TEXT NOT NULL,
    bytes      INTEGER NOT NULL,
    sha256     TEXT NOT NULL,
    rollout    INTEGER NOT NULL,
    withdrawn  INTEGER NOT NULL,
    FOREIGN KEY (codename, channel, build) REFERENCES builds (codename, channel, build)
) STRICT, WITHOUT ROWID;

CREATE INDEX packages_by_build ON packages (codename, channel, build);
CREATE INDEX packages_by_sha256 ON packages (sha256);

-- How often a download of a target was begun, by day (days since 1970, UTC). Nothing about who.
CREATE TABLE downloads (
    sha256 TEXT NOT NULL,
    day    INTEGER NOT NULL,
    begun  INTEGER NOT NULL,
    PRIMARY KEY (sha256, day)
) STRICT, WITHOUT ROWID;
