ALTER TABLE observations ADD COLUMN detail text NOT NULL DEFAULT '';
CREATE INDEX observations_at ON observations (at);
