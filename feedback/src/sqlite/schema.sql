CREATE TABLE feedback_inference (
  id TEXT PRIMARY KEY,
  created INTEGER NOT NULL,
  body TEXT NOT NULL
);
CREATE INDEX feedback_inference_created ON feedback_inference (created);

CREATE TABLE feedback_vote (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  inference TEXT NOT NULL,
  rater TEXT NOT NULL,
  metric TEXT NOT NULL,
  value TEXT NOT NULL,
  tags TEXT NOT NULL,
  created INTEGER NOT NULL,
  adapter TEXT,
  arm TEXT,
  rollout TEXT,
  unit TEXT,
  superseded_by TEXT,
  retracted INTEGER NOT NULL DEFAULT 0
);
-- One current vote of one rater on one metric of one answer.
CREATE UNIQUE INDEX feedback_vote_current ON feedback_vote (inference, rater, metric)
  WHERE superseded_by IS NULL AND retracted = 0;

-- Every id that a caller sent, with the digest of what came with it.
CREATE TABLE feedback_request (
  id TEXT PRIMARY KEY,
  digest TEXT NOT NULL,
  vote TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE feedback_event (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  vote TEXT NOT NULL,
  inference TEXT NOT NULL,
  change TEXT NOT NULL,
  bad_case INTEGER NOT NULL
);

CREATE TABLE feedback_group (
  name TEXT PRIMARY KEY,
  delivered INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE feedback_pending (
  grp TEXT NOT NULL,
  event INTEGER NOT NULL,
  consumer TEXT NOT NULL,
  delivered_at INTEGER NOT NULL,
  deliveries INTEGER NOT NULL,
  PRIMARY KEY (grp, event)
) WITHOUT ROWID;

-- Copies, since the event itself may be trimmed.
CREATE TABLE feedback_dead (
  grp TEXT NOT NULL,
  event INTEGER NOT NULL,
  vote TEXT NOT NULL,
  inference TEXT NOT NULL,
  change TEXT NOT NULL,
  bad_case INTEGER NOT NULL,
  deliveries INTEGER NOT NULL,
  PRIMARY KEY (grp, event)
) WITHOUT ROWID;
