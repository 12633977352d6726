-- What deliveries hear of their orders, and what orders hear of their deliveries.

ALTER TABLE deliveries
    -- How far the order is; NULL while nothing was heard of it.
    ADD COLUMN order_status text,
    -- The greatest seq of the order's own events that was heard.
    ADD COLUMN order_seq bigint NOT NULL DEFAULT 0 CHECK (order_seq >= 0),
    -- Most changes touch no index: room for them on the same page.
    SET (fillfactor = 85);

ALTER TABLE delivery_events ADD COLUMN order_status text;

-- `platform::outbox` moves its rows to Redis.
CREATE TABLE outbox (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream  text NOT NULL,
    field   text NOT NULL,
    payload text NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000);

-- What other services are told of a delivery, in the writer's own transaction, which holds the
-- delivery's row: the ids of one delivery's rows are in the order of its versions. The names are
-- those of contracts/src/events.rs and contracts/src/streams.rs.
CREATE FUNCTION tell_delivery() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND (NEW.status, NEW.driver_id) IS NOT DISTINCT FROM
        (OLD.status, OLD.driver_id)
    THEN
        RETURN NULL;
    END IF;
    INSERT INTO outbox (stream, field, payload) VALUES ('deliveries:events', 'event',
        jsonb_strip_nulls(jsonb_build_object(
            'v', 1,
            'type', 'delivery.' || NEW.status,
            'order_id', NEW.order_id,
            'seq', NEW.version,
            'at', to_char(NEW.updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            'driver_id', NEW.driver_id
        ))::text);
    RETURN NULL;
END
$$;
CREATE TRIGGER deliveries_tell AFTER INSERT OR UPDATE OF status, driver_id ON deliveries
    FOR EACH ROW WHEN (NEW.status <> 'confirmed') EXECUTE FUNCTION tell_delivery();
