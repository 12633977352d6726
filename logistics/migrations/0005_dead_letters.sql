-- Whom a dead letter concerns, as far as that can be read, so that it can be found.

ALTER TABLE dead_letters ADD COLUMN driver_id bigint, ADD COLUMN order_id uuid;
