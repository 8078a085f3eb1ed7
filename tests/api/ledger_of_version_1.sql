PRAGMA application_id = 1395804244;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE answer (
    key TEXT PRIMARY KEY REFERENCES request, text TEXT NOT NULL, refused INTEGER NOT NULL, finish_reason TEXT,
    input_tokens INTEGER, output_tokens INTEGER, price REAL, bound REAL, via TEXT NOT NULL, raw TEXT NOT NULL,
    received TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO "answer" VALUES('35ed0c8ee7568d10ff2ee7944c85954e776f0de587dec00f03cc58ba1dff2eee','I cannot.',1,'content_filter',NULL,NULL,NULL,NULL,'online','{}','2026-11-28T15:11:10.695+00:00');
INSERT INTO "answer" VALUES('ff145480a772c7336b89d64a2ff66b81359c34000e9c6b70f7d124db6ee357a6',' raw  Text.
',0,'stop',10,2,0.25,0.5,'online','{"choices": []}','2026-11-28T15:11:10.695+00:00');
CREATE TABLE batch (
    id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, run INTEGER NOT NULL, base_url TEXT NOT NULL,
    model TEXT NOT NULL, layout TEXT NOT NULL, file_id TEXT, remote_id TEXT, state TEXT NOT NULL, made TEXT NOT NULL
);
INSERT INTO "batch" VALUES(1,'b216feff999347b49d886a0ebf275861',1,'https://api.example.com/v1','m','chat','file-0','batch-0','running','2026-11-28T15:11:10.699+00:00');
CREATE TABLE batch_item (
    batch INTEGER NOT NULL REFERENCES batch, key TEXT NOT NULL REFERENCES request, bound REAL,
    PRIMARY KEY (batch, key)
) WITHOUT ROWID;
INSERT INTO "batch_item" VALUES(1,'8ddcccda6b3c064e9a662a4e7c40c15563d255437c56edebc9f9501a7240cb57',NULL);
CREATE TABLE claim (
    key TEXT PRIMARY KEY REFERENCES request, run INTEGER NOT NULL REFERENCES run, bound REAL
) WITHOUT ROWID;
INSERT INTO "claim" VALUES('8dab911054ad25aff7a53818e513cfe2649a0e9fd3cdfa2a58b26e12422a80d7',1,0.0625);
CREATE TABLE fault (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL REFERENCES request, kind TEXT NOT NULL, status INTEGER,
    detail TEXT NOT NULL, bound REAL, via TEXT NOT NULL, met TEXT NOT NULL
);
INSERT INTO "fault" VALUES(1,'b94337b7d617f3ad5745561b0f2d89cae2b1064c6d02947bf130bb2ac0ccc0b5','timeout',NULL,'no reply within 2 s',0.125,'online','2026-11-28T15:11:10.695+00:00');
CREATE TABLE request (
    key TEXT PRIMARY KEY, base_url TEXT NOT NULL, model TEXT NOT NULL, layout TEXT NOT NULL, body TEXT NOT NULL,
    repeat INTEGER NOT NULL, added TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO "request" VALUES('35ed0c8ee7568d10ff2ee7944c85954e776f0de587dec00f03cc58ba1dff2eee','https://api.example.com/v1','m','chat','{"max_tokens":5,"messages":[{"content":"Input: w1\nOutput:","role":"user"}],"model":"m","seed":4,"top_p":0.5}',1,'2026-11-28T15:11:10.695+00:00');
INSERT INTO "request" VALUES('8dab911054ad25aff7a53818e513cfe2649a0e9fd3cdfa2a58b26e12422a80d7','https://api.example.com/v1','m','chat','{"messages":[{"content":"Write 4 sentences.","role":"user"}],"model":"m","temperature":1,"top_p":0.5}',0,'2026-11-28T15:11:10.711+00:00');
INSERT INTO "request" VALUES('8ddcccda6b3c064e9a662a4e7c40c15563d255437c56edebc9f9501a7240cb57','https://api.example.com/v1','m','chat','{"messages":[{"content":"Write 3 sentences.","role":"user"}],"model":"m","temperature":1,"top_p":0.5}',0,'2026-11-28T15:11:10.699+00:00');
INSERT INTO "request" VALUES('b94337b7d617f3ad5745561b0f2d89cae2b1064c6d02947bf130bb2ac0ccc0b5','https://api.example.com/v1','m','completion','{"model":"m","prompt":"Say it.\nInput: w2\nOutput:","stop":["\n"]}',0,'2026-11-28T15:11:10.695+00:00');
INSERT INTO "request" VALUES('ff145480a772c7336b89d64a2ff66b81359c34000e9c6b70f7d124db6ee357a6','https://api.example.com/v1','m','chat','{"max_tokens":5,"messages":[{"content":"Sag es: ä „日本“\nInput: w \"0\"\nOutput:","role":"user"}],"model":"m","seed":0,"temperature":0,"top_p":0.5}',0,'2026-11-28T15:11:10.695+00:00');
CREATE TABLE run (id INTEGER PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, started TEXT NOT NULL);
INSERT INTO "run" VALUES(1,'host',1,'2026-11-28T15:11:10.691+00:00');
CREATE INDEX fault_of ON fault (key);
CREATE INDEX batch_of ON batch_item (key);
COMMIT;
